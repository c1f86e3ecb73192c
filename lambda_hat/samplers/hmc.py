"""Hamiltonian Monte Carlo: BlackJAX's kernel, its step size adapted over all chains, its trajectories jittered.

Every draw integrates for a time of its own, uniform between half and one and a half times the mean, the same for all chains: no
resonance with a direction's period, and no chain waits for another.
"""

from functools import partial
from typing import NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.adaptation.step_size import dual_averaging_adaptation

from lambda_hat import parallel
from lambda_hat.samplers import density as densities
from lambda_hat.samplers import loop

LENGTHS = (1.0, 0.5, 0.25)
"""Mean trajectory lengths that are tried, in units of a quarter period of the slowest direction. Directions that are stiffer
in the sampler's coordinates carry most of L_n's variance and turn round sooner."""


class Tuning(NamedTuple):
    """Numbers that the kernel runs with.

    Attributes:
        step_size: leapfrog step, in the metric's coordinates.
        trajectory_length: mean integration time of a trajectory.
        max_steps: most leapfrog steps of one.
    """

    step_size: jax.Array
    trajectory_length: jax.Array
    max_steps: jax.Array


def algorithm(loss):
    """The `loop.Algorithm`."""
    logp = densities.log_density(loss)
    kernel = blackjax.mcmc.hmc.build_kernel()

    def init(density, u, key):
        return blackjax.mcmc.hmc.HMCState(u, *densities.log_density_and_grad(loss, density, u))

    def step(density, tuning, state, key, shared):
        wanted = jax.random.uniform(shared, minval=0.5, maxval=1.5) * tuning.trajectory_length / tuning.step_size
        count = jnp.clip(jnp.round(wanted), 1, tuning.max_steps).astype(jnp.int32)
        state, info = kernel(
            key,
            state,
            lambda u: logp(density, u),
            tuning.step_size,
            jnp.ones_like(state.position),
            count,
        )
        return state, loop.Step(
            acceptance=info.acceptance_rate,
            energy=info.energy,
            energy_error2=jnp.asarray(jnp.nan),
            diverging=info.is_divergent,
            gradients=count.astype(jnp.float64),
        )

    def view(density, state):
        return state.position, state.logdensity, state.logdensity_grad

    return loop.Algorithm(init, 1.0, step, view, 0.0)


def warm_up(config, loss, chains, states, log):
    """Settle the chains, adapt the step size over all of them, and choose the mean length of trajectories.

    The first half of warm-up adapts the step size to the target acceptance. The second half tries trajectories of each of
    `LENGTHS` and keeps the one whose draws decorrelate most for their gradients.

    Returns:
        states, `Tuning`, full-data gradients spent, and what was chosen as a dictionary.
    """
    density = chains.density
    longest = 1.5 if density.metric.scales.size else 0.75 * float(density.gamma) ** -0.5
    trial = 0 if config.trajectory_length else config.warmup // (2 * len(LENGTHS))
    tuning = Tuning(
        jnp.asarray(config.step_size or 0.1 * longest),
        jnp.asarray(config.trajectory_length or (0.5 if trial else 1.0) * longest),
        jnp.asarray(config.max_leapfrog_steps),
    )
    gradients, adapting = 0.0, config.warmup - trial * len(LENGTHS)
    if adapting:
        program = _adaptation_program(algorithm(loss), density, config, adapting)
        states, tuning, spent = program(
            density,
            tuning,
            states,
            jnp.arange(config.chains),
            loop.stream(config.seed, "warmup"),
            loop.stream(config.seed, "tune"),
        )
        gradients += float(jnp.sum(spent))
    if trial > 1:
        tried = []
        for i, share in enumerate(LENGTHS):
            candidate = tuning._replace(trajectory_length=jnp.asarray(share * longest))
            states, out = chains.advance(candidate, states, "warmup", adapting + i * trial, trial)
            gradients += float(np.sum(out.steps.gradients))
            tried.append((candidate, out))
        variances = [np.var([getattr(out.records, name) for _, out in tried]) for name in ("excess", "distance2")]
        tuning = max(tried, key=partial(_efficiency, variances))[0]
    return states, tuning, gradients, {k: float(v) for k, v in tuning._asdict().items()}


def _efficiency(variances, tried):
    """Effective draws for each gradient, of L_n or of |w − w0|² whichever has fewer, from first autocorrelations, times √length.

    The factor is for what a first autocorrelation does not see: slower quantities, which long trajectories serve better.
    """
    candidate, out = tried
    per_draw = []
    for values, variance in zip((out.records.excess, out.records.distance2), variances, strict=True):
        jumps = np.mean(np.diff(values, axis=1) ** 2)
        if not (np.isfinite(jumps) and variance > 0):
            return 0.0
        correlation = np.clip(1 - jumps / (2 * variance), -0.5, 0.999)
        per_draw.append((1 - correlation) / (1 + correlation))
    return min(per_draw) / np.mean(out.steps.gradients) * float(candidate.trajectory_length) ** 0.5


def _adaptation_program(hmc, density, config, draws):
    mesh = parallel.mesh(config.chains)
    large = loop.is_large(density)
    start, update, final = dual_averaging_adaptation(config.target_acceptance)

    def adapt(density, tuning, states, numbers, key, jitter):
        chain_keys = jax.vmap(lambda c: jax.random.fold_in(key, c))(numbers)

        def draw(carry, t):
            states, averaging = carry
            now = tuning._replace(step_size=tuning.step_size if config.step_size else jnp.exp(averaging.log_step_size))
            shared = jax.random.fold_in(jitter, t)

            def one(state, chain_key):
                return loop.transitions(hmc, density, now, state, jax.random.fold_in(chain_key, t), shared, config.thin)

            states, step = loop.over_chains(one, large)(states, chain_keys)
            accepted = jax.lax.pmean(jnp.mean(jnp.nan_to_num(step.acceptance)), parallel.AXIS)
            return (states, update(averaging, accepted)), step.gradients

        (states, averaging), gradients = jax.lax.scan(draw, (states, start(tuning.step_size)), jnp.arange(draws))
        if not config.step_size:
            tuning = tuning._replace(step_size=final(averaging))
        return states, tuning, jnp.sum(gradients, 0)

    split = (False, False, True, True, False, False)
    return jax.jit(parallel.shard(adapt, mesh, split, (True, False, True)))
