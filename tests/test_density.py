"""The log density and its metric against the formulas they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

from lambda_hat.samplers import density as densities
from lambda_hat.targets import curvature as curvatures
from lambda_hat.targets import losses, models

NBETA, GAMMA, SIGMA, N = 30.0, 2.0, 0.4, 60
MODEL = models.network(2, (3,), 1, activation="tanh", bias=True, layernorm=False, init="lecun")
GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.standard_normal((N, 2)), GENERATOR.standard_normal((N, 1))
PARAMS = MODEL.init(jax.random.key(0))
LOSS = losses.build(MODEL, PARAMS, Y, loss="nll", noise_scale=SIGMA, student_t_df=4.0)
W0 = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(PARAMS)])
P = len(W0)


def outputs(w):
    """The network, written out."""
    hidden = jnp.tanh(X @ w[3:9].reshape(2, 3) + w[:3])
    return hidden @ w[10:13].reshape(3, 1) + w[9]


def mean_loss(w):
    """L_n, written out."""
    return jnp.mean((outputs(w) - Y) ** 2) / (2 * SIGMA**2)


def log_pi(w):
    """log π, w0 at zero."""
    return -NBETA * (mean_loss(w) - mean_loss(W0)) - GAMMA / 2 * jnp.sum((w - W0) ** 2)


JACOBIAN = np.asarray(jax.jacobian(outputs)(jnp.asarray(W0)))[:, 0]
CURVATURE = JACOBIAN.T @ JACOBIAN / (N * SIGMA**2)


def build(metric, dtype="float64", kept=P):
    rows = losses.to_rows(X, Y, 3, dtype)
    found = curvatures.at(LOSS, losses.to_rows(X, Y, 3, "float64"), W0, seed=0)
    found = found._replace(eigenvalues=found.eigenvalues[:kept], eigenvectors=found.eigenvectors[:, :kept])
    return densities.build(LOSS, rows, W0, NBETA, GAMMA, found, metric, dtype)


def matrix(metric):
    """M as a matrix."""
    return np.asarray(jax.vmap(metric.apply)(jnp.eye(P))).T


@pytest.mark.parametrize("kept", [P, 4])
def test_metric_is_the_inverse_root_of_the_curvature(kept):
    values, vectors = np.linalg.eigh(CURVATURE)
    values[: P - kept] = 0
    stiffness = NBETA * vectors * np.maximum(values, 0) @ vectors.T + GAMMA * np.eye(P)
    m = matrix(build("curvature", kept=kept).metric)
    np.testing.assert_allclose(m, m.T, atol=1e-12)
    np.testing.assert_allclose(m @ stiffness @ m, np.eye(P), atol=1e-10)
    np.testing.assert_array_equal(matrix(build("identity").metric), np.eye(P))


@pytest.mark.parametrize("metric", ["curvature", "identity"])
@pytest.mark.parametrize("kept", [P, 4])
def test_unapply_inverts_apply(metric, kept):
    made = build(metric, kept=kept).metric
    v = jnp.asarray(np.random.default_rng(1).standard_normal(P))
    np.testing.assert_allclose(made.unapply(made.apply(v)), v, rtol=1e-10)
    np.testing.assert_allclose(made.apply(made.unapply(v)), v, rtol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 2e-5)])
@pytest.mark.parametrize("metric", ["curvature", "identity"])
def test_log_density_and_gradient(metric, dtype, tolerance):
    made = build(metric, dtype)
    m = matrix(made.metric)
    u = jnp.asarray(0.5 * np.random.default_rng(1).standard_normal(P))
    value, gradient = densities.log_density_and_grad(LOSS, made, u)
    expected, reference = jax.value_and_grad(lambda u: log_pi(W0 + m @ u))(u)
    assert value.dtype == gradient.dtype == jnp.float64
    # in float32 the loss carries a rounding of 6e-8 of itself, times nβ
    scale = abs(float(expected)) + NBETA * float(mean_loss(W0))
    assert float(value) == pytest.approx(float(expected), abs=tolerance * scale)
    np.testing.assert_allclose(gradient, reference, atol=tolerance * np.linalg.norm(reference))
    assert densities.log_density_and_grad(LOSS, made, jnp.zeros(P))[0] == pytest.approx(0, abs=tolerance)


@pytest.mark.parametrize("metric", ["curvature", "identity"])
def test_derivative_rule_of_log_density(metric):
    """The custom derivative is that of the formula, and scales with its cotangent."""
    made = build(metric)
    logp, m = densities.log_density(LOSS), matrix(made.metric)
    u = jnp.asarray(0.5 * np.random.default_rng(1).standard_normal(P))
    gradient = jax.grad(lambda u: 3 * logp(made, u))(u)
    np.testing.assert_allclose(gradient, 3 * jax.grad(lambda u: log_pi(W0 + m @ u))(u), rtol=1e-8)
    assert float(logp(made, u)) == pytest.approx(float(log_pi(W0 + m @ u)), rel=1e-10)


@pytest.mark.parametrize("kept", [P, 4])
@pytest.mark.parametrize("metric", ["curvature", "identity"])
def test_record(metric, kept):
    made = build(metric, kept=kept)
    u = jnp.asarray(0.5 * np.random.default_rng(1).standard_normal(P))
    record = densities.record(made, u, *densities.log_density_and_grad(LOSS, made, u))
    w = W0 + matrix(made.metric) @ u
    shift, force = w - W0, -jax.grad(log_pi)(w)
    values, vectors = np.linalg.eigh(CURVATURE)
    if kept < P:
        values[: P - kept] = max(0.0, values[: P - kept].mean())
    values = np.maximum(values, 0)
    shares = vectors * (NBETA * values / (NBETA * values + GAMMA)) @ vectors.T
    assert float(record.excess) == pytest.approx(float(NBETA * (mean_loss(w) - mean_loss(W0))), rel=1e-9)
    assert float(record.distance2) == pytest.approx(float(shift @ shift), rel=1e-10)
    assert float(record.stein) == pytest.approx(float(shift @ force), rel=1e-9)
    assert float(record.stein_curvature) == pytest.approx(float(shift @ shares @ force), rel=1e-8)


def test_laplace_share_of_unkept_directions():
    """tr R and vᵀRv with three of eight eigenpairs kept: the mean curvature of the rest stands for each of them."""
    regression = problems.LinearRegression(100, 8)
    problem, found = regression.problem, regression.problem.curvature()
    found = found._replace(eigenvalues=found.eigenvalues[:3], eigenvectors=found.eigenvectors[:, :3])
    rows = problem.rows(np.float64)
    made = densities.build(problem.loss, rows, problem.w0, NBETA, GAMMA, found, "identity", "float64")
    values = NBETA * np.linalg.eigvalsh(regression.hessian)[::-1]
    mean = values[3:].mean()
    expected = np.sum(values[:3] / (values[:3] + GAMMA)) + 5 * mean / (mean + GAMMA)
    assert float(made.shares.trace()) == pytest.approx(expected, rel=1e-10)
    assert sum(float(v @ made.shares.apply(v)) for v in jnp.eye(8)) == pytest.approx(expected, rel=1e-10)


def test_stein_identities_of_a_gaussian():
    """Exact draws of a linear regression's posterior: mean of `stein` p, of `stein_curvature` tr R, within 4 errors."""
    regression = problems.LinearRegression(100, 5)
    problem = regression.problem
    rows = problem.rows(np.float64)
    made = densities.build(problem.loss, rows, problem.w0, 50.0, 3.0, problem.curvature(), "curvature", "float64")
    draws = jax.random.normal(jax.random.key(0), (4000, 5))
    record = jax.vmap(lambda u: densities.record(made, u, *densities.log_density_and_grad(problem.loss, made, u)))(
        draws
    )
    for values, mean in (
        (record.stein, 5),
        (record.stein_curvature, 2 * regression.finite(50.0, 3.0)),
        (record.excess, regression.finite(50.0, 3.0)),
    ):
        assert float(values.mean()) == pytest.approx(mean, abs=4 * float(values.std()) / np.sqrt(4000))
