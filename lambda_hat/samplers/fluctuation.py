"""How the loss of each pair varies over the posterior: what singular fluctuation and WAIC are made of.

With d_i(w) = ℓ_i(w) − ℓ_i(w0), ℓ_i the negative log-likelihood of pair i in nats, over a few draws w of each chain:

    V = Σ_i Var d_i                                  functional variance
    T = (1/n) Σ_i ( ℓ_i(w0) − log E exp(−d_i) )      Bayes training loss

and of each draw what it adds to the two, to first order (their influence functions), from which errors follow as those of a mean:

    Σ_i (d_i − E d_i)² of mean V                     (1/n) Σ_i (1 − exp(−d_i)/E exp(−d_i)) of mean 0

All that is wanted of a pair is known once its losses at all the draws are: pairs are taken a block at a time, and nothing of the
size draws × n is ever kept. Differences from w0 are exact in single precision where losses are not.
"""

import itertools
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lambda_hat.config.sizes import most_kept
from lambda_hat.system import devices
from lambda_hat.targets.mapped import loaded

LOSS_COST = 1 / 3
"""What a pass over the data for losses alone costs, in full gradients, whose way back costs twice the way there."""

BLOCK = 2**21
"""Losses of a block of pairs at all draws together: 16 MiB."""


class Fluctuation(NamedTuple):
    """What a few draws say of the losses of the pairs.

    Attributes:
        variance: V, in nats².
        training_loss: T, in nats.
        variance_terms: what each draw adds to V, of mean V but for what finitely many draws make of it `[chains, kept]`.
        training_terms: what each draw adds to T, of mean 0.
        numbers: which draws they are `[kept]`.
    """

    variance: float
    training_loss: float
    variance_terms: Float[np.ndarray, "chains kept"]
    training_terms: Float[np.ndarray, "chains kept"]
    numbers: np.ndarray


class Sums(NamedTuple):
    """Sums over the pairs of a block, means over all draws written ⟨⟩.

    Attributes:
        squares: Σ_i (d_i − ⟨d_i⟩)² `[chains, kept]`.
        variance_of_means: Σ_i Var ⟨d_i⟩: by so much is ⟨squares⟩ smaller than V.
        training_loss: Σ_i (ℓ_i(w0) − log ⟨exp(−d_i)⟩).
        ratios: Σ_i exp(−d_i)/⟨exp(−d_i)⟩ `[chains, kept]`.
        variance_of_likelihood: Σ_i Var ⟨exp(−d_i)⟩/⟨exp(−d_i)⟩²: by half of it is `training_loss` too large, for log is concave.
    """

    squares: Float[Array | np.ndarray, "chains kept"]
    variance_of_means: Float[Array | np.ndarray, ""]
    training_loss: Float[Array | np.ndarray, ""]
    ratios: Float[Array | np.ndarray, "chains kept"]
    variance_of_likelihood: Float[Array | np.ndarray, ""]


def measure(loss, density, kept, layout, n, journal):
    """The `Fluctuation` over the draws whose positions are kept.

    Arguments:
        loss: `losses.Loss`, whose `constant` is known.
        density: that they are draws of.
        kept: `loop.Kept`, of at least two draws.
        layout: `devices.Layout` of the run.
        n: pairs.
        journal: what has been computed so far.
    """
    found = journal.step("fluctuation", lambda: _sums(loss, density, kept, layout)._asdict())
    sums = Sums(**found)
    constant = loss.constant * int(np.prod(density.rows.y.shape[2:]))
    return Fluctuation(
        variance=float(np.mean(sums.squares) + sums.variance_of_means),
        training_loss=float(constant + (sums.training_loss - sums.variance_of_likelihood / 2) / n),
        variance_terms=np.asarray(sums.squares),
        training_terms=1 - np.asarray(sums.ratios) / n,
        numbers=kept.numbers,
    )


