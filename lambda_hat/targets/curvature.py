"""The curvature of L_n: at w0, computed once per target and shared by all its runs, and along a sampler's chains.

The posterior is local around a known point, so the spectrum of the Hessian there is worth a few hundred gradients: it
whitens the samplers' coordinates, gives step sizes, and predicts λ̂ (Laplace). Where the posterior is wide the curvature at
w0 misses directions that are stiff everywhere else: on the 10k-parameter network, in coordinates whitened at w0, the largest
curvature is 26 at w0 and 660-890 at draws, in directions that the chains share; whitened by the mean Hessian at eight draws
it is 60-80 at others.
"""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jaxtyping import Array, Float

from lambda_hat import parallel
from lambda_hat.targets import losses

DENSE_LIMIT = 1000
"""Up to this many parameters the whole Hessian is diagonalised; beyond, its largest eigenvalues are found by Lanczos."""

TOP = 128
"""Eigenpairs kept beyond the dense limit."""


class Curvature(NamedTuple):
    """Largest eigenpairs of ∇²L_n(w0), or of a mean of Hessians.

    Attributes:
        eigenvalues: descending, `[k]`, float64; k = p up to DENSE_LIMIT.
        eigenvectors: in columns, `[p, k]`.
        trace: of the whole Hessian; exact where k = p, else Hutchinson's estimate.
        gradients: cost in full-data gradients, a Hessian product counted as two.
    """

    eigenvalues: Float[Array, " k"]
    eigenvectors: Float[Array, "p k"]
    trace: float
    gradients: int


def at(loss, rows, w0, seed):
    """The `Curvature` of a loss at w0 `[p]`; `seed` fixes the random probes."""
    return _decompose(_products(loss, rows, jnp.asarray(w0, rows.weight.dtype)), len(w0), rows, seed, 1e-3)


def along(loss, rows, points, seed):
    """The `Curvature` of the mean Hessian over points `[m, p]`, each seen by its own m-th part of the pairs.

    So a product costs no more than at one point.
    """
    return _decompose(_mean_products(loss, rows, points), points.shape[1], rows, seed, 3e-2)


def _decompose(product, p, rows, seed, tolerance):
    """Eigenpairs of a symmetric operator given by its products with vectors `[m, p]`."""
    dtype = rows.weight.dtype
    if p <= DENSE_LIMIT:
        hessian = np.asarray(product(jnp.eye(p, dtype=dtype)), float)
        values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
        return Curvature(values[::-1].copy(), vectors[:, ::-1].copy(), float(np.trace(hessian)), 2 * p)
    calls = 0

    def single(v):
        nonlocal calls
        calls += 1
        return np.asarray(product(jnp.asarray(v, dtype).reshape(1, p))[0], float)

    generator = np.random.default_rng(seed)
    operator = scipy.sparse.linalg.LinearOperator((p, p), single, dtype=float)
    values, vectors = scipy.sparse.linalg.eigsh(
        operator, k=min(TOP, p // 4), which="LA", v0=generator.standard_normal(p), tol=tolerance
    )
    probes = np.sign(generator.standard_normal((16, p)))
    trace = float(np.mean([probe @ single(probe) for probe in probes]))
    order = np.argsort(values)[::-1]
    return Curvature(values[order], vectors[:, order], trace, 2 * calls)


def _products(loss, rows, w):
    """A function from vectors `[m, p]` to their Hessian products `[m, p]`, spread over the devices by data."""
    mesh = parallel.mesh(rows.weight.shape[0])

    def part(rows, w, vectors):
        return jax.lax.psum(
            jax.lax.map(partial(losses.hessian_product, loss, rows, w), vectors, batch_size=32), parallel.AXIS
        )

    if loss.potential is not None:
        function = jax.jit(
            lambda rows, w, vectors: jax.lax.map(partial(losses.hessian_product, loss, rows, w), vectors)
        )
    else:
        function = jax.jit(parallel.shard(part, mesh, (True, False, False), False))
    return lambda vectors: function(rows, w, vectors)


def _mean_products(loss, rows, points):
    """As `_products`, of the mean Hessian over points `[m, p]`, spread over the devices by points."""
    count = len(points)
    if loss.potential is not None:
        parts = jax.tree.map(lambda leaf: jnp.stack([leaf] * count), rows)
    else:
        parts = losses.deal(rows, count)
    program = _mean_program(loss, count)
    points = jnp.asarray(points, rows.weight.dtype)
    return lambda vectors: program(parts, points, vectors)


@lru_cache(maxsize=4)
def _mean_program(loss, count):
    share = 1.0 if loss.potential is None else 1 / count

    def part(parts, points, vectors):
        def add(total, pair):
            product = partial(losses.hessian_product, loss, *pair)
            return total + share * jax.lax.map(product, vectors, batch_size=32), None

        return jax.lax.psum(jax.lax.scan(add, jnp.zeros_like(vectors), (parts, points))[0], parallel.AXIS)

    return jax.jit(parallel.shard(part, parallel.mesh(count), (True, True, False), False))
