"""The No-U-Turn sampler: BlackJAX's kernel, its step size adapted as Hamiltonian Monte Carlo's."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp

from lambda_hat.samplers import density as densities
from lambda_hat.samplers.base import Kernel, Transition
from lambda_hat.samplers.hmc import Adjusted

mcmc: Any = blackjax.mcmc  # whose hints say float, int and bool of what are arrays

ACCEPTANCE = {True: 0.8, False: 0.9}
"""Mean acceptance aimed at in whitened and in plain coordinates: 0.8 is Stan's, for 0.65 leaves trajectories that are too coarse to
tell where they turn back (Betancourt, Byrne and Girolami, arXiv 1411.6669)."""


class Tuning(NamedTuple):
    """Numbers that the kernel runs with.

    Attributes:
        step_size: leapfrog step, in the metric's coordinates.
    """

    step_size: jax.Array


@dataclass(frozen=True)
class NoUTurn(Kernel):
    """A trajectory that is doubled forwards or backwards until it turns back, and a draw from it.

    Attributes:
        max_doublings: of a trajectory.
    """

    max_doublings: int

    @property
    def gradients_per_step(self) -> float:
        return 1.0

    def init(self, density, u, key):
        return mcmc.hmc.HMCState(u, *densities.log_density_and_grad(self.loss, density, u))

    def step(self, density, tuning, state, key, shared):
        logp = densities.log_density(self.loss)
        state, info = mcmc.nuts.build_kernel()(
            key, state, lambda u: logp(density, u), tuning.step_size, jnp.ones_like(state.position), self.max_doublings
        )
        return state, Transition(
            acceptance=info.acceptance_rate,
            energy=info.energy,
            energy_error2=jnp.asarray(jnp.nan),
            diverging=info.is_divergent,
            gradients=info.num_integration_steps.astype(jnp.float64),
        )

    def view(self, density, state):
        return state.position, state.logdensity, state.logdensity_grad


class NUTS(Adjusted):
    """The No-U-Turn sampler: Hamiltonian Monte Carlo that chooses each trajectory's length.

    A trajectory is doubled, forwards or backwards in time at random, until its ends move towards each other; the draw is taken from
    all of its points by their density. It takes no trajectory length, and more gradients for it: of the leapfrog steps only one is
    kept, and the last doubling often for nothing. `hmc` in whitened coordinates, whose best length is known, is cheaper.

    Arguments (of `config.NUTS`):
        step_size: leapfrog step ε, in the metric's coordinates: 0.1 to 0.5 in whitened ones. None = adapted.
        target_acceptance: between 0.6 and 0.95. None = `ACCEPTANCE`.
        max_doublings: of a trajectory: a draw costs 2^max_doublings gradients at most.

    Example:
        >>> import lambda_hat, numpy as np
        >>> potential, w0 = lambda w: 0.5 * (w**2).sum(), np.zeros(4)
        >>> est = lambda_hat.estimate(potential=potential, params=w0, n=1000, gamma=1, sampler="nuts")
        >>> f"{est.llc:.3f} ± {est.mcse:.0e}", est.status
        ('1.986 ± 2e-06', 'ok')

    References:
        Hoffman and Gelman, J. Mach. Learn. Res. 15:1593 (2014); Betancourt, arXiv 1701.02434.
    """

    acceptance = ACCEPTANCE

    @property
    def kernel(self) -> NoUTurn:
        return NoUTurn(self.loss, self.config.max_doublings)

    @staticmethod
    def _begin(config, density):
        unit = 1.0 if density.metric.whitens else float(density.gamma) ** -0.5
        return Tuning(jnp.asarray(config.step_size or 0.1 * unit, jnp.float64))


SAMPLER = NUTS