def gradients(chains, kept):
    """What measuring over the draws kept costs, in full gradients."""
    return LOSS_COST * (chains * kept + 1)


def _sums(loss, density, kept, layout):
    chains, count, p = kept.positions.shape
    room, total = max(count, most_kept(chains, p)), density.rows.weight.size
    size = min(density.rows.weight.shape[1], max(64, BLOCK // (chains * room)))
    program = _block_program(loss, layout, chains, size)
    padding = ((0, 0), (0, room - count), (0, 0))  # so that runs of any number of draws share a program
    positions = np.pad(kept.positions, padding)
    density, positions = layout.place(density, chains, False), layout.place(positions, chains, True)
    blocks = [jax.tree.map(np.asarray, program(density, positions, count, first)) for first in range(0, total, size)]
    sums = Sums(*(np.sum(leaves, 0) for leaves in zip(*blocks, strict=True)))
    return sums._replace(squares=sums.squares[:, :count], ratios=sums.ratios[:, :count])


@lru_cache(maxsize=4)
def _block_program(loss, layout, chains, size):
    def block(density, positions, count, first):
        rows = density.rows
        total = rows.weight.size
        begin = jnp.minimum(first, total - size)

        def cut(leaf):
            return jax.lax.dynamic_slice_in_dim(leaf.reshape(total, *leaf.shape[2:]), begin, size)

        x, y, weight = map(loaded, jax.tree.map(cut, rows))
        is_counted = (weight > 0) & (begin + jnp.arange(size) >= first)
        at_centre = loss.examples(density.w0, x, y)

        def of_chain(positions):
            def add(i, differences):
                shift = density.metric.apply(positions[i])
                return differences.at[i].set(loss.examples(density.w0 + shift, x, y) - at_centre)

            return jax.lax.fori_loop(0, count, add, jnp.zeros((len(positions), size), at_centre.dtype))

        return _over_draws(devices.gather(layout.over(of_chain)(positions)), count, at_centre, is_counted)

    return layout.program(block, chains, (False, True, False, False), False)


def _over_draws(differences, count, at_centre, is_counted):
    """`Sums` over the pairs that count.

    Arguments:
        differences: d `[chains, room, pairs]`.
        count: how many draws of each chain they are; the rest of the room is empty.
        at_centre: ℓ_i(w0) `[pairs]`.
        is_counted: which pairs count `[pairs]`.
    """
    d = differences.astype(jnp.float64)
    is_drawn = (jnp.arange(d.shape[1]) < count)[None, :, None]

    def over_draws(values):
        return jnp.sum(jnp.where(is_drawn, values, 0.0), (0, 1), keepdims=True) / (len(d) * count)

    def over_pairs(values):
        return jnp.sum(jnp.where(is_counted, values, 0.0), -1)

    least = jnp.min(jnp.where(is_drawn, d, jnp.inf), (0, 1), keepdims=True)
    likelihood = jnp.exp(least - d)
    mean = over_draws(likelihood)
    ratio = likelihood / mean
    return Sums(
        squares=over_pairs((d - over_draws(d)) ** 2),
        variance_of_means=over_pairs(_variance_of_mean(d, count)),
        training_loss=over_pairs(at_centre.astype(jnp.float64) + (least - jnp.log(mean))[0, 0]),
        ratios=over_pairs(ratio),
        variance_of_likelihood=over_pairs(_variance_of_mean(ratio, count)),
    )


def _variance_of_mean(values, count):
    """Variance of the mean over chains and `count` draws `[chains, room, pairs]`, from the scatter of the halves of the chains."""
    half, number = count // 2, jnp.arange(values.shape[1])[None, :, None]
    ends = [count - 2 * half, count - half, count]
    halves = [(number >= start) & (number < end) for start, end in itertools.pairwise(ends)]
    means = jnp.concatenate([jnp.sum(jnp.where(part, values, 0.0), 1) / half for part in halves])
    return jnp.var(means, 0, ddof=1) / len(means)
