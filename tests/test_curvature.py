"""The curvature at w0 and along chains: the Hessian, and the Gauss-Newton matrix by layers, against those of the plain mean."""

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

from lambda_hat.targets import artifact, curvature, losses, metrics

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


@pytest.mark.parametrize("chunks", [False, True])
def test_dense(target, hessian, chunks, monkeypatch):
    if chunks:
        monkeypatch.setattr(losses, "CHUNK_BYTES", 1)
    result = found(target)
    p = len(target.w0)
    assert result.gradients == 2 * p
    rebuilt = result.eigenvectors * result.eigenvalues @ result.eigenvectors.T
    np.testing.assert_allclose(rebuilt, hessian, atol=1e-9 * np.abs(hessian).max())
    np.testing.assert_allclose(result.eigenvectors.T @ result.eigenvectors, np.eye(p), atol=1e-10)
    assert np.all(np.diff(result.eigenvalues) <= 0)
    assert result.trace == pytest.approx(np.trace(hessian), rel=1e-10)


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
            "model.target_params=100", "data.n_data=64", "training.steps=0", "training.polish_steps=0", *options
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
    assert found.gradients == 2 * 640 / 64


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


def test_along_is_the_mean_over_points_of_their_shares_of_the_pairs(target):
    """Pair i is seen at point i mod 3: against jax.hessian of that sum, pair by pair."""
    loss = target.loss(CONFIG.posterior)
    points = target.w0 + 0.3 * np.random.default_rng(0).standard_normal((3, len(target.w0)))
    expected = 0
    for k, point in enumerate(points):
        x, y = jnp.asarray(target.x[k::3]), jnp.asarray(target.y[k::3])
        share = jax.hessian(lambda w, x=x, y=y: jnp.sum(loss.examples(w, x, y)) / len(target.x))
        expected += np.asarray(share(jnp.asarray(point)))
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
