"""Adjusted microcanonical Monte Carlo: BlackJAX's kernel, its step size adapted as Hamiltonian Monte Carlo's."""

from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp

from lambda_hat.samplers import density as densities
from lambda_hat.samplers.base import Kernel, Transition
from lambda_hat.samplers.hmc import Adjusted

mcmc: Any = blackjax.mcmc  # whose hints say float, int and bool of what are arrays

LENGTH = {True: 1.1, False: 0.75}
"""Mean length of a trajectory over √p, in units of a direction's standard deviation: what `hmc.LENGTH` covers."""


class Tuning(NamedTuple):
    """Numbers that the kernel runs with.

    Attributes:
        step_size: integrator step, a distance in the metric's coordinates.
        trajectory_length: mean distance that a trajectory covers.
        max_steps: most integrator steps of one.
    """

    step_size: jax.Array
    trajectory_length: jax.Array
    max_steps: jax.Array


class Isokinetic(Kernel):
    """A trajectory of isokinetic McLachlan steps from a fresh direction, and a Metropolis test of its end."""

    @property
    def gradients_per_step(self) -> float:
        return 2.0

    def init(self, density, u, key):
        return mcmc.hmc.HMCState(u, *densities.log_density_and_grad(self.loss, density, u))

    def step(self, density, tuning, state, key, shared):
        logp = densities.log_density(self.loss)
        wanted = jax.random.uniform(shared, minval=0.5, maxval=1.5) * tuning.trajectory_length / tuning.step_size
        count = jnp.clip(jnp.round(wanted), 1, tuning.max_steps).astype(jnp.int32)
        state, info = mcmc.adjusted_mclmc.build_kernel()(
            key, state, lambda u: logp(density, u), tuning.step_size, (count,)
        )
        return state, Transition(
            acceptance=info.acceptance_rate,
            energy=info.energy,
            energy_error2=jnp.asarray(jnp.nan),
            diverging=info.is_divergent,
            gradients=count.astype(jnp.float64) * self.gradients_per_step,
        )

    def view(self, density, state):
        return state.position, state.logdensity, state.logdensity_grad


class AMCLMC(Adjusted):
    """Adjusted microcanonical Monte Carlo: MCLMC's dynamics, exact but for the Monte Carlo error.

    With U(u) = −log π(u) in the metric's p coordinates u and a momentum v of length 1, a trajectory follows

        du = v dt;   dv = −(1 − vvᵀ) ∇U(u)/(p−1) dt

    from a fresh direction, by McLachlan's splitting with step ε, two gradients each, and its end is accepted with probability
    min(1, exp(−ΔE)). Lengths are drawn anew for each draw, as in `hmc`, and ε is adapted as there.

    Arguments (of `config.AMCLMC`):
        step_size: ε, a distance in the metric's coordinates; of order p^(1/4) in whitened ones. None = adapted.
        trajectory_length: mean distance that a trajectory covers. None = `LENGTH` √p in whitened coordinates.
        target_acceptance: between 0.6 and 0.95. None = 0.65 in whitened coordinates, 0.9 in plain ones.
        max_steps: most steps of a trajectory.

    Example:
        >>> import lambda_hat, numpy as np
        >>> potential, w0 = lambda w: 0.5 * (w**2).sum(), np.zeros(4)
        >>> est = lambda_hat.estimate(potential=potential, params=w0, n=1000, gamma=1, sampler="amclmc")
        >>> f"{est.llc:.3f} ± {est.mcse:.0e}", est.status
        ('1.986 ± 2e-06', 'ok')

    References:
        Robnik, Cohn-Gordon and Seljak, arXiv 2503.01707.
    """

    @property
    def kernel(self) -> Isokinetic:
        return Isokinetic(self.loss)

    @staticmethod
    def _begin(config, density):
        whitens, root = density.metric.whitens, density.w0.size**0.5
        unit = (1.0 if whitens else float(density.gamma) ** -0.5) * LENGTH[whitens] * root
        return Tuning(
            jnp.asarray(config.step_size or 0.1 * unit, jnp.float64),
            jnp.asarray(config.trajectory_length or unit, jnp.float64),
            jnp.asarray(config.max_steps),
        )


SAMPLER = AMCLMC
