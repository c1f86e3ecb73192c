"""The Metropolis-adjusted Langevin algorithm: BlackJAX's kernel, its step size adapted as Hamiltonian Monte Carlo's."""

from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp

from lambda_hat.samplers import density as densities
from lambda_hat.samplers.base import Kernel, Transition
from lambda_hat.samplers.hmc import Adjusted

mcmc: Any = blackjax.mcmc  # whose hints say float, int and bool of what are arrays

ACCEPTANCE = {True: 0.574, False: 0.574}
"""Mean acceptance aimed at: the optimum in many dimensions (Roberts and Rosenthal, J. R. Stat. Soc. B 60:255, 1998)."""


class Tuning(NamedTuple):
    """Numbers that the kernel runs with.

    Attributes:
        step_size: h of a leapfrog step of which this is one, in the metric's coordinates: BlackJAX's is h²/2.
    """

    step_size: jax.Array


class Langevin(Kernel):
    """A step u + h²/2 ∇log π + h N(0, 1), and a Metropolis test."""

    @property
    def gradients_per_step(self) -> float:
        return 1.0

    def init(self, density, u, key):
        return mcmc.mala.MALAState(u, *densities.log_density_and_grad(self.loss, density, u))

    def step(self, density, tuning, state, key, shared):
        logp = densities.log_density(self.loss)
        state, info = mcmc.mala.build_kernel()(key, state, lambda u: logp(density, u), tuning.step_size**2 / 2)
        nan = jnp.asarray(jnp.nan)
        return state, Transition(
            acceptance=info.acceptance_rate,
            energy=nan,
            energy_error2=nan,
            diverging=~jnp.isfinite(state.logdensity),
            gradients=jnp.asarray(self.gradients_per_step),
        )

    def view(self, density, state):
        return state.position, state.logdensity, state.logdensity_grad


class MALA(Adjusted):
    """The Metropolis-adjusted Langevin algorithm: Hamiltonian Monte Carlo whose trajectories are one step long.

        u' = u + h²/2 ∇log π(u) + h N(0, 1),   accepted with probability min(1, π(u')q(u|u') / π(u)q(u'|u))

    It moves by diffusion, and pays for it: the same work makes several times fewer effective draws than `hmc`. It is here to
    compare with, for it is what the steps of SGLD are without minibatches and bias.

    Arguments (of `config.MALA`):
        step_size: h, in the metric's coordinates; about 1.65 p^(-1/6) in whitened ones. None = adapted.
        target_acceptance: None = `ACCEPTANCE`.
        thin: transitions of a draw.

    Example:
        >>> import lambda_hat, numpy as np
        >>> potential, w0 = lambda w: 0.5 * (w**2).sum(), np.zeros(4)
        >>> est = lambda_hat.estimate(potential=potential, params=w0, n=1000, gamma=1, sampler="mala")
        >>> f"{est.llc:.3f} ± {est.mcse:.0e}", est.status
        ('1.986 ± 2e-06', 'ok')

    References:
        Roberts and Tweedie, Bernoulli 2:341 (1996).
    """

    acceptance = ACCEPTANCE

    @property
    def kernel(self) -> Langevin:
        return Langevin(self.loss)

    @staticmethod
    def _begin(config, density):
        unit = 1.0 if density.metric.whitens else float(density.gamma) ** -0.5
        return Tuning(jnp.asarray(config.step_size or 0.1 * unit, jnp.float64))


SAMPLER = MALA
