"""The curvature of L_n: at w0, computed once per target and shared by all its runs, and along a sampler's chains.

The posterior is local around a known point, so the spectrum of the Hessian there is worth a few hundred gradients: it
whitens the samplers' coordinates, gives step sizes, and predicts λ̂ (Laplace). Where the posterior is wide the curvature at
w0 misses directions that are stiff everywhere else, in directions that the chains share.

Up to DENSE_LIMIT parameters this is the whole Hessian. A larger network's Gauss-Newton matrix is taken layer by layer, diagonal
in a Kronecker basis (George et al., arXiv 1806.03884): it knows thousands of stiff directions for the price of one gradient. On the
10k-parameter network the largest curvature at draws, in coordinates whitened by it, is 22-29, and 88 by the 128 largest eigenpairs
of the Hessian for 548 gradients, 46 by 384 for 1958.
"""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jaxtyping import Array, Float
from threadpoolctl import threadpool_limits

from lambda_hat.jobs import memory
from lambda_hat.system import devices, parallel
from lambda_hat.targets import losses

DENSE_LIMIT = memory.DENSE_LIMIT
"""Up to this many parameters the whole Hessian is diagonalised; beyond, its largest eigenvalues are found by Lanczos."""

TOP = memory.TOP
"""Eigenpairs kept of an analytic model beyond the dense limit."""

EXAMPLES = 8192
"""Pairs, at least, that a layer curvature is the mean over."""

GROUP = memory.GROUP
"""Pairs whose gradients are held at once."""


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

    def to_arrays(self):
        """As kept in a file."""
        return self._asdict()


class LayerCurvature(NamedTuple):
    """The Gauss-Newton matrix within each layer, W `[a, b]` its parameters: eigenvectors A_i ⊗ B_j.

    Attributes:
        left: A of each layer, orthogonal `[a, a]`.
        right: B, orthogonal `[b, b]`.
        eigenvalues: mean square of AᵀGB over pairs, `[a, b]`, float64; G is the gradient of a pair's loss that has its output's
            Hessian for covariance.
        gradients: cost in full-data gradients.
    """

    left: tuple[np.ndarray, ...]
    right: tuple[np.ndarray, ...]
    eigenvalues: tuple[np.ndarray, ...]
    gradients: float

    def to_arrays(self):
        """As kept in a file."""
        parts = {f"{name}_{i}": leaf for name in self._fields[:3] for i, leaf in enumerate(getattr(self, name))}
        return parts | {"layers": len(self.left), "gradients": self.gradients}


def from_arrays(arrays):
    """The curvature that `to_arrays` was called on."""
    if "layers" not in arrays:
        whole = {name: arrays[name] for name in ("eigenvalues", "eigenvectors")}
        return Curvature(**whole, trace=float(arrays["trace"]), gradients=int(arrays["gradients"]))
    parts = {
        name: tuple(arrays[f"{name}_{i}"] for i in range(int(arrays["layers"]))) for name in LayerCurvature._fields[:3]
    }
    return LayerCurvature(**parts, gradients=float(arrays["gradients"]))


@threadpool_limits.wrap(limits=1, user_api="blas")  # sums in an order that the number of cores has no part in
def at(loss, rows, w0, seed):
    """The curvature of a loss at w0 `[p]`: the whole Hessian, or a large network's by layers; `seed` fixes what is random."""
    if is_layered(loss, len(w0)):
        return _layered(loss, rows, np.asarray(w0)[None], seed)
    return _decompose(_products(loss, rows, jnp.asarray(w0, rows.weight.dtype)), len(w0), rows, seed, 1e-3)


@threadpool_limits.wrap(limits=1, user_api="blas")
def along(loss, rows, points, seed, mesh=None):
    """The mean curvature over points `[m, p]`, each seen by its own m-th part of the pairs: it costs no more than at one.

    An analytic model has no pairs to share out, and is seen whole at each.

    Arguments:
        mesh: the devices that `rows` lie on, whose number divides m; None where they lie on no mesh.
    """
    if is_layered(loss, points.shape[1]):
        return _layered(loss, rows, points, seed, mesh)
    products = _mean_products(loss, rows, points, mesh or parallel.mesh(len(points)))
    found = _decompose(products, points.shape[1], rows, seed, 3e-2)
    return found if loss.potential is None else found._replace(gradients=found.gradients * len(points))


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


def is_layered(loss, p):
    """Whether a curvature of this loss of p parameters is taken by layers."""
    return loss.potential is None and p > DENSE_LIMIT


