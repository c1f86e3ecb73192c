"""Losses: what L_n is the mean of, and its value, gradient and Hessian products over the full data, in chunks.

Data are arguments of the compiled programs, never constants in them: targets that differ in numbers only share one
program. Chunks keep activations in the cache and bound memory; the sum of the loss over chunks is in float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from lambda_hat.system import devices
from lambda_hat.targets.mapped import AT_ONCE, File, Mapped, loaded, stays_in_file

CHUNK_BYTES = 2**17
"""Activations of the widest layer that one chunk of rows should fill, small enough to stay in a core's cache."""

CACHED_WEIGHTS = 2**18
"""Bytes of all weights that stay in a core's cache with a chunk's activations. Larger ones are read, and their gradient is read and
written, from memory for each chunk: then chunks are of ROWS rows, which share that."""

ROWS = 512
"""Rows of a chunk where the weights are in memory. Measured on one core, the gradient's rate over that of the fastest chunk, at 64,
256, 512 and 2048 rows: 0.72, 0.92, 0.95 and 0.93 for 1e6 weights; at 64, 256, 512 and 1024 rows 0.69, 0.95, 0.93 and 1 for 1e7."""

MOST_CHUNK_BYTES = 2**23
"""Of the widest layer's activations, at those rows. Networks that use a weight in many places of one example are wider than that;
their weights' share of the work is small."""

GPU_CHUNK_SHARE = 1 / 64
"""The part of a GPU's memory that the widest layer's activations take, of all chains together: some tens of such arrays are alive.
The larger its matrices the faster it is: of the rate of a product 0.42, 0.70 and 0.78 with chunks of 1, 4 and 32 MiB of each of
four chains, for 1e6 weights on an H200."""


class Rows(NamedTuple):
    """The data set in one precision, padded with rows of weight zero to whole chunks.

    Attributes:
        x: inputs `[chunks, rows, …]`; `Mapped` where they stay in their file.
        y: labels `[chunks, rows, …]`, or class numbers `[chunks, rows, …]`; like x.
        weight: 1/n for a pair, 0 for padding, `[chunks, rows]`.
    """

    x: Array | Mapped
    y: Array | Mapped
    weight: Array


class Loss(NamedTuple):
    """L_n as a function of the flat parameter vector w `[p]`.

    Attributes:
        outputs: w, x `[b, d]` → the network's outputs `[b, d_out]`; None for an analytic model.
        pair: outputs, y `[b, …]` → loss of each pair `[b]`; None for an analytic model.
        potential: w → L(w) of an analytic model; None for a network.
        unravel: w → the model's parameters.
        scale: what brings the loss to ½ squared error (σ² for nll), so that a learning rate means the same at every σ.
        constant: what a pair's loss lacks of its negative log-likelihood, for each number of its label: ½ log 2πσ² of nll, 0 of
            cross-entropy and of a user's own; None where the loss is of another kind.
    """

    outputs: Callable | None
    pair: Callable | None
    potential: Callable | None
    unravel: Callable
    scale: float
    constant: float | None = None

    @property
    def is_likelihood(self):
        """Whether it is the mean of the pairs' negative log-likelihoods, up to `constant`."""
        return self.potential is None and self.constant is not None

    def examples(self, w, x, y):
        """Loss of each pair `[b]`."""
        assert self.outputs is not None and self.pair is not None, "an analytic model has no pairs"
        return self.pair(self.outputs(w, x), y)


