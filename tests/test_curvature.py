"""The curvature at w0 and along chains: the Hessian, and the Gauss-Newton matrix by layers, against those of the plain mean."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from jax.flatten_util import ravel_pytree

from lambda_hat.targets import artifact, curvature, custom, losses, metrics

CONFIG = problems.config("model.target_params=100", "data.n_data=301", "training.steps=500", "training.polish_steps=0")


@pytest.fixture(scope="module")
def target():
    return artifact.build(CONFIG, problems.silent)


@pytest.fixture(scope="module")
def hessian(target):
    def plain(w):
        params, start = {}, 0
        for name in sorted(target.params):
            params[name] = {}
            for leaf in sorted(target.params[name]):
                shape = target.params[name][leaf].shape
                params[name][leaf] = w[start : start + np.prod(shape)].reshape(shape)
                start += np.prod(shape)
        residual = target.model.apply(params, jnp.asarray(target.x)) - target.y
        return jnp.mean(jnp.sum(residual**2, 1)) / (2 * CONFIG.data.noise_scale**2)

    return np.asarray(jax.hessian(plain)(jnp.asarray(target.w0)))


def found(target, dtype=np.float64):
    return curvature.at(target.loss(CONFIG.posterior), target.rows(dtype), target.w0, seed=0)


def check_matrix(result, expected):
    rebuilt = result.eigenvectors * result.eigenvalues @ result.eigenvectors.T
    np.testing.assert_allclose(rebuilt, expected, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(result.eigenvectors.T @ result.eigenvectors, np.eye(len(expected)), atol=1e-10)
    assert np.all(np.diff(result.eigenvalues) <= 0)
    assert result.trace == pytest.approx(np.trace(expected), rel=1e-10)


@pytest.mark.parametrize("chunks", [False, True])
def test_dense(target, hessian, chunks, monkeypatch):
    """The Gauss-Newton matrix; and the Hessian, where it costs less, as with very many outputs."""
    if chunks:
        monkeypatch.setattr(losses, "CHUNK_BYTES", 1)
    result = found(target)
    assert result.gradients == math.ceil(1 + 0.1 * len(target.w0))
    check_matrix(result, gauss_newton(target, target.w0))
    monkeypatch.setattr(curvature, "GRADIENTS_PER_OUTPUT", 10)
    result = found(target)
    assert result.gradients == 2 * len(target.w0)
    check_matrix(result, hessian)
    difference = np.abs(gauss_newton(target, target.w0) - hessian).max() / np.abs(hessian).max()
    assert 1e-4 < difference < 0.1, "the two are to be told apart, and near"


def test_dense_of_class_numbers():
    """Three classes: C is that of the softmax."""
    target = small("model.out_dim=3", "data.n_data=70")
    target = target._replace(y=np.random.default_rng(0).integers(0, 3, len(target.x)))
    result = found(target)
    assert result.gradients == math.ceil(3 * (1 + 0.1 * len(target.w0)))
    check_matrix(result, gauss_newton(target, target.w0))


def layered(target, monkeypatch, points=None, examples=640):
    """The curvature by layers of a small network; each pair is used equally often if n divides `examples`."""
    monkeypatch.setattr(curvature, "DENSE_LIMIT", 10)
    monkeypatch.setattr(curvature, "EXAMPLES", examples)
    loss, rows = target.loss(CONFIG.posterior), target.rows(np.float64)
    return curvature.at(loss, rows, target.w0, 0) if points is None else curvature.along(loss, rows, points, 0)


def gauss_newton(target, w, chosen=slice(None)):
    """Jᵀ (∂²ℓ/∂f²) J / n over the chosen pairs, pair by pair."""
    loss = target.loss(CONFIG.posterior)

    def one(x, y):
        jacobian = jax.jacobian(lambda w: loss.outputs(w, x[None])[0])(jnp.asarray(w))
        return (
            jacobian.T @ jax.hessian(lambda f: loss.pair(f[None], y[None])[0])(loss.outputs(w, x[None])[0]) @ jacobian
        )

    return np.asarray(jax.vmap(one)(jnp.asarray(target.x[chosen]), jnp.asarray(target.y[chosen])).mean(0))


def blocks(target):
    """Where each layer, bias first, is in the flat parameters, and its shape."""
    start = 0
    for name in sorted(target.params):
        fan_in, fan_out = target.params[name]["weight"].shape
        shape = (fan_in + ("bias" in target.params[name]), fan_out)
        yield slice(start, start + shape[0] * shape[1]), shape
        start += shape[0] * shape[1]


def small(*options):
    """A network on 64 pairs, so that one group of them is all."""
    return artifact.build(
        problems.config(
            "model.target_params=100",
            *(() if any(option.startswith("data.n_data=") for option in options) else ("data.n_data=64",)),
            "training.steps=0",
            "training.polish_steps=0",
            *options,
        ),
        problems.silent,
    )


def test_layers_hold_the_diagonal_of_the_gauss_newton_matrix_in_a_kronecker_basis(monkeypatch):
    target = small()
    found = layered(target, monkeypatch)
    exact = gauss_newton(target, target.w0)
    for (where, shape), left, right, values in zip(
        blocks(target), found.left, found.right, found.eigenvalues, strict=True
    ):
        block = exact[where, where]
        tensor = block.reshape(*shape, *shape)
        for basis, factor in ((left, np.einsum("iaja->ij", tensor)), (right, np.einsum("aiaj->ij", tensor))):
            rotated = basis.T @ factor @ basis
            np.testing.assert_allclose(rotated, np.diag(np.diag(rotated)), atol=1e-8 * np.trace(factor))
        kronecker = np.kron(left, right)
        np.testing.assert_allclose(values.ravel(), np.diag(kronecker.T @ block @ kronecker), rtol=1e-8, atol=1e-9)
    assert found.gradients == 2 * 1024 / 64  # 640 pairs in whole groups, as many for each of 8 parts


def test_layers_of_several_outputs_have_the_trace_of_the_gauss_newton_matrix(monkeypatch):
    """Random signs stand for the outputs: right on average, here over 20480 of them, within 5 %."""
    target = small("model.out_dim=3")
    found = layered(target, monkeypatch, examples=20480)
    exact = gauss_newton(target, target.w0)
    for (where, _), values in zip(blocks(target), found.eigenvalues, strict=True):
        assert values.sum() == pytest.approx(np.trace(exact[where, where]), rel=0.05)


def test_layers_along_points_are_their_mean(monkeypatch):
    target = small()
    points = target.w0 + 0.3 * np.random.default_rng(0).standard_normal((2, len(target.w0)))
    found = layered(target, monkeypatch, points, examples=128 * 20)
    both = (gauss_newton(target, points[0]) + gauss_newton(target, points[1])) / 2
    for (where, _), values in zip(blocks(target), found.eigenvalues, strict=True):
        assert values.sum() == pytest.approx(np.trace(both[where, where]), rel=1e-8)


def test_kept_and_read_back(target, monkeypatch):
    for found in (
        curvature.at(target.loss(CONFIG.posterior), target.rows(np.float64), target.w0, 0),
        layered(target, monkeypatch),
    ):
        kept = {name: np.asarray(value) for name, value in found.to_arrays().items()}
        again = curvature.from_arrays(kept)
        assert type(again) is type(found)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), tuple(again), tuple(found))


def test_layer_metric_is_a_symmetric_matrix(monkeypatch):
    """Applied to the identity: (nβ GN + γ)^(-1/2) block by block, its trace, its inverse."""
    target = small()
    found = layered(target, monkeypatch)
    made = metrics.whitening(found, 50.0, 3.0, np.float64)
    p = len(target.w0)
    matrix = np.asarray(jax.vmap(made.apply)(jnp.eye(p)))
    expected = np.zeros((p, p))
    for (where, _), left, right, values in zip(blocks(target), found.left, found.right, found.eigenvalues, strict=True):
        kronecker = np.kron(left, right)
        expected[where, where] = kronecker * (50 * values.ravel() + 3) ** -0.5 @ kronecker.T
    np.testing.assert_allclose(matrix, expected, atol=1e-12)
    assert float(made.trace()) == pytest.approx(np.trace(expected))
    v = jnp.asarray(np.random.default_rng(0).standard_normal(p))
    np.testing.assert_allclose(made.unapply(made.apply(v)), v, rtol=1e-10)


def test_along_is_the_mean_over_points_of_their_shares_of_the_pairs(target, monkeypatch):
    """Pair i is seen at point i mod 3, by either curvature: against one that is computed pair by pair."""
    loss = target.loss(CONFIG.posterior)
    points = target.w0 + 0.3 * np.random.default_rng(0).standard_normal((3, len(target.w0)))
    expected = 0
    for k, point in enumerate(points):
        x, y = jnp.asarray(target.x[k::3]), jnp.asarray(target.y[k::3])
        share = jax.hessian(lambda w, x=x, y=y: jnp.sum(loss.examples(w, x, y)) / len(target.x))
        expected += np.asarray(share(jnp.asarray(point)))
    shares = [
        len(target.x[k::3]) / len(target.x) * gauss_newton(target, points[k], slice(k, None, 3)) for k in range(3)
    ]
    check_matrix(curvature.along(loss, target.rows(np.float64), points, seed=0), sum(shares))
    monkeypatch.setattr(curvature, "GRADIENTS_PER_OUTPUT", 10)
    found = curvature.along(loss, target.rows(np.float64), points, seed=0)
    values = np.linalg.eigvalsh(expected)[::-1]
    np.testing.assert_allclose(found.eigenvalues, values[: len(found.eigenvalues)], rtol=1e-2, atol=1e-8)
    assert len(found.eigenvalues) == len(target.w0)
    at_w0 = np.asarray(jax.hessian(lambda w: losses.value(loss, target.rows(np.float64), w))(jnp.asarray(target.w0)))
    assert abs(values[0] / np.linalg.eigvalsh(at_w0)[-1] - 1) > 0.05, "the points are too close to w0 to tell"


def test_along_an_analytic_model_is_the_mean_hessian():
    """L = w1² w2²: ∇²L = [[2 w2², 4 w1 w2], [4 w1 w2, 2 w1²]]."""
    problem = problems.analytic(problems.config("model=normal_crossing", "model.powers=[1,1]"))
    points = np.array([[1.0, 2.0], [0.5, -1.0], [0.0, 3.0], [2.0, 0.0]])
    found = curvature.along(problem.loss, problem.rows(np.float64), points, seed=0)
    assert found.gradients == 2 * 2 * 4
    expected = np.mean([[[2 * b**2, 4 * a * b], [4 * a * b, 2 * a**2]] for a, b in points], 0)
    rebuilt = found.eigenvectors * found.eigenvalues @ found.eigenvectors.T
    np.testing.assert_allclose(rebuilt, expected, rtol=1e-12)


@pytest.mark.parametrize("limit", [1000, 10])
def test_quadratic(limit, monkeypatch):
    monkeypatch.setattr(curvature, "DENSE_LIMIT", limit)
    problem = problems.analytic(problems.config("model=quadratic", "model.dim=40"))
    result = problem.curvature()
    kept = len(result.eigenvalues)
    assert kept == (40 if limit == 1000 else 10)
    np.testing.assert_allclose(result.eigenvalues, np.geomspace(10, 0.01, 40)[:kept], rtol=1e-3)
    # a diagonal Hessian leaves Hutchinson's signs no variance
    assert result.trace == pytest.approx(np.geomspace(10, 0.01, 40).sum(), rel=1e-6)


# --- any pytree -------------------------------------------------------------------------------------------------------

ROOM = {"bias": (4,), "kernel": (3, 3, 2, 4)}


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"bias": (5,), "weight": (3, 5)}, [(4, 5)]),
        ({"b": (5,), "w": (5, 3)}, [(5, 1), (5, 3)]),
        ([(3, 5), (5,), (5, 2), (2,)], [(4, 5), (6, 2)]),
        ({"conv": ROOM, "out": {"w": (8, 1, 3, 3)}}, [(19, 4), (8, 9)]),
        ({"embedding": (11, 3), "scale": (3,), "zz": ()}, [(12, 3), (1, 1)]),
        ((7,), [(7, 1)]),
        ({"none": (0, 3), "norm": {"offset": (6,), "scale": (6,)}}, [(2, 6)]),
    ],
    ids=["dense", "a bias of rows", "a list", "convolutions", "an embedding", "a vector", "a normalisation"],
)
def test_any_pytree_is_cut_into_matrices(shapes, expected):
    tree = jax.tree.map(np.zeros, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    found = curvature.layer_shapes(tree)
    assert list(found) == expected
    assert sum(a * b for a, b in found) == sum(leaf.size for leaf in jax.tree.leaves(tree))


def convolutional(outputs=1):
    """A small network with kernels, biases, an embedding and a scale on 64 pairs: its loss, rows and w0."""
    generator = np.random.default_rng(0)
    shapes = {"conv": {"b": (2,), "k": (2, 2, 1, 2)}, "out": [(8, outputs), (outputs,)], "tokens": (3, 8), "zoom": ()}
    params = jax.tree.map(generator.standard_normal, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    image, token = generator.standard_normal((64, 3, 3, 1)), generator.integers(0, 3, (64, 1, 1, 1))
    x = np.concatenate([image, np.broadcast_to(token, image.shape)], -1)

    def apply(params, x):
        layout = ("NHWC", "HWIO", "NHWC")
        maps = jax.lax.conv_general_dilated(x[..., :1], params["conv"]["k"], (1, 1), "VALID", dimension_numbers=layout)
        hidden = jnp.tanh(params["zoom"] * (maps + params["conv"]["b"])).reshape(len(x), -1)
        hidden = hidden + params["tokens"][x[:, 0, 0, 1].astype(int)]
        return hidden @ params["out"][0] + params["out"][1]

    network = custom.CustomNetwork(apply, lambda key: params)
    y = generator.standard_normal((64, outputs))
    loss = losses.build(network, params, y, loss="mse", noise_scale=1.0, student_t_df=4.0)
    return loss, losses.to_rows(x, y, 8, np.float64), np.asarray(ravel_pytree(params)[0]), params


@pytest.mark.parametrize("longest", [2048, 4])
def test_the_layers_of_any_network_hold_the_diagonal_of_its_gauss_newton_matrix(longest, monkeypatch):
    """With one output, in the Kronecker basis; a side that is too long keeps its coordinates."""
    monkeypatch.setattr(curvature, "DENSE_LIMIT", 10)
    monkeypatch.setattr(curvature, "EXAMPLES", 512)
    monkeypatch.setattr(curvature, "LONGEST_SIDE", longest)
    loss, rows, w0, params = convolutional()
    found = curvature.at(loss, rows, w0, 0)
    x, y = (leaf.reshape(-1, *leaf.shape[2:]) for leaf in (rows.x, rows.y))
    jacobian = jax.vmap(lambda x: jax.grad(lambda w: loss.outputs(w, x[None])[0, 0])(jnp.asarray(w0)))(x)
    exact, start = np.asarray(2 * jacobian.T @ jacobian / len(y)), 0
    for (a, b), left, right, values in zip(
        curvature.layer_shapes(params), found.left, found.right, found.eigenvalues, strict=True
    ):
        assert left.shape == ((a, a) if a <= longest else (0, 0))
        where = slice(start, start + a * b)
        kronecker = np.kron(left if left.size else np.eye(a), right if right.size else np.eye(b))
        expected = np.diag(kronecker.T @ exact[where, where] @ kronecker)
        np.testing.assert_allclose(values.ravel(), expected, rtol=1e-7, atol=1e-9)
        start += a * b
    metric = metrics.whitening(found, 50.0, 3.0, np.float64)
    v = jnp.asarray(np.random.default_rng(0).standard_normal(len(w0)))
    np.testing.assert_allclose(metric.unapply(metric.apply(v)), v, rtol=1e-9)


def test_sums_of_gradients_with_random_signs_stand_for_the_pairs(monkeypatch):
    """The eigenvalues' sum and each layer's share of it; many sums know them one by one."""
    monkeypatch.setattr(curvature, "DENSE_LIMIT", 10)
    loss, rows, w0, _ = convolutional(outputs=2)
    exact = curvature.at(loss, rows, w0, 0)
    monkeypatch.setattr(curvature, "SUMMED_FROM", 10)
    monkeypatch.setattr(curvature, "MOST_SUMS", 4000)
    monkeypatch.setattr(curvature, "SMOOTHING", 0)
    many = curvature.at(loss, rows, w0, 0)
    for one, other in zip(exact.eigenvalues, many.eigenvalues, strict=True):
        assert other.sum() == pytest.approx(one.sum(), rel=0.1)
        np.testing.assert_allclose(np.sort(other.ravel())[-4:], np.sort(one.ravel())[-4:], rtol=0.25, atol=1e-9)
    monkeypatch.setattr(curvature, "MOST_SUMS", 8)
    monkeypatch.setattr(curvature, "FEWEST_SUMS", 8)
    monkeypatch.setattr(curvature, "EXAMPLES", 512)
    monkeypatch.setattr(curvature, "SMOOTHING", 8)
    few = [curvature.at(loss, rows, w0, seed) for seed in range(20)]
    for layer, one in enumerate(exact.eigenvalues):
        assert np.mean([each.eigenvalues[layer].sum() for each in few]) == pytest.approx(one.sum(), rel=0.25)
    assert few[0].gradients < exact.gradients


def test_smoothed_eigenvalues_keep_their_sum_and_those_that_are_products():
    values = np.outer([1.0, 2.0, 4.0], [0.5, 3.0])
    np.testing.assert_allclose(curvature._smoothed(values, 8), values)
    scattered = values * np.random.default_rng(0).chisquare(1, values.shape)
    smoothed = curvature._smoothed(scattered, 8)
    assert smoothed.sum() == pytest.approx(scattered.sum())
    assert np.std(np.log(smoothed / values)) < np.std(np.log(scattered / values))
    np.testing.assert_array_equal(curvature._smoothed(np.zeros((2, 3)), 8), np.zeros((2, 3)))


def test_of_many_outputs_the_hessian_is_taken_to_be_diagonal(monkeypatch):
    """Which that of squares is: the same numbers."""
    monkeypatch.setattr(curvature, "DENSE_LIMIT", 10)
    found = []
    for most in (256, 2):
        monkeypatch.setattr(curvature, "MOST_OUTPUTS", most)
        loss, rows, w0, _ = convolutional(outputs=3)
        found.append(curvature.at(loss, rows, w0, 0))
    for one, other in zip(found[0].eigenvalues, found[1].eigenvalues, strict=True):
        assert one.sum() == pytest.approx(other.sum(), rel=0.1)  # the signs stand for other directions


def test_where_the_curvature_is_not_finite_plain_coordinates_are_taken_with_a_word():
    """Σ |w|^1.5 has none at 0, and λ̂ = p/1.5 in the limit."""
    lines = []
    config = problems.config("sampler=hmc", "sampler.draws=300", "sampler.warmup=100", "posterior.gamma=0.001")
    model = custom.CustomPotential(lambda w: jnp.sum(jnp.abs(w) ** 1.5), jnp.zeros(3))
    empty = np.zeros((1000, 0))
    loss = losses.build(model, jnp.zeros(3), empty, loss="nll", noise_scale=None, student_t_df=4.0)
    problem = problems.Problem(loss, lambda dtype: losses.to_rows(empty, empty, 1, dtype), np.zeros(3), 1000)
    assert problem.curvature().eigenvalues.size == 0
    result = problem.sample(config, log=lambda line, frequent=False: lines.append(line))
    assert any("the curvature at w0 is not finite: sampling in plain coordinates" in line for line in lines)
    assert np.mean(result.draws.records.excess) == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("case", ["definite", "softmax", "diagonal of both signs", "zero"])
def test_root_of_an_output_hessian(case):
    """F Fᵀ is the matrix where it is positive, and leaves out the negative entries of a diagonal one."""
    a = np.random.default_rng(0).standard_normal((5, 5))
    p = np.array([0.7, 0.2, 0.1, 0.0, 0.0])
    matrix = {
        "definite": a @ a.T,
        "softmax": np.diag(p) - np.outer(p, p),
        "diagonal of both signs": np.diag([2.0, -1.0, 0.0, 3.0, -5.0]),
        "zero": np.zeros((5, 5)),
    }[case]
    root = np.asarray(jax.jit(curvature._root)(jnp.asarray(matrix)))
    expected = np.maximum(matrix, 0) if case.startswith("diagonal") else matrix
    np.testing.assert_allclose(root @ root.T, expected, atol=1e-12)