def _layered(loss, rows, points, seed, mesh=None):
    """The `LayerCurvature` over points `[m, p]`, which groups of pairs go to in turn."""
    n = int(np.count_nonzero(rows.weight))
    groups = len(points) * -(-EXAMPLES // (GROUP * len(points)))
    generator = np.random.default_rng(seed)
    rounds = -(-groups * GROUP // n)
    pairs = np.concatenate([generator.permutation(n) for _ in range(rounds)])[: groups * GROUP]
    points = jnp.asarray(points, rows.weight.dtype)
    basis, spectrum = _layer_programs(loss, _layers(loss, points.shape[1]), mesh or parallel.mesh(groups))
    keys = jax.random.split(devices.key(seed), groups)
    arguments = rows, points, jnp.asarray(pairs.reshape(groups, GROUP)), jnp.arange(groups) % len(points), keys
    left, right = jax.tree.map(lambda leaf: np.linalg.eigh(leaf)[1], basis(*arguments))
    squares = spectrum(*arguments, left, right)
    mean = tuple(np.asarray(leaf, float) / len(pairs) for leaf in squares)
    return LayerCurvature(tuple(left), tuple(right), mean, 2 * len(pairs) / n)


def _layers(loss, p):
    """Shapes `(a, b)` of the layers that the flat parameters are cut into; a bias is a row of its layer's matrix."""
    layers = jax.eval_shape(loss.unravel, jax.ShapeDtypeStruct((p,), jnp.float64))
    return tuple(
        (sum(leaf.size for leaf in layer.values()) // layer["weight"].shape[1], layer["weight"].shape[1])
        for _, layer in sorted(layers.items())
    )


@lru_cache(maxsize=4)
def _layer_programs(loss, shapes, mesh):
    """Sums over pairs: of G Gᵀ and GᵀG of each layer, and of (AᵀGB)² given A and B."""
    ends = np.cumsum([a * b for a, b in shapes])[:-1]

    def gradients(rows, w, pairs, key):
        """G of a group of pairs, by layer `[pairs, a, b]`."""
        x, y = (leaf.reshape(-1, *leaf.shape[2:])[pairs] for leaf in (rows.x, rows.y))

        def one(x, y, key):
            output, pull = jax.vjp(lambda w: loss.outputs(w, x[None])[0], w)
            values, vectors = jnp.linalg.eigh(jax.hessian(lambda f: loss.pair(f[None], y[None])[0])(output))
            signs = jax.random.rademacher(key, output.shape, output.dtype)
            return pull(vectors @ (jnp.sqrt(jnp.maximum(values, 0)) * signs))[0]

        flat = jax.vmap(one)(x, y, jax.random.split(key, GROUP))
        return [part.reshape(-1, *shape) for part, shape in zip(jnp.split(flat, ends, 1), shapes, strict=True)]

    def total(function, rows, points, pairs, numbers, keys):
        def group(pairs, number, key):
            return function(gradients(rows, points[number], pairs, key))

        def add(sums, one):
            return jax.tree.map(jnp.add, sums, group(*one)), None

        first = jax.tree.map(lambda leaf: leaf[0], (pairs, numbers, keys))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(group, *first))
        return jax.lax.psum(jax.lax.scan(add, zeros, (pairs, numbers, keys))[0], parallel.AXIS)

    def factors(layers):
        return [jnp.einsum("nij,nkj->ik", g, g) for g in layers], [jnp.einsum("nij,nik->jk", g, g) for g in layers]

    def basis(*arguments):
        return total(factors, *arguments)

    def spectrum(rows, points, pairs, numbers, keys, left, right):
        def squares(layers):
            rotated = [jnp.einsum("ia,nij,jb->nab", a, g, b) for g, a, b in zip(layers, left, right, strict=True)]
            return [jnp.sum(g**2, 0) for g in rotated]

        return total(squares, rows, points, pairs, numbers, keys)

    split = (False, False, True, True, True)
    return (
        jax.jit(parallel.shard(basis, mesh, split, (False, False))),
        jax.jit(parallel.shard(spectrum, mesh, (*split, False, False), False)),
    )


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


def _mean_products(loss, rows, points, mesh):
    """As `_products`, of the mean Hessian over points `[m, p]`, spread over the devices by points."""
    count = len(points)
    if loss.potential is not None:
        parts = jax.tree.map(lambda leaf: jnp.stack([leaf] * count), rows)
    else:
        parts = losses.deal(rows, count)
    program = _mean_program(loss, count, mesh)
    points = jnp.asarray(points, rows.weight.dtype)
    return lambda vectors: program(parts, points, vectors)


@lru_cache(maxsize=4)
def _mean_program(loss, count, mesh):
    share = 1.0 if loss.potential is None else 1 / count

    def part(parts, points, vectors):
        def add(total, pair):
            product = partial(losses.hessian_product, loss, *pair)
            return total + share * jax.lax.map(product, vectors, batch_size=32), None

        return jax.lax.psum(jax.lax.scan(add, jnp.zeros_like(vectors), (parts, points))[0], parallel.AXIS)

    return jax.jit(parallel.shard(part, mesh, (True, True, False), False))
