"""Microcanonical Langevin Monte Carlo: BlackJAX's kernel and tuner, on every chain, pooled and guarded."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.adaptation.mclmc_adaptation import MCLMCAdaptationState, mclmc_find_L_and_step_size

from lambda_hat.samplers import density as densities
from lambda_hat.samplers import loop
from lambda_hat.samplers.base import Bias, Kernel, MarkovSampler, Transition, Tuned
from lambda_hat.targets import resumable

mcmc: Any = blackjax.mcmc  # whose hints say float, int and bool of what are arrays

TRIAL_DRAWS = 10
"""Most draws of each chain on which a tuned setting is tried: a third of the others at most."""

TOLERATED = 3.0
"""A trial passes if its energy variance is below this many times the target."""

SHORTER = 0.7
"""Factor on the step size after a trial that fails."""

LONGEST_STEP = 0.25
"""Largest tuned step over L: in few dimensions the energy error alone would allow a step as long as L, and bias λ̂ by 2 %."""


class Tuning(NamedTuple):
    """Numbers that the kernel runs with.

    Attributes:
        step_size: integrator step, in the metric's coordinates.
        decoherence_length: distance over which the momentum is forgotten.
    """

    step_size: jax.Array
    decoherence_length: jax.Array


class IsokineticLangevin(Kernel):
    """An isokinetic McLachlan step between two partial refreshments of the momentum's direction."""

    @property
    def gradients_per_step(self) -> float:
        return 2.0

    def init(self, density, u, key):
        logp = densities.log_density(self.loss)
        return mcmc.mclmc.init(u, lambda u: logp(density, u), key)

    def step(self, density, tuning, state, key, shared):
        logp = densities.log_density(self.loss)
        state, info = mcmc.mclmc.build_kernel()(
            key,
            state,
            lambda u: logp(density, u),
            jnp.ones_like(state.position),
            tuning.decoherence_length,
            tuning.step_size,
        )
        nan = jnp.asarray(jnp.nan)
        return state, Transition(
            acceptance=nan,
            energy=nan,
            energy_error2=info.energy_change**2,
            diverging=~info.nonans,
            gradients=jnp.asarray(self.gradients_per_step),
        )

    def view(self, density, state):
        return state.position, state.logdensity, state.logdensity_grad


