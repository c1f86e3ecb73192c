"""The curvature at w0: both branches against jax.hessian of the plain mean."""

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
def test_quadratic(limit, monkeypatch):
    monkeypatch.setattr(curvature, "DENSE_LIMIT", limit)
    problem = problems.analytic(problems.config("model=quadratic", "model.dim=40"))
    result = problem.curvature()
    kept = len(result.eigenvalues)
    assert kept == (40 if limit == 1000 else 10)
    np.testing.assert_allclose(result.eigenvalues, np.geomspace(10, 0.01, 40)[:kept], rtol=1e-3)
    # a diagonal Hessian leaves Hutchinson's signs no variance
    assert result.trace == pytest.approx(np.geomspace(10, 0.01, 40).sum(), rel=1e-6)
