"""The curvature of L_n: at w0, computed once per target and shared by all its runs, and along a sampler's chains.

The posterior is local around a known point, so the spectrum of the Hessian there is worth a few hundred gradients: it
whitens the samplers' coordinates, gives step sizes, and predicts λ̂ (Laplace). Where the posterior is wide the curvature at
w0 misses directions that are stiff everywhere else, in directions that the chains share.

Up to DENSE_LIMIT parameters a network's is the whole Gauss-Newton matrix, JᵀCJ with J the outputs' Jacobian and C the loss's
Hessian in the outputs: the Hessian but for the residuals' share of it, which vanishes where the network fits, at a tenth of the
price. An analytic model's is the Hessian, as is that of a network with many outputs. A larger network's Gauss-Newton matrix is
taken layer by layer, diagonal in a Kronecker basis (George et al., arXiv 1806.03884): it knows thousands of stiff directions for
the price of a few gradients. Beyond SUMMED_FROM parameters a few sums of pairs' gradients, with random signs, stand for the pairs.
Any pytree of arrays will do: each is taken as a matrix, whatever it is called (`layer_shapes`). On the 10k-parameter network the
largest curvature at draws, in coordinates whitened by it, is 22-29, and 88 by the 128 largest eigenpairs of the Hessian for 548
gradients, 46 by 384 for 1958.
"""

import math
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from lambda_hat.config.sizes import DENSE_LIMIT, GROUP, SUMMED_FROM, TOP
from lambda_hat.system import devices
from lambda_hat.targets import losses

EXAMPLES = 8192
"""Pairs, at least, that a layer curvature is the mean over."""

FEWEST_SUMS, MOST_SUMS = 64, 512
"""Sums of gradients, with random signs, that stand for the pairs of a network of more than SUMMED_FROM parameters. Measured with
51 907 of them and 2048 pairs: the largest whitened curvature is 311, 21 and 8.7 with 32, 128 and 512 sums, for the time of 4, 23
and 54 gradients, and 7.5 with each pair by itself, for that of 1087."""

SUMS_GRADIENTS = 32
"""Gradients whose operations the sums' products may take: there are fewer of larger layers, and over fewer data."""

SMOOTHING = 8
"""Sums that a layer's eigenvalues being products, of a row's and a column's, is worth."""

COLUMNS = 32
"""Hessian products made at once."""

LONGEST_SIDE = 2048
"""Rows or columns of a layer's matrix up to which they get a basis of their own, at the cost of its cube; a longer side, such as
the vocabulary of an embedding, whose rows no example has in common, keeps its coordinates."""

MOST_OUTPUTS = 256
"""Outputs of one example up to which their Hessian is taken whole; of more it is taken to be diagonal."""

GRADIENTS_PER_OUTPUT = 0.1
"""What the products of the Jacobian's rows of one output cost for each parameter, in full-data gradients of the same time: measured
on a CPU, 42 gradients in all for 433 parameters and one output, in float32 as in float64. In operations it is a third, of large
matrix products, which run faster."""


class Curvature(NamedTuple):
    """Largest eigenpairs of the Gauss-Newton matrix or the Hessian of L_n at w0, or of their mean over points.

    Attributes:
        eigenvalues: descending, `[k]`, float64; k = p up to DENSE_LIMIT.
        eigenvectors: in columns, `[p, k]`.
        trace: of the whole matrix; exact where k = p, else Hutchinson's estimate.
        gradients: cost in full-data gradients, a Hessian product counted as two.
    """

    eigenvalues: Float[np.ndarray, " k"]
    eigenvectors: Float[np.ndarray, "p k"]
    trace: float
    gradients: int

    def to_arrays(self):
        """As kept in a file."""
        return self._asdict()


class LayerCurvature(NamedTuple):
    """The Gauss-Newton matrix within each layer, W `[a, b]` its parameters: eigenvectors A_i ⊗ B_j.

    Attributes:
        left: A of each layer, orthogonal `[a, a]`; `[0, 0]` stands for the identity.
        right: B, orthogonal `[b, b]`; `[0, 0]` stands for the identity.
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
    """The curvature of a loss at w0 `[p]`: the whole matrix, or a large network's by layers; `seed` fixes what is random."""
    if is_layered(loss, len(w0)):
        return _layered(loss, rows, np.asarray(w0)[None], seed)
    if gradients := gauss_newton_gradients(loss, rows, len(w0)):
        return _diagonalise(_gauss_newton(loss, rows, np.asarray(w0)[None]), gradients)
    return _decompose(_products(loss, rows, np.asarray(w0)[None]), len(w0), rows, seed, 1e-3)