class MCLMC(MarkovSampler):
    """Microcanonical Langevin Monte Carlo: no Metropolis test, so the step leaves a bias, which is kept small and measured.

    With U(u) = −log π(u) in the metric's p coordinates u and a momentum v of length 1, the chain follows

        du = v dt;   dv = −(1 − vvᵀ) ∇U(u)/(p−1) dt + √(2/(Lp)) (1 − vvᵀ) dW

    by McLachlan's splitting with step ε, two gradients each. The energy is conserved but for discretisation: the variance of its
    error a step and dimension is what the step is tuned to. What that is worth in λ̂ depends on the posterior, and is measured by
    the draws, through the residual of Stein's identity.

    Warm-up runs BlackJAX's tuner on every chain and pools L (the mean) and ε (the geometric mean, at most `LONGEST_STEP`·L). The
    tuner is started from settings of ours: with its own it may wreck the state without a word (λ̂ of 1e8). The pooled setting is
    believed only if trial draws keep the energy error near its target; else ε is shortened.

    Arguments (of `config.MCLMC`):
        step_size: ε, in the metric's coordinates; of order √p/10 in whitened ones. None = tuned.
        decoherence_length: L, the distance over which the momentum is forgotten; of order √p in whitened ones. None = tuned.
        energy_variance: of the energy error a step and dimension; 1e-4 to 1e-3: λ̂'s bias grows with it.
        thin: transitions of a draw.

    Example:
        >>> import lambda_hat, numpy as np
        >>> potential, w0 = lambda w: 0.5 * (w**2).sum(), np.zeros(4)
        >>> est = lambda_hat.estimate(potential=potential, params=w0, n=1000, gamma=1, sampler="mclmc")
        >>> f"{est.llc:.3f} ± {est.mcse:.0e}", est.status
        ('1.986 ± 2e-06', 'ok')
        >>> est.summary.error.bias_kind
        'measured'

    References:
        Robnik, De Luca, Silverstein and Seljak, J. Mach. Learn. Res. 24:311 (2023); Robnik and Seljak, arXiv 2303.18221.
        McLachlan, SIAM J. Sci. Comput. 16:151 (1995).
    """

    @property
    def kernel(self) -> IsokineticLangevin:
        return IsokineticLangevin(self.loss)

    def settle(self, chains, states, draws, log):
        config = replace(self.config, step_size=None, decoherence_length=None)
        return _trials(config, chains, states, _start(config, chains.density), "settle", 0, draws, log)

    def tune(self, chains, states, first, draws, log):
        """Tune L and the step size on each chain, pool them, and try the pooled setting."""
        config, tuning = self.config, _start(self.config, chains.density)
        if not draws:
            return Tuned(states, tuning, 0.0, {k: float(v) for k, v in tuning._asdict().items()})
        spent = 0.0
        if config.step_size is None or config.decoherence_length is None:
            found, states, spent = _tune(config, chains, states, tuning, draws * chains.thin // 2)
            tuning = Tuning(
                tuning.step_size if config.step_size else found.step_size,
                tuning.decoherence_length if config.decoherence_length else found.decoherence_length,
            )
        tried = _trials(config, chains, states, tuning, "warmup", first, min(TRIAL_DRAWS, max(1, draws // 3)), log)
        return tried._replace(gradients=tried.gradients + spent)

    def bias(self, chosen: Mapping[str, Any]) -> Bias:
        """Measured: what the energy error is worth in λ̂ depends on the posterior."""
        return Bias("measured")


SAMPLER = MCLMC


def _start(config, density):
    root = density.w0.size**0.5
    return Tuning(
        jnp.asarray(config.step_size or 0.05 * root, jnp.float64),
        jnp.asarray(config.decoherence_length or root, jnp.float64),
    )


def _trials(config, chains, states, tuning, stream, first, draws, log):
    """Draws at this setting, with shorter and shorter steps until the energy error is near its target."""
    p, gradients, retries, began = chains.density.w0.size, 0.0, 0, states
    while True:
        tried, out = chains.advance(tuning, states, stream, first + draws * retries, draws)
        gradients += float(np.sum(out.steps.gradients))
        energy_variance = float(np.mean(out.steps.energy_error2)) / p
        sound = np.isfinite(energy_variance) and not np.any(out.steps.diverging)
        if (sound and energy_variance < TOLERATED * config.energy_variance) or config.step_size or retries == 8:
            states = tried if sound else states
            break
        retries += 1
        log(
            f"MCLMC: step {float(tuning.step_size):.3g} gives an energy variance of {energy_variance:.2g} a dimension, "
            f"wanted {config.energy_variance:.2g}; shortened"
        )
        tuning = tuning._replace(step_size=tuning.step_size * SHORTER)
        states = states if sound else began
    chosen = {k: float(v) for k, v in tuning._asdict().items()}
    return Tuned(states, tuning, gradients, chosen | {"energy_variance": energy_variance, "retries": retries})


def _tune(config, chains, states, tuning, steps):
    """BlackJAX's tuner on every chain; the pooled setting, the settled states and the cost."""
    program = _tuning_program(chains.kernel.loss, chains.layout, config.chains, config.energy_variance, steps)
    numbers, key = jnp.arange(config.chains), loop.stream(config.seed, "tune")
    found = chains.journal.step("tune", lambda: resumable.pack(program(chains.density, tuning, states, numbers, key)))
    settled, step_sizes, lengths = resumable.unpack(found, jax.tree.structure((states, 0, 0)))
    good = jnp.isfinite(step_sizes) & (step_sizes > 0) & jnp.isfinite(lengths) & (lengths > 0)
    good &= jnp.isfinite(settled.logdensity)
    spent = chains.kernel.gradients_per_step * config.chains * 2 * round(0.4 * steps)
    if not bool(jnp.any(good)):
        return tuning, states, spent

    def restore(new, old):
        return jnp.where(good.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    length = jnp.mean(lengths, where=good)
    step_size = jnp.minimum(jnp.exp(jnp.mean(jnp.log(step_sizes), where=good)), LONGEST_STEP * length)
    return Tuning(step_size, length), jax.tree.map(restore, settled, states), spent


@lru_cache(maxsize=4)
def _tuning_program(loss, layout, chains, energy_variance, steps):
    logp = densities.log_density(loss)
    kernel = mcmc.mclmc.build_kernel()

    def one(density, tuning, state, key):
        p = density.w0.size
        ones: Any = jnp.ones(p)  # the hint says float
        start = MCLMCAdaptationState(tuning.decoherence_length, tuning.step_size, ones)
        state, found, _ = mclmc_find_L_and_step_size(
            kernel,
            steps,
            state,
            key,
            lambda u: logp(density, u),
            frac_tune1=0.4,
            frac_tune2=0.4,
            frac_tune3=0.0,
            desired_energy_var=energy_variance,
            diagonal_preconditioning=False,
            params=start,
        )
        return state, found.step_size, found.L

    def all_chains(density, tuning, states, numbers, key):
        keys = jax.vmap(lambda c: jax.random.fold_in(key, c))(numbers)
        return layout.over(partial(one, density, tuning))(states, keys)

    split = (False, False, True, True, False)
    return layout.program(all_chains, chains, split, (True, True, True))