def build(model, params, y, *, loss, noise_scale, student_t_df):
    """The `Loss` of a model on labels like `y`; log densities are meant up to constants that do not depend on w.

    Arguments:
        model: a `models.Model`.
        params: its parameters, for their shapes.
        y: labels; class numbers mean cross-entropy.
        loss: `nll`, `mse` or `student_t`, as in `config.Posterior`.
        noise_scale: σ of the Gaussian, scale of the Student-t; None with class numbers.
        student_t_df: degrees of freedom of `student_t`.
    """
    _, unravel = ravel_pytree(params)
    constant = 0.0 if loss == "nll" else None
    if model.potential is not None:
        return Loss(None, None, lambda w: model.potential(_cast(unravel, w)), unravel, 1.0)
    if model.pair is not None:
        pair, scale = model.pair, 1.0
    elif np.issubdtype(np.asarray(y).dtype, np.integer):
        pair, scale, constant = _cross_entropy, 1.0, 0.0
    else:
        if loss == "nll":
            constant = float(0.5 * np.log(2 * np.pi * noise_scale**2))
        pair = {
            "nll": lambda residual: jnp.sum(residual**2, -1) / (2 * noise_scale**2),
            "mse": lambda residual: jnp.sum(residual**2, -1),
            "student_t": lambda residual: (
                (student_t_df + 1) / 2 * jnp.sum(jnp.log1p(residual**2 / (student_t_df * noise_scale**2)), -1)
            ),
        }[loss]
        pair = _of_residual(pair)
        scale = 0.5 if loss == "mse" else noise_scale**2
    return Loss(lambda w, x: model.apply(_cast(unravel, w), x), pair, None, unravel, scale, constant)


def _cast(unravel, w):
    """Unravelled parameters in the precision of w (ravel_pytree's own function insists on the template's)."""
    return jax.tree.map(lambda leaf: leaf.astype(w.dtype), unravel(w.astype(jnp.float64)))


def _of_residual(pair):
    return lambda outputs, y: pair((outputs - y).reshape(len(y), -1))


def _cross_entropy(logits, y):
    """−log of the labels' probability `[b]`, that of several positions in one example being the product of theirs."""
    each = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, y[..., None], -1)[..., 0]
    return jnp.sum(each.reshape(len(y), -1), -1)


