"""Stochastic gradient Langevin dynamics in the ε/2 convention, with diagonal preconditioners and a control variate.

    w ← w − (ε_t/2) ( γ(w−w0) + nβ·drift ) + sqrt(ε_t) N(0, 1)
    none:    ε_t = ε                                              drift = g
    rmsprop: v ← b2 v + (1−b2) g², v_{−1} = 1;  ε_t = ε/(√v̂ + a)  drift = g
    adam:    as rmsprop, and m ← b1 m + (1−b1) g;                 drift = m̂
with g the minibatch gradient of the mean loss, v̂ = v/(1−b2^t), m̂ = m/(1−b1^t) (Hitchcock & Hoogland, arXiv 2507.21449,
App. D.3: the moments see the loss gradient only). BlackJAX's `sgld` has twice this ε. The control variate replaces g by
g(w) − g(w0) + ∇L_n(w0), both on the same batch: its noise vanishes towards w0.
"""

import itertools
import math
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lambda_hat.samplers import density as densities
from lambda_hat.samplers import loop
from lambda_hat.targets import losses

PROBES = 8
"""Random probes of the curvature and of the gradient noise, for each chain."""

POWER_ITERATIONS = 20

THIN = 20
"""Transitions of a draw in warm-up, and the fewest of a recorded one, where they are not typed in."""

RELAXATION = 0.3
"""Step size times transitions of a draw, at least: two draws of L_n are then about a quarter independent."""


SMALLEST_BATCH = 32

STABILIZER = 4.0
"""Stabilizer over the typical gradient. The preconditioner follows the gradient about, which biases λ̂ by more than its step
does: measured on a quadratic with rmsprop, aiming at 2 %, +7.6 % at 1, +4.2 % at 4, +3.4 % at 8."""


class Tuning(NamedTuple):
    """Numbers that the kernel runs with.

    Attributes:
        step_size: ε, in the metric's coordinates.
        stabilizer: a of the preconditioners.
        grad0: ∇L_n(w0) `[p]`, for the control variate.
    """

    step_size: jax.Array
    stabilizer: jax.Array
    grad0: jax.Array


class State(NamedTuple):
    """One chain.

    Attributes:
        position: u, in the metric's coordinates `[p]`.
        first, second: running moments m and v of the loss gradient `[p]` (None without a preconditioner).
        count: transitions made.
    """

    position: jax.Array
    first: jax.Array | None
    second: jax.Array | None
    count: jax.Array


def batch_size(config, n, nbeta):
    """Pairs in a minibatch: as asked, or nβ, where minibatch noise adds about as much bias as discretisation."""
    return config.batch_size or int(min(n, max(1, np.ceil(nbeta))))


def algorithm(config, loss, n, batch):
    """The `loop.Algorithm` for a data set of n pairs and this batch size."""
    return _algorithm(_kernel_settings(config), loss, n, batch)


def _kernel_settings(config):
    """The configuration with all that compiled programs do not depend on taken out."""
    return replace(config, draws=1, warmup=0, thin=1, seed=0, step_size=None, bias_target=0.5, stabilizer=None)


@lru_cache(maxsize=4)
def _algorithm(config, loss, n, batch):
    cost = _gradient_cost(config, loss, n, batch)

    def init(density, u, key):
        first = second = None
        if config.precond != "none":
            first, second = jnp.zeros(u.size, density.w0.dtype), jnp.ones(u.size, density.w0.dtype)
        return State(u, first, second, jnp.zeros((), jnp.int32))

    def step(density, tuning, state, key, shared):
        batch_key, noise_key = jax.random.split(key)
        dtype = density.w0.dtype
        shift = density.metric.apply(state.position.astype(dtype))
        g = _gradient(config, loss, density, tuning, shift, batch_key, n, batch)
        count = state.count + 1
        drift, first, second, eps = g, state.first, state.second, tuning.step_size
        if config.precond != "none":
            b1, b2 = config.first_moment_decay, config.second_moment_decay
            second = b2 * second + (1 - b2) * g**2
            eps = eps / (jnp.sqrt(second / (1 - b2**count)) + tuning.stabilizer)
        if config.precond == "adam":
            first = b1 * first + (1 - b1) * g
            drift = first / (1 - b1**count)
        force = density.metric.apply(density.gamma.astype(dtype) * shift + density.nbeta.astype(dtype) * drift)
        noise = jax.random.normal(noise_key, state.position.shape, dtype)
        u = state.position - eps / 2 * force + jnp.sqrt(eps) * noise
        nan = jnp.asarray(jnp.nan)
        return State(u, first, second, count), loop.Step(nan, nan, nan, ~jnp.all(jnp.isfinite(u)), jnp.asarray(cost))

    def view(density, state):
        return state.position, *densities.log_density_and_grad(loss, density, state.position)

    return loop.Algorithm(init, 0.0, step, view, 1.0)


