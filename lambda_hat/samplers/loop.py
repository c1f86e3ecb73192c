"""The loop that drives every sampler: chains laid out over devices, draws in chunks, a few scalars kept of each.

Keys are made of the seed, the stream's name, the chain and the draw: adding a chain, a draw or a chunk never changes another's.
"""

import math
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lambda_hat.config.sizes import most_kept
from lambda_hat.samplers import density as densities
from lambda_hat.samplers.base import Transition
from lambda_hat.system import devices
from lambda_hat.targets import losses, resumable

STREAMS = ("start", "warmup", "draws", "tune", "jitter", "metric", "momentum", "settle")
"""Random streams of a sampler's seed; a new one goes to the end."""

CHUNKS = 40
"""Calls that the recorded draws of a run are split into, but for the first ones, which are shorter; after each it is asked whether
they are enough."""

FIRST_CALL, GROWTH = 25, 0.25
"""Most draws of the first call, and of each further one, over those made: room for many draws does not make a short run longer."""


class Kept(NamedTuple):
    """Positions of a few draws, evenly apart.

    Attributes:
        numbers: which draws they are `[kept]`.
        positions: u of them, in the precision of w0 `[chains, kept, p]`.
    """

    numbers: np.ndarray
    positions: np.ndarray


class Draws(NamedTuple):
    """What a run of the loop leaves, each array `[chains, draws]`.

    Attributes:
        records: `density.Record`.
        steps: `base.Transition`, put together over the transitions of a draw.
        seconds: wall-clock time spent on draws by the end of each one's call `[draws]`.
        params: w − w0 `[chains, draws, p]`, or None.
        last_good: w − w0 before the chunk in which a chain broke down `[chains, p]`; None if none did.
        kept: positions of a few draws; None where none were asked for.
    """

    records: densities.Record
    steps: Transition
    seconds: np.ndarray
    params: np.ndarray | None
    last_good: np.ndarray | None = None
    kept: Kept | None = None


def stream(seed, name):
    """The JAX key of a named stream."""
    return jax.random.fold_in(devices.key(seed), STREAMS.index(name))


def starts(density, curvature_scales, chains, seed, size=0.3):
    """Where chains begin, u `[chains, p]`: w = w0 + size (nβH + γ)^{-1/2} N(0, 1), Laplace draws shrunk to `size`.

    At w0 itself a chain may stick (its gradient is zero), and a full Laplace draw may be far out where L_n is not quadratic.

    Arguments:
        density: in whose coordinates they are.
        curvature_scales: the metric (nβH + γ)^{-1/2}.
        chains: how many.
        seed: of the sampler.
        size: between 0 (w0) and 1 (as far out as the Laplace approximation has the posterior).
    """
    p = density.w0.size
    z = jax.vmap(lambda c: jax.random.normal(jax.random.fold_in(stream(seed, "start"), c), (p,)))(jnp.arange(chains))
    shift = jax.vmap(curvature_scales.apply)(size * z)
    return jax.vmap(density.metric.unapply)(shift)


def transitions(kernel, density, tuning, state, key, shared, thin):
    """`thin` transitions of one chain; returns its state and their `Transition` put together."""

    def one(i, carry):
        state, total = carry
        own, common = jax.random.fold_in(key, i), jax.random.fold_in(shared, i)
        state, step = kernel.step(density, tuning, state, own, common)
        return state, Transition(
            acceptance=total.acceptance + step.acceptance / thin,
            energy=jnp.asarray(step.energy, jnp.float64),
            energy_error2=total.energy_error2 + step.energy_error2 / thin,
            diverging=total.diverging | step.diverging,
            gradients=total.gradients + step.gradients,
        )

    zero = jnp.zeros((), jnp.float64)
    return jax.lax.fori_loop(0, thin, one, (state, Transition(zero, zero, zero, jnp.zeros((), bool), zero)))


