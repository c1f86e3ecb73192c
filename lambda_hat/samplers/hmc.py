"""Hamiltonian Monte Carlo: BlackJAX's kernel, its step size adapted over all chains, its trajectories jittered.

Every draw integrates for a time of its own, uniform between half and one and a half times the mean, the same for all chains: no
resonance with a direction's period, and no chain waits for another.
"""

from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.adaptation.step_size import dual_averaging_adaptation

from lambda_hat.samplers import density as densities
from lambda_hat.samplers import loop
from lambda_hat.samplers.base import Bias
from lambda_hat.store import checkpoint
from lambda_hat.system import parallel

LENGTHS = {True: (1.1,), False: (0.75, 0.375, 0.1875)}
"""Mean trajectory lengths that are tried in whitened and in plain coordinates, in units of the time in which the slowest direction
turns by a radian. Stiffer ones carry most of L_n's variance and turn round sooner. Measured in whitened coordinates: 1 makes the
most effective draws for the work with 433 and with 9921 parameters, twice as many as 0.5 and 2.5 on the latter."""

MOST_SHORTENED = 6
"""Times that a step is halved whose trajectories still diverge: acceptance is an average, and a posterior that is narrow in
places only (a crossing's arms) would keep the chains out of them."""


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


@lru_cache(maxsize=4)
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