def _gradient_cost(config, loss, n, batch):
    """Full-data gradients that one stochastic gradient costs."""
    if loss.potential is not None or batch == n:
        return 1.0
    return batch / n * (2 if config.control_variate else 1)


def _gradient(config, loss, density, tuning, shift, key, n, batch):
    """The stochastic gradient of L_n at w0 + shift."""
    if loss.potential is not None or batch == n:
        return losses.value_and_grad(loss, density.rows, density.w0 + shift)[1]
    index = jax.random.randint(key, (batch,), 0, n)
    g = losses.batch_grad(loss, density.rows, density.w0 + shift, index)
    if config.control_variate:
        g = g - losses.batch_grad(loss, density.rows, density.w0, index) + tuning.grad0
    return g


def settle(config, loss, chains, states, draws, log, *, n, batch):
    """Move the chains off their starts, at a step of our own; returns a `loop.Settled`."""
    config = replace(config, step_size=None)
    return _stages(config, loss, chains, states, (0, draws), log, n, batch)


def warm_up(config, loss, chains, states, first, draws, log, *, n, batch):
    """Choose the step size from the measured curvature and gradient noise, and with it the batch and the length of a draw.

    The choice is made at the start, again half way, and at the end.

    Arguments:
        first, draws: which draws of warm-up these are.

    Returns:
        `loop.Settled`.
    """
    started = _choose(config, loss, chains.density, _begin(config, loss, chains, states), first, np.inf, n, batch)
    if draws and (smaller := _cheaper_batch(config, loss, started, batch)) < batch:
        batch = smaller
        chains.use(algorithm(config, loss, n, batch))
    ends = sorted({first, first + draws // 2, first + draws})
    settled = _stages(config, loss, chains, states, ends, log, n, batch)
    settled = settled._replace(gradients=settled.gradients + started.gradients)
    settled = _choose(config, loss, chains.density, settled, ends[-1], np.inf, n, batch)
    step_size = float(settled.tuning.step_size)
    if config.thin is None and chains.density.metric.scales.size:  # the slowest direction relaxes at rate ε/2
        chains.thin = max(THIN, int(np.ceil(RELAXATION / step_size)))
    chosen = {"step_size": step_size, "batch_size": batch, "thin": chains.thin} | settled.chosen
    if config.precond != "none":
        chosen["stabilizer"] = float(settled.tuning.stabilizer)
    return settled._replace(chosen=chosen)


def _begin(config, loss, chains, states):
    """Nothing chosen yet but what is typed in."""
    grad0 = losses.evaluate(loss, chains.density.rows, chains.density.w0)[1]
    tuning = Tuning(
        jnp.asarray(config.step_size or 0.0, jnp.float64), jnp.asarray(config.stabilizer or 0.0, jnp.float64), grad0
    )
    return loop.Settled(states, tuning, 1.0, {})


def _cheaper_batch(config, loss, chosen, batch):
    """The batch that suffices where stability holds the step far below what the bias would allow.

    The gradient noise may then be as much larger, and smaller batches make each step cheaper.
    """
    if config.batch_size is not None or config.step_size is not None or loss.potential is not None:
        return batch
    allowed = 4 * config.bias_target / float(chosen.tuning.step_size) - chosen.chosen["typical_curvature"]
    noise = chosen.chosen["gradient_noise"]
    return batch if allowed <= 4 * noise else min(batch, max(SMALLEST_BATCH, math.ceil(batch * noise / allowed)))


def _stages(config, loss, chains, states, ends, log, n, batch):
    """The draws of warm-up between these ends, the step chosen before each stage; one that breaks down is repeated with a
    quarter of the step."""
    settled = _begin(config, loss, chains, states)
    for first, last in itertools.pairwise(ends):
        ceiling = np.inf
        while True:
            chosen = _choose(config, loss, chains.density, settled, first, ceiling, n, batch)
            states, out = chains.advance(chosen.tuning, settled.states, "warmup", first, last - first)
            gradients = chosen.gradients + float(np.sum(out.steps.gradients))
            sound = bool(jnp.all(jnp.isfinite(states.position)))
            settled = chosen._replace(
                states=states if sound or config.step_size else settled.states, gradients=gradients
            )
            if sound or config.step_size or ceiling < 1e-12:
                break
            ceiling = float(chosen.tuning.step_size) / 4
            log(f"SGLD: step {4 * ceiling:.3g} broke down in warm-up; trying {ceiling:.3g}")
    return settled


def _choose(config, loss, density, settled, number, ceiling, n, batch):
    """The step size, and the preconditioner's stabilizer, where they are not typed in: a `loop.Settled` with them.

    `predicted_bias` is the share of λ̂ by which it is too large, to first order in the step (see `_measure`).
    """
    states, tuning, gradients, measured = settled
    keys = jax.random.split(jax.random.fold_in(loop.stream(config.seed, "tune"), number), config.chains)
    cost = _gradient_cost(config, loss, n, batch)
    if config.precond != "none" and config.stabilizer is None:
        typical = _typical_gradient(config, loss, density, tuning, states, keys, n, batch)
        tuning = tuning._replace(stabilizer=STABILIZER * typical)
        gradients += config.chains * PROBES * cost
    sizes, curvatures, noises = _measuring_program(_kernel_settings(config), loss, n, batch)(
        density, tuning, states, keys
    )
    largest, typical, noise = float(jnp.max(sizes)), float(jnp.mean(curvatures)), float(jnp.mean(noises))
    gradients += config.chains * (2 * POWER_ITERATIONS + 1 + PROBES * (2 + cost))
    if config.precond == "adam":  # the drift lags behind by b1/(1−b1) steps, which heats by as many εA/2
        typical *= (1 + config.first_moment_decay) / (1 - config.first_moment_decay)
    if config.step_size is None:
        step_size = min(4 * config.bias_target / max(typical + noise, 1e-300), 1 / largest, ceiling)
        tuning = tuning._replace(step_size=jnp.asarray(step_size, jnp.float64))
    measured = {
        "predicted_bias": float(tuning.step_size) / 4 * (typical + noise),
        "predicted_bias_is_a_bound": bool(densities.is_degenerate(density)),
        "largest_curvature": largest,
        "typical_curvature": typical,
        "gradient_noise": noise,
    }
    return loop.Settled(states, tuning, gradients, measured)


@lru_cache(maxsize=4)
def _measuring_program(config, loss, n, batch):
    return jax.jit(partial(_measure, config, loss, n, batch))


def _measure(config, loss, n, batch, density, tuning, states, keys):
    """What decides the bias, at the chains' positions.

    To first order in ε the stationary covariance exceeds A^{-1} by (ε/4)(P + P C A^{-1}), with A the curvature of the
    potential, P the preconditioner and C the covariance of the stochastic force; λ̂ = ½ tr(nβH Σ) sees of that the share
    (ε/4) [tr(P nβH) + tr(P C R)] / tr R, where R = nβH A^{-1}, taken at w0.

    Returns:
        for each chain: the largest eigenvalue of P^½ A P^½ (stability), tr(P nβH)/tr R, and tr(P C R)/tr R.
    """

    def one(state, key):
        dtype = density.w0.dtype
        shift = density.metric.apply(state.position.astype(dtype))
        w = density.w0 + shift
        root = jnp.ones_like(shift)
        if config.precond != "none":
            b2 = config.second_moment_decay
            settled = state.second / (1 - b2 ** jnp.maximum(state.count, 1))
            second = jnp.where(state.count > 0, settled, (tuning.stabilizer / STABILIZER) ** 2)
            root = (jnp.sqrt(second) + tuning.stabilizer).astype(dtype) ** -0.5
        nbeta, gamma = density.nbeta.astype(dtype), density.gamma.astype(dtype)

        def data_curvature(v):
            product = losses.hessian_product(loss, density.rows, w, density.metric.apply(root * v))
            return nbeta * root * density.metric.apply(product)

        def power(v, _):
            image = data_curvature(v) + gamma * root * density.metric.apply(density.metric.apply(root * v))
            size = jnp.linalg.norm(image)
            return image / size, size

        start = jax.random.normal(key, shift.shape, dtype)
        _, sizes = jax.lax.scan(power, start / jnp.linalg.norm(start), None, length=POWER_ITERATIONS)
        full = losses.value_and_grad(loss, density.rows, w)[1]

        def probe(key):
            z = jax.random.rademacher(key, shift.shape, dtype)
            noise = _gradient(config, loss, density, tuning, shift, key, n, batch) - full
            noise = nbeta * root * density.metric.apply(noise)
            return z @ data_curvature(z), densities.shares_form(density, noise)

        curvature, noise = jax.tree.map(jnp.mean, jax.lax.map(probe, jax.random.split(key, PROBES)))
        # where the Hessian at w0 vanishes there are no shares to weigh by: the largest curvature then bounds the bias
        degenerate = densities.is_degenerate(density)
        total = jnp.where(degenerate, 1, densities.shares_trace(density))
        return sizes[-1], jnp.where(degenerate, sizes[-1], jnp.maximum(curvature, 0) / total), noise / total

    return jax.lax.map(lambda pair: one(*pair), (states, keys))


def _typical_gradient(config, loss, density, tuning, states, keys, n, batch):
    """Root mean square over parameters, chains and batches of the stochastic loss gradient."""

    def one(pair):
        state, key = pair
        shift = density.metric.apply(state.position.astype(density.w0.dtype))
        square = jax.lax.map(
            lambda k: jnp.mean(_gradient(config, loss, density, tuning, shift, k, n, batch) ** 2),
            jax.random.split(key, PROBES),
        )
        return jnp.mean(square)

    return jnp.sqrt(jnp.mean(jax.jit(lambda *pair: jax.lax.map(one, pair))(states, keys))).astype(jnp.float64)