class Loop:
    """A sampler on one density: one compiled program, called a chunk of draws at a time, in warm-up and after.

    Draw t of chain c is `thin` transitions of the kernel, transition i with the key

        fold_in(fold_in(fold_in(fold_in(key(seed), stream), c), t), i)

    and a key that all chains share, without the c. Of a draw one `density.Record` is kept, and one `Transition` that sums it up.
    How draws are cut into calls, and where a run was interrupted and resumed, changes no bit of them.

    Arguments:
        kernel: of the sampler.
        density: what it samples.
        config: `config.Sampling`, for chains, draws, seed and save_params.
        thin: transitions of a draw.
        journal: what has been computed so far (`resumable.Steps`).
        keeps: whether positions of a few of the recorded draws are kept.
    """

    def __init__(self, kernel, density, config, thin, journal, keeps=False):
        self.config, self.thin, self.journal = config, thin, journal
        self.size = math.ceil(config.draws / CHUNKS)
        self._kept = most_kept(config.chains, density.w0.size) if keeps else 0
        self.layout = devices.layout(losses.gradient_operations(density.rows, density.w0.size))
        self._place = partial(self.layout.place, length=config.chains)
        self._pieces = resumable.Pieces(self.journal, partial(self._place, spread=True))
        self.move(density)
        self.use(kernel)

    def use(self, kernel):
        """Make transitions with this kernel from now on; its states are like the former's."""
        chains, keeps = self.config.chains, self.config.save_params
        self._chunk = _chunk_program(kernel, self.layout, chains, keeps, self.size, self._kept)
        self._states = _states_program(kernel, self.layout, chains)
        self.kernel = kernel

    def move(self, density):
        """Sample this density from now on."""
        self.density = self._place(density, spread=False)

    def states(self, positions):
        """States of all chains at these positions u `[chains, p]`."""
        fold = partial(jax.random.fold_in, stream(self.config.seed, "momentum"))
        keys = jax.vmap(fold)(jnp.arange(self.config.chains))
        return self._states(self.density, positions, keys)

    def positions(self, states):
        """w − w0 of all chains `[chains, p]`, in NumPy, float64."""
        return np.asarray(_shifts_program(self.layout, self.config.chains)(self.density, states.position), float)

    def advance(self, tuning, states, stream_name, first, count, done=lambda parts: False, stop_broken=False):
        """The draws numbered `first` to `first + count − 1` of a random stream.

        Arguments:
            tuning: the kernel's settings.
            states: of all chains.
            stream_name: which random stream.
            first, count: which draws of it.
            done: called after each chunk with the records and steps of all so far, in a list; where it says so, no more are made.
                Not asked again where the journal goes on.
            stop_broken: whether to make no more after a draw that is not finite.

        Returns:
            the states after them, and `Draws`.
        """
        parts, seconds, made, last_good, broken = [], [], 0, None, False
        numbers, keeps = jnp.arange(self.config.chains), self._kept if stream_name == "draws" else 0
        kept_numbers, positions = [], []
        structure = jax.tree.structure(states)
        key, jitter = stream(self.config.seed, stream_name), stream(self.config.seed, "jitter")

        def call(states, taken):
            start = first + made
            states, out, kept = self._chunk(self.density, tuning, states, numbers, key, jitter, start, taken, self.thin)
            out = jax.tree.map(lambda leaf: np.asarray(leaf)[:, :taken], out)
            return states, (out, np.asarray(kept)[:, : len(_kept_among(start, start + taken, keeps))])

        while made < count and not broken:
            end = min(count, made + min(self.size, max(FIRST_CALL, int(GROWTH * made))))
            while made < end and not broken:
                before, name = states, f"{stream_name} {first + made}"
                states, found = self._pieces.next(name, states, structure, call, end - made, made > 0)
                part, kept = resumable.unpack(found, _PART)
                parts.append(part)
                positions.append(kept)
                seconds += [float(found["seconds"]) + (seconds[-1] if seconds else 0.0)] * int(found["count"])
                kept_numbers += _kept_among(first + made, first + len(seconds), keeps)
                made = len(seconds)
                broken = stop_broken and not np.all(np.isfinite(part[0]))
            if broken and before is not None:
                last_good = self.positions(before)
            if not self.journal.has_next() and done([part[:2] for part in parts]):
                break
        records, steps, params = jax.tree.map(lambda *leaves: np.concatenate(leaves, 1), *parts)
        params = params if self.config.save_params else None
        kept = None
        if keeps:
            chosen = np.asarray(kept_numbers) % _apart(first + made - 1, keeps) == 0
            kept = Kept(np.asarray(kept_numbers)[chosen], np.concatenate(positions, 1)[:, chosen])
        return states, Draws(records, steps, np.asarray(seconds), params, last_good, kept)

    def run(self, tuning, states, enough=lambda records, acceptance: False):
        """The recorded draws: `Draws` and the final states.

        Arguments:
            enough: given the `Record` of all draws so far, of arrays `[chains, draws]`, and their mean acceptance after each
                chunk, whether to make no more.
        """

        def done(parts):
            records = jax.tree.map(lambda *leaves: np.concatenate(leaves, 1), *(part for part, _ in parts))
            return enough(records, np.mean([np.mean(step.acceptance) for _, step in parts]))

        states, draws = self.advance(tuning, states, "draws", 0, self.config.draws, done, stop_broken=True)
        return draws, states