@threadpool_limits.wrap(limits=1, user_api="blas")
def along(loss, rows, points, seed):
    """The mean curvature over points `[m, p]`, each seen by its own m-th part of the pairs: it costs no more than at one.

    An analytic model has no pairs to share out, and is seen whole at each.
    """
    if is_layered(loss, points.shape[1]):
        return _layered(loss, rows, points, seed)
    if gradients := gauss_newton_gradients(loss, rows, points.shape[1]):
        return _diagonalise(_gauss_newton(loss, rows, points), gradients)
    found = _decompose(_products(loss, rows, points), points.shape[1], rows, seed, 3e-2)
    return found if loss.potential is None else found._replace(gradients=found.gradients * len(points))


def _decompose(product, p, rows, seed, tolerance):
    """Eigenpairs of a symmetric operator given by its products with vectors `[m, p]`."""
    dtype = rows.weight.dtype
    if p <= DENSE_LIMIT:
        return _diagonalise(np.asarray(product(jnp.eye(p, dtype=dtype)), float), 2 * p)
    calls = 0

    def single(v):
        nonlocal calls
        calls += 1
        return np.asarray(product(jnp.asarray(v, dtype).reshape(1, p))[0], float)

    generator = np.random.default_rng(seed)
    operator = scipy.sparse.linalg.LinearOperator((p, p), single, dtype=float)  # pyright: ignore[reportCallIssue]  as __new__ takes it
    values, vectors = scipy.sparse.linalg.eigsh(
        operator, k=min(TOP, p // 4), which="LA", v0=generator.standard_normal(p), tol=tolerance
    )
    probes = np.sign(generator.standard_normal((16, p)))
    trace = float(np.mean([probe @ single(probe) for probe in probes]))
    order = np.argsort(values)[::-1]
    return Curvature(values[order], vectors[:, order], trace, 2 * calls)


def _diagonalise(matrix, gradients):
    """The `Curvature` of a matrix `[p, p]`."""
    if not np.all(np.isfinite(matrix)):
        return _unknown(len(matrix), gradients)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return Curvature(values[::-1].copy(), vectors[:, ::-1].copy(), float(np.trace(matrix)), gradients)


def gauss_newton_gradients(loss, rows, p):
    """What the Gauss-Newton matrix of a loss of p parameters costs, in full-data gradients; None where the Hessian is taken."""
    if loss.potential is not None or p > DENSE_LIMIT:
        return None
    x, w = jax.ShapeDtypeStruct(rows.x.shape[1:], rows.x.dtype), jax.ShapeDtypeStruct((p,), rows.weight.dtype)
    outputs = math.prod(jax.eval_shape(loss.outputs, w, x).shape[1:])
    gradients = math.ceil(outputs * (1 + GRADIENTS_PER_OUTPUT * p))
    return gradients if gradients < 2 * p else None


def _gauss_newton(loss, rows, points):
    """The mean over pairs of JᵀCJ `[p, p]`; pair i is seen at point i mod m of `[m, p]`."""
    n, m = int(np.count_nonzero(rows.weight)), len(points)
    longest = -(-n // m)
    groups = -(-longest // GROUP)
    pairs = np.arange(groups * GROUP * m).reshape(groups * GROUP, m).T.reshape(-1, GROUP)
    numbers = np.repeat(np.arange(m), groups)
    spare = -len(pairs) % devices.PARTS
    pairs = np.concatenate([pairs, np.full((spare, GROUP), n)])
    of_groups = np.minimum(pairs, n - 1), pairs < n, np.concatenate([numbers, np.zeros(spare, int)])
    parts = jax.tree.map(lambda leaf: jnp.asarray(leaf.reshape(devices.PARTS, -1, *leaf.shape[1:])), of_groups)
    layout = devices.layout(losses.gradient_operations(rows, points.shape[1]))
    program = _gauss_newton_program(loss, layout)
    return np.asarray(program(rows, jnp.asarray(points, rows.weight.dtype), *parts), float) / n


@lru_cache(maxsize=4)
def _gauss_newton_program(loss, layout):
    """The sum over pairs of JᵀCJ."""

    def matrix(rows, points, *parts):
        p = points.shape[1]

        def add(total, group):
            pairs, counts, number = group
            x, y = losses.pairs(rows, pairs)

            def one(x, y, counts):
                output, pull = jax.vjp(lambda w: loss.outputs(w, x[None])[0], points[number])
                roots = _output_root(loss, output, y)
                return jax.vmap(lambda root: pull(root.reshape(output.shape))[0])(jnp.where(counts, roots.T, 0))

            jacobian = jax.vmap(one)(x, y, counts).reshape(-1, p)
            return total + jacobian.T @ jacobian, None

        def of_part(part):
            return jax.lax.scan(add, jnp.zeros((p, p), points.dtype), part)[0]

        return devices.total(of_part, parts)

    return layout.program(matrix, devices.PARTS, (False, False, True, True, True), False)


def _output_root(loss, output, y):
    """A root `[k, k]` of the Hessian of one pair's loss in its outputs."""
    return _root(jax.hessian(partial(_pair, loss, output.shape, y))(output.ravel()))


def _root(matrix):
    """F with F Fᵀ = C of a symmetric `[k, k]` matrix, by columns as Cholesky's; of pivots that are not positive nothing is kept.

    Not LAPACK's: a batch of its calls in a program on several devices may wait for ever for threads that wait for it.
    """
    least = 1e-6 * jnp.max(jnp.abs(jnp.diagonal(matrix)))

    def column(j, carry):
        rest, root = carry
        pivot = rest[j, j]
        made = jnp.where(pivot > least, rest[:, j] / jnp.sqrt(jnp.where(pivot > least, pivot, 1)), 0)
        return rest - jnp.outer(made, made), root.at[:, j].set(made)

    return jax.lax.fori_loop(0, len(matrix), column, (matrix, jnp.zeros_like(matrix)))[1]


def _pair(loss, shape, y, flat):
    """The loss of a pair as a function of its outputs, flat `[k]`."""
    return loss.pair(flat.reshape(1, *shape), y[None])[0]


def is_layered(loss, p):
    """Whether a curvature of this loss of p parameters is taken by layers."""
    return loss.potential is None and p > DENSE_LIMIT


def _layered(loss, rows, points, seed):
    """The `LayerCurvature` over points `[m, p]`, which groups of pairs go to in turn."""
    n, p = int(np.count_nonzero(rows.weight)), points.shape[1]
    shapes = layer_shapes(jax.eval_shape(loss.unravel, jax.ShapeDtypeStruct((p,), jnp.float64)))
    operations = losses.gradient_operations(rows, p)
    sums = _sums(shapes, len(points), operations) if p > SUMMED_FROM else None
    pairs = _groups(n, len(points), sums, np.random.default_rng(seed))
    points = jnp.asarray(points, rows.weight.dtype)
    layout = devices.layout(operations)
    basis, spectrum = _layer_programs(loss, shapes, layout)
    keys = jax.random.split(devices.key(seed), len(pairs))
    of_groups = jnp.asarray(pairs), jnp.arange(len(pairs)) % len(points), keys
    parts = jax.tree.map(lambda leaf: leaf.reshape(devices.PARTS, -1, *leaf.shape[1:]), of_groups)
    arguments = rows, points, *parts
    factors = jax.tree.map(np.asarray, basis(*arguments))
    if not all(np.all(np.isfinite(factor)) for factor in jax.tree.leaves(factors)):
        return _unknown(p, pairs.size / n)
    left, right = jax.tree.map(lambda factor: np.linalg.eigh(factor)[1], factors)
    squares = spectrum(*arguments, left, right)
    mean = [np.asarray(leaf, float) / pairs.size for leaf in squares]
    if sums:
        mean = [_smoothed(values, sums) for values in mean]
    return LayerCurvature(tuple(left), tuple(right), tuple(mean), 2 * pairs.size / n)


def _sums(shapes, points, gradient):
    """How many sums of gradients stand for the pairs: at least one at each point, as many on each part.

    Arguments:
        shapes: of the layers.
        points: number of points.
        gradient: operations of one over the full data.
    """
    each = sum(8 * a * b * sum(side for side in (a, b) if side <= LONGEST_SIDE) for a, b in shapes)
    sums = max(points, min(max(FEWEST_SUMS, int(SUMS_GRADIENTS * gradient / max(each, 1))), MOST_SUMS))
    return -(-sums // devices.PARTS) * devices.PARTS


def _groups(n, points, sums, generator):
    """Numbers of the pairs of each group `[groups, pairs]`; where there are sums, of each sum `[sums, groups, pairs]`."""
    if sums:
        share = -(-EXAMPLES // sums)
        shape = (sums, -(-share // GROUP), min(share, GROUP))
    else:
        groups = points * -(-EXAMPLES // (GROUP * points))
        shape = (-(-groups // devices.PARTS) * devices.PARTS, GROUP)
    rounds = -(-math.prod(shape) // n)
    numbers = np.concatenate([generator.permutation(n) for _ in range(rounds)])
    return numbers[: math.prod(shape)].reshape(shape)


def _smoothed(values, sums):
    """Eigenvalues `[a, b]` that are means over so many sums, drawn towards the product of their rows' and columns' means."""
    total = np.mean(values)
    if total == 0:
        return values
    product = np.mean(values, 1, keepdims=True) * np.mean(values, 0, keepdims=True) / total
    return (sums * values + SMOOTHING * product) / (sums + SMOOTHING)


def _unknown(p, gradients):
    """Of a loss whose curvature is not finite: samplers then move in plain coordinates."""
    return Curvature(np.zeros(0), np.zeros((p, 0)), 0.0, gradients)


def layer_shapes(tree):
    """Shapes `(a, b)` of the matrices, one after the other, that a pytree's flat parameters are cut into.

    An array of two axes is a matrix as it is; one of more, such as a convolution's kernel, has its outputs' axis, the last or the
    first, set apart. A vector beside a matrix that has as many columns (a bias, a scale) is one more row of it; any other is a
    column.
    """
    layers = []  # parent, a, b, whether it is more than vectors
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not leaf.size:
            continue
        is_matrix = leaf.ndim > 1
        shape = _fold(leaf.shape) if is_matrix else (1, leaf.size)
        parent, a, b, has_matrix = layers[-1] if layers else (None, 0, 0, False)
        if parent == path[:-1] and b == shape[1] and not (has_matrix and is_matrix):
            layers[-1] = parent, a + shape[0], b, has_matrix or is_matrix
        else:
            layers.append((path[:-1], *shape, is_matrix))
    return tuple((b, 1) if a == 1 and not is_matrix else (a, b) for _, a, b, is_matrix in layers)


def squares(leaf):
    """Numbers in the square matrices of an array's two sides, of those that are taken; a vector is one more row of another's."""
    return sum(side**2 for side in _fold(leaf.shape) if side <= LONGEST_SIDE) if leaf.ndim > 1 and leaf.size else 0


def _fold(shape):
    """An array's shape as rows and columns: its first axis apart or its last, whichever makes it less long."""
    size = math.prod(shape)
    return min((size // shape[-1], shape[-1]), (shape[0], size // shape[0]), key=sum)


@lru_cache(maxsize=4)
def _layer_programs(loss, shapes, layout):
    """Sums over pairs: of G Gᵀ and GᵀG of each layer, and of (AᵀGB)² given A and B."""
    ends = np.cumsum([a * b for a, b in shapes])[:-1]

    def cotangent(output, y, key):
        """A pair's random cotangent that has its output's Hessian for covariance."""
        signs = jax.random.rademacher(key, (output.size,), output.dtype)
        if output.size <= MOST_OUTPUTS:
            return (_output_root(loss, output, y) @ signs).reshape(output.shape)
        pair = partial(_pair, loss, output.shape, y)
        diagonal = signs * jax.jvp(jax.grad(pair), (output.ravel(),), (signs,))[1]
        return (jnp.sqrt(jnp.maximum(diagonal, 0)) * signs).reshape(output.shape)

    def apart(w, x, y, keys):
        """Each pair's gradient `[pairs, p]`."""

        def one(x, y, key):
            output, pull = jax.vjp(lambda w: loss.outputs(w, x[None])[0], w)
            return pull(cotangent(output, y, key))[0]

        return jax.vmap(one)(x, y, keys)

    def summed(w, x, y, keys):
        """The sum of the pairs' gradients `[p]`."""
        output, pull = jax.vjp(lambda w: loss.outputs(w, x), w)
        return pull(jax.vmap(cotangent)(output, y, keys))[0]

    def gradients(rows, w, pairs, key):
        """G of a group of pairs, by layer `[pairs, a, b]`; of several groups their sum `[1, a, b]`."""

        def of_group(gradient, pairs, key):
            x, y = losses.pairs(rows, pairs)
            return gradient(w, x, y, jax.random.split(key, len(pairs)))

        if pairs.ndim == 1:
            flat = of_group(apart, pairs, key)
        else:
            keys = jax.random.split(key, len(pairs))
            add = lambda total, group: (total + of_group(summed, *group), None)
            flat = jax.lax.scan(add, jnp.zeros_like(w), (pairs, keys))[0][None]
        return [part.reshape(-1, *shape) for part, shape in zip(jnp.split(flat, ends, 1), shapes, strict=True)]

    def total(function, rows, points, *parts):
        def group(pairs, number, key):
            return function(gradients(rows, points[number], pairs, key))

        def add(sums, one):
            return jax.tree.map(jnp.add, sums, group(*one)), None

        def of_part(part):
            first = jax.tree.map(lambda leaf: leaf[0], part)
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(group, *first))
            return jax.lax.scan(add, zeros, part)[0]

        return devices.total(of_part, parts)

    def factors(layers):
        def factor(sums, side):
            return [
                jnp.einsum(sums, g, g) if g.shape[side] <= LONGEST_SIDE else jnp.zeros((0, 0), g.dtype) for g in layers
            ]

        return factor("nij,nkj->ik", 1), factor("nij,nik->jk", 2)

    def basis(*arguments):
        return total(factors, *arguments)

    def spectrum(rows, points, pairs, numbers, keys, left, right):
        def squares(layers):
            def rotated(g, a, b):
                g = jnp.einsum("ia,nij->naj", a, g) if a.size else g
                return jnp.einsum("nij,jb->nib", g, b) if b.size else g

            return [jnp.sum(rotated(*layer) ** 2, 0) for layer in zip(layers, left, right, strict=True)]

        return total(squares, rows, points, pairs, numbers, keys)

    split = (False, False, True, True, True)
    return (
        layout.program(basis, devices.PARTS, split, (False, False)),
        layout.program(spectrum, devices.PARTS, (*split, False, False), False),
    )


def _products(loss, rows, points):
    """A function from vectors `[v, p]` to their products `[v, p]` with the mean Hessian over points `[m, p]`.

    Each point sees its share of the pairs; blocks of vectors are spread over the devices.
    """
    m, p = points.shape
    parts = jax.tree.map(lambda leaf: jnp.stack([leaf] * m), rows) if loss.potential else losses.deal(rows, m)
    layout = devices.layout(losses.gradient_operations(rows, p))
    points = jnp.asarray(points, rows.weight.dtype)

    def products(vectors):
        blocks = -(-len(vectors) // COLUMNS)
        size = -(-len(vectors) // blocks)
        padded = jnp.concatenate([vectors, jnp.zeros((blocks * size - len(vectors), p), vectors.dtype)])
        program = _product_program(loss, layout, m, blocks)
        return program(parts, points, padded.reshape(blocks, size, p)).reshape(-1, p)[: len(vectors)]

    return products


@lru_cache(maxsize=4)
def _product_program(loss, layout, m, blocks):
    share = 1 / m if loss.potential else 1.0

    def products(parts, points, blocks):
        def of_block(vectors):
            def add(total, pair):
                return total + share * jax.vmap(partial(losses.hessian_product, loss, *pair))(vectors), None

            return jax.lax.scan(add, jnp.zeros_like(vectors), (parts, points))[0]

        return devices.one_by_one(of_block, blocks)

    return layout.program(products, blocks, (False, False, True), True)