def chunk_rows(n, widest, dtype, weights=0, chains=1):
    """How many of n rows make one chunk: the same on every machine with a CPU, so that results are.

    Arguments:
        n: rows in all.
        widest: units of the model's widest layer.
        dtype: precision.
        weights: number of parameters.
        chains: that a GPU works on at once; a CPU works on small ones at once, in one chunk.
    """
    width = max(widest, 1) * np.dtype(dtype).itemsize
    if not devices.on_cpu():
        return min(n, max(64, int(devices.memory(devices.GPU_BYTES) * GPU_CHUNK_SHARE) // (width * chains)))
    rows = CHUNK_BYTES // width
    if weights * np.dtype(dtype).itemsize > CACHED_WEIGHTS:
        rows = max(rows, min(ROWS, MOST_CHUNK_BYTES // width))
    return min(n, max(64, rows))


def to_rows(x, y, widest, dtype, multiple=1, weights=0, chains=1):
    """Cut a data set into chunks, of `chunk_rows` rows at most.

    Arguments:
        x: inputs `[n, …]`, integers kept as they are; where they are empty (an analytic model) there is one empty chunk.
        y: labels.
        widest: units of the model's widest layer.
        dtype: precision of inputs and real labels.
        multiple: the number of chunks is a multiple of this where there is more than one.
        weights, chains: as for `chunk_rows`.
    """
    n = len(x)
    if x.size == 0:
        return Rows(jnp.zeros((1, 1, 0), dtype), jnp.zeros((1, 1, 0), dtype), jnp.ones((1, 1), dtype))
    longest = chunk_rows(n, widest, dtype, weights, chains)
    if stays_in_file(x) or stays_in_file(y):
        longest = max(longest, min(AT_ONCE, MOST_CHUNK_BYTES // (widest * np.dtype(dtype).itemsize)))
    chunks = -(-n // longest)
    chunks = -(-chunks // multiple) * multiple if chunks > 1 else 1
    size = -(-n // chunks)
    pad = chunks * size - n

    def cut(array):
        dtype_of_rows = np.dtype(np.int64 if np.issubdtype(array.dtype, np.integer) else dtype)
        if stays_in_file(array):
            numbers = np.arange(chunks * size, dtype=np.int32)
            return Mapped(
                jnp.asarray(np.where(numbers < n, numbers, 0).reshape(chunks, size)), File(array, dtype_of_rows)
            )
        padded = np.concatenate([array, np.repeat(array[:1], pad, 0)]) if pad else array
        return jnp.asarray(padded.reshape(chunks, size, *array.shape[1:]), dtype_of_rows)

    weight = np.where(np.arange(chunks * size) < n, 1 / n, 0.0).reshape(chunks, size)
    return Rows(cut(x), cut(y), jnp.asarray(weight, dtype))


def gradient_operations(rows, p):
    """About how many operations a gradient over the full data takes, which decides the `devices.Layout`."""
    return 6 * rows.weight.size * p


def deal(rows, parts):
    """The pairs dealt out in turn to sub-samples: `Rows` with a leading axis `[parts]`, padded anew; weights stay 1/n."""
    total, longest = rows.weight.size, rows.weight.shape[1]
    share = -(-total // parts)
    chunks = -(-share // longest)
    size = -(-share // chunks)
    index = np.arange(chunks * size * parts).reshape(chunks * size, parts).T
    inside = index < total

    def cut(leaf):
        flat = leaf.reshape(total, *leaf.shape[2:])[np.where(inside, index, 0)]
        return flat.reshape(parts, chunks, size, *leaf.shape[2:])

    dealt = jax.tree.map(cut, rows)
    return dealt._replace(weight=jnp.where(inside.reshape(parts, chunks, size), dealt.weight, 0))


def pairs(rows, index):
    """Inputs and labels of the pairs of these numbers `[b]`."""
    return tuple(
        loaded(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[index], part)) for part in (rows.x, rows.y)
    )


def _chunk_mean(loss, w, chunk):
    """One chunk's share of L_n."""
    return jnp.sum(chunk.weight * loss.examples(w, loaded(chunk.x), loaded(chunk.y)))


def value(loss, rows, w):
    """L_n(w), float64."""
    if loss.potential is not None:
        return loss.potential(w).astype(jnp.float64)
    return jnp.sum(jax.lax.map(lambda chunk: _chunk_mean(loss, w, chunk).astype(jnp.float64), rows))


def value_and_grad(loss, rows, w):
    """L_n(w) in float64 and ∇L_n(w) `[p]` in w's precision, in one pass over the data."""
    if loss.potential is not None:
        mean, grad = jax.value_and_grad(loss.potential)(w)
        return mean.astype(jnp.float64), grad
    one = jax.value_and_grad(lambda w, chunk: _chunk_mean(loss, w, chunk))
    if rows.x.shape[0] == 1:
        mean, grad = one(w, jax.tree.map(lambda leaf: leaf[0], rows))
        return mean.astype(jnp.float64), grad

    def add(total, chunk):
        mean, grad = one(w, chunk)
        return (total[0] + mean, total[1] + grad), None

    zero = (jnp.zeros((), jnp.float64), jnp.zeros_like(w))
    return jax.lax.scan(add, zero, rows)[0]


evaluate = jax.jit(value_and_grad, static_argnums=0)
"""`value_and_grad`, compiled once for a loss."""


def hessian_product(loss, rows, w, v):
    """∇²L_n(w) v `[p]`, forward over reverse, in w's precision."""
    if loss.potential is not None:
        return jax.jvp(jax.grad(loss.potential), (w,), (v,))[1]

    def add(total, chunk):
        grad = jax.grad(lambda w: _chunk_mean(loss, w, chunk))
        return total + jax.jvp(grad, (w,), (v,))[1], None

    return jax.lax.scan(add, jnp.zeros_like(w), rows)[0]


def batch_grad(loss, rows, w: Float[Array, " p"], index):
    """Gradient of the mean loss over the pairs `index` `[b]` of the data set."""
    if loss.potential is not None:
        return jax.grad(loss.potential)(w)
    x, y = pairs(rows, index)
    return jax.grad(lambda w: jnp.mean(loss.examples(w, x, y)))(w)
