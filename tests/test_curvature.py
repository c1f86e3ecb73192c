"""The curvature at w0 and along chains: both branches against jax.hessian of the plain mean."""

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

from lambda_hat.targets import artifact, curvature, losses

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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lanczos(target, hessian, dtype, monkeypatch):
    monkeypatch.setattr(curvature, "DENSE_LIMIT", 10)
    monkeypatch.setattr(curvature, "TOP", 8)
    result = found(target, np.dtype(dtype))
    values, vectors = np.linalg.eigh(hessian)
    values, vectors = values[::-1], vectors[:, ::-1]
    assert result.eigenvectors.shape == (len(target.w0), 8)
    np.testing.assert_allclose(result.eigenvalues, values[:8], rtol=1e-3)
    overlap = np.abs(np.sum(result.eigenvectors * vectors[:, :8], 0))
    np.testing.assert_allclose(overlap, 1, atol=1e-3)
    # Hutchinson with signs: variance 2 Σ_{i≠j} H_ij² a probe, 16 probes
    error = np.sqrt(2 * np.sum((hessian - np.diag(np.diag(hessian))) ** 2) / 16)
    assert abs(result.trace - np.trace(hessian)) < 4 * error
    assert error < np.trace(hessian)


@pytest.mark.parametrize("limit", [1000, 10])
def test_along_is_the_mean_over_points_of_their_shares_of_the_pairs(target, limit, monkeypatch):
    """Pair i is seen at point i mod 3: against jax.hessian of that sum, pair by pair."""
    monkeypatch.setattr(curvature, "DENSE_LIMIT", limit)
    monkeypatch.setattr(curvature, "TOP", 8)
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
    assert len(found.eigenvalues) == (len(target.w0) if limit == 1000 else 8)
    at_w0 = np.asarray(jax.hessian(lambda w: losses.value(loss, target.rows(np.float64), w))(jnp.asarray(target.w0)))
    assert abs(values[0] / np.linalg.eigvalsh(at_w0)[-1] - 1) > 0.05, "the points are too close to w0 to tell"


def test_along_an_analytic_model_is_the_mean_hessian():
    """L = w1² w2²: ∇²L = [[2 w2², 4 w1 w2], [4 w1 w2, 2 w1²]]."""
    problem = problems.analytic(problems.config("model=normal_crossing", "model.powers=[1,1]"))
    points = np.array([[1.0, 2.0], [0.5, -1.0], [0.0, 3.0], [2.0, 0.0]])
    found = curvature.along(problem.loss, problem.rows(np.float64), points, seed=0)
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