_PART = jax.tree.structure(((densities.Record(*[np.zeros(())] * 4), Transition(*[np.zeros(())] * 5), 0), 0))
"""Of what a chunk's program leaves beside the states."""


def _apart(number, most):
    """How far draws that are kept lie apart around this one: doubled as often as `most` of them have been made."""
    return 1 << max(1, number // (most // 2)).bit_length() - 1


def _kept_among(first, end, most):
    """The numbers of the draws, of those from `first` to `end` − 1, whose positions are kept until further ones are made."""
    return [number for number in range(first, end) if most and number % _apart(number, most) == 0]


def _room(size, most):
    """Most draws of a call that are kept: calls grow with the draws made, and the draws kept lie as much further apart."""
    return min(size, max(FIRST_CALL, int(GROWTH * most) + 1)) if most else 0


@lru_cache(maxsize=8)
def _states_program(kernel, layout, chains):
    def states(density, positions, keys):
        return layout.over(partial(kernel.init, density))(positions, keys)

    return layout.program(states, chains, (False, True, True), True)


@lru_cache(maxsize=8)
def _shifts_program(layout, chains):
    def shifts(density, positions):
        return layout.over(lambda u: density.metric.apply(u.astype(density.w0.dtype)))(positions)

    return layout.program(shifts, chains, (False, True), True)


@lru_cache(maxsize=8)
def _chunk_program(kernel, layout, chains, save_params, size, most_kept):
    room = _room(size, most_kept)

    def chunk(density, tuning, states, numbers, key, jitter, first, count, thin):
        chain_keys = jax.vmap(lambda c: jax.random.fold_in(key, c))(numbers)

        def draw(states, i):
            shared = jax.random.fold_in(jitter, first + i)

            def one(state, chain_key):
                own = jax.random.fold_in(chain_key, first + i)
                state, step = transitions(kernel, density, tuning, state, own, shared, thin)
                u, logp, grad = kernel.view(density, state)
                step = step._replace(gradients=step.gradients + kernel.gradients_of_view)
                params = density.metric.apply(u.astype(density.w0.dtype)) if save_params else jnp.zeros(())
                return state, (densities.record(density, u, logp, grad), step, params)

            return layout.over(one)(states, chain_keys)

        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(draw, states, 0)[1])

        def draw_or_skip(carry, i):
            states, kept, filled = carry
            states, out = jax.lax.cond(i < count, draw, lambda states, i: (states, blank), states, i)
            if room:
                number = jnp.asarray(first + i, jnp.int32)
                periods = jnp.maximum(1, number // (most_kept // 2))
                apart = jnp.left_shift(1, 31 - jax.lax.clz(periods))
                is_kept = (i < count) & (number % apart == 0)
                slot = jnp.where(is_kept, filled, room)
                kept = kept.at[:, slot].set(states.position.astype(kept.dtype), mode="drop")
                filled += is_kept
            return (states, kept, filled), out

        kept = jnp.zeros((len(numbers), room, density.w0.size), density.w0.dtype)
        carry = states, kept, jnp.zeros((), jnp.int32)
        (states, kept, _), out = jax.lax.scan(draw_or_skip, carry, jnp.arange(size))
        return states, jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), out), kept

    split = (False, False, True, True, False, False, False, False, False)
    return layout.program(chunk, chains, split, (True, True, True))