def settle(config, loss, chains, states, draws, log):
    """Move the chains off their starts, at settings of our own; returns a `loop.Settled`."""
    config = replace(config, step_size=None, trajectory_length=None)
    lengths = LENGTHS[chains.density.metric.whitens]
    start = _start(config, chains.density, lengths[len(lengths) // 2])
    return _adapt(config, loss, chains, states, start, 0, draws)


def warm_up(config, loss, chains, states, first, draws, log):
    """Adapt the step size over all chains, and choose the mean length of trajectories.

    The larger part adapts the step size to the target acceptance. What is left tries trajectories of each of `LENGTHS`
    and keeps the one whose draws decorrelate most for their gradients.

    Arguments:
        first, draws: which draws of warm-up these are.

    Returns:
        `loop.Settled`.
    """
    lengths = LENGTHS[chains.density.metric.whitens]
    trial = 0 if config.trajectory_length else draws // 6
    trial = trial if trial > 1 else 0
    adapting = draws - trial * len(lengths)
    start = _start(config, chains.density, lengths[len(lengths) // 2 if trial else 0])
    found = _adapt(config, loss, chains, states, start, first, adapting)
    states, tuning, gradients, tried = *found[:3], []
    for i, share in enumerate(lengths if trial else ()):
        candidate = tuning._replace(trajectory_length=jnp.asarray(share * _radian(chains.density), jnp.float64))
        states, out = chains.advance(candidate, states, "warmup", first + adapting + i * trial, trial)
        gradients += float(np.sum(out.steps.gradients))
        tried.append((candidate, out))
    shortened = 0
    if tried:
        variances = [np.nanvar([getattr(out.records, name) for _, out in tried]) for name in ("excess", "distance2")]
        tuning, out = max(tried, key=partial(_efficiency, variances))
        while np.any(out.steps.diverging) and shortened < MOST_SHORTENED and not config.step_size:
            shortened += 1
            tuning = tuning._replace(step_size=tuning.step_size / 2)
            log(
                f"HMC: trajectories diverge where the posterior is narrow; step shortened to {float(tuning.step_size):.3g}"
            )
            states, out = chains.advance(tuning, states, "warmup", first + draws + shortened * trial, trial)
            gradients += float(np.sum(out.steps.gradients))
    chosen = {k: float(v) for k, v in tuning._asdict().items()} | {"shortened": shortened}
    return loop.Settled(states, tuning, gradients, chosen)


def bias(chosen):
    """None: the Metropolis test removes what the integrator errs by."""
    return Bias("none")


def _radian(density):
    """Time in which a direction without curvature turns by a radian."""
    return 1.0 if density.metric.whitens else float(density.gamma) ** -0.5


def _start(config, density, length):
    """Settings before adaptation, with trajectories of this length in `_radian`s."""
    radian = _radian(density)
    return Tuning(
        jnp.asarray(config.step_size or 0.1 * LENGTHS[density.metric.whitens][0] * radian, jnp.float64),
        jnp.asarray(config.trajectory_length or length * radian, jnp.float64),
        jnp.asarray(config.max_leapfrog_steps),
    )


def _adapt(config, loss, chains, states, tuning, first, draws):
    """Dual averaging of the step size over the draws of warm-up from `first` on."""
    fixed = bool(config.step_size)
    program = _adaptation_program(loss, config.chains, config.target_acceptance, fixed, loop.is_large(chains.density))
    begin, _, final = dual_averaging_adaptation(config.target_acceptance)
    numbers = jnp.arange(config.chains)
    keys = loop.stream(config.seed, "warmup"), loop.stream(config.seed, "tune")
    averaging = begin(tuning.step_size)  # weakly typed, which the program's own is not: it would be compiled twice
    averaging = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), averaging)
    carry, done = (states, averaging, jnp.zeros(numbers.shape, jnp.float64)), 0
    structure = jax.tree.structure(carry)
    pieces = checkpoint.Pieces(
        chains.journal, lambda carry: tuple(parallel.place(part, chains.mesh, i != 1) for i, part in enumerate(carry))
    )

    def call(carry, count):
        start = first + done
        return program(chains.density, tuning, *carry, numbers, *keys, start, start + count, chains.thin), ()

    while done < draws:
        carry, found = pieces.next(f"adapt {first + done}", carry, structure, call, draws - done, done > 0)
        done += int(found["count"])
    states, averaging, spent = carry
    if not fixed and draws:
        tuning = tuning._replace(step_size=jnp.asarray(final(averaging)))
    return loop.Settled(states, tuning, float(np.sum(spent)), {k: float(v) for k, v in tuning._asdict().items()})


def _efficiency(variances, tried):
    """Effective draws for each gradient, of L_n or of |w − w0|² whichever has fewer, from first autocorrelations, times √length.

    The factor is for what a first autocorrelation does not see: slower quantities, which long trajectories serve better.
    """
    candidate, out = tried
    per_draw = []
    for values, variance in zip((out.records.excess, out.records.distance2), variances, strict=True):
        jumps = np.mean(np.diff(np.where(np.isfinite(values), values, np.nan), axis=1) ** 2)
        if not (np.isfinite(jumps) and variance > 0):
            return 0.0
        correlation = np.clip(1 - jumps / (2 * variance), -0.5, 0.999)
        per_draw.append((1 - correlation) / (1 + correlation))
    return min(per_draw) / np.mean(out.steps.gradients) * float(candidate.trajectory_length) ** 0.5


@lru_cache(maxsize=4)
def _adaptation_program(loss, chains, target_acceptance, fixed, large):
    hmc = algorithm(loss)
    mesh = parallel.mesh(chains)
    _, update, _ = dual_averaging_adaptation(target_acceptance)

    def adapt(density, tuning, states, averaging, gradients, numbers, key, jitter, first, last, thin):
        chain_keys = jax.vmap(lambda c: jax.random.fold_in(key, c))(numbers)

        def draw(t, carry):
            states, averaging, gradients = carry
            now = tuning._replace(step_size=tuning.step_size if fixed else jnp.exp(averaging.log_step_size))
            shared = jax.random.fold_in(jitter, t)

            def one(state, chain_key):
                return loop.transitions(hmc, density, now, state, jax.random.fold_in(chain_key, t), shared, thin)

            states, step = loop.over_chains(one, large)(states, chain_keys)
            accepted = jax.lax.pmean(jnp.mean(jnp.nan_to_num(step.acceptance)), parallel.AXIS)
            return states, update(averaging, accepted), gradients + step.gradients

        return jax.lax.fori_loop(first, last, draw, (states, averaging, gradients))

    split = (False, False, True, False, True, True, False, False, False, False, False)
    return jax.jit(parallel.shard(adapt, mesh, split, (True, False, True)))
