"""Losses in chunks against plain formulas: SciPy's densities for the value, jax.grad and jax.hessian of the plain mean."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from jax.flatten_util import ravel_pytree
from scipy import special, stats

from lambda_hat.system import devices
from lambda_hat.targets import losses, models

SIGMA, DF, N = 0.3, 4.0, 151
MODEL = models.network(3, (4,), 2, activation="tanh", bias=True, layernorm=False, init="lecun")
GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((N, 3))
REAL, CLASSES = GENERATOR.standard_normal((N, 2)), GENERATOR.integers(2, size=N)
START = MODEL.init(jax.random.key(0))
W0, UNRAVEL = ravel_pytree(START)
W = W0 + 0.3 * GENERATOR.standard_normal(W0.size)

# per pair, from outputs and labels; up to constants
PLAIN = {
    "nll": lambda f, y: -stats.norm.logpdf(y, f, SIGMA).sum(1),
    "mse": lambda f, y: ((f - y) ** 2).sum(1),
    "student_t": lambda f, y: -stats.t.logpdf(y, DF, f, SIGMA).sum(1),
    "cross-entropy": lambda f, y: -special.log_softmax(f, 1)[np.arange(N), y],
}
JAX = {
    "nll": lambda f, y: jnp.sum((f - y) ** 2, 1) / (2 * SIGMA**2),
    "mse": lambda f, y: jnp.sum((f - y) ** 2, 1),
    "student_t": lambda f, y: (DF + 1) / 2 * jnp.sum(jnp.log(1 + (f - y) ** 2 / (DF * SIGMA**2)), 1),
    "cross-entropy": lambda f, y: -jnp.sum(jax.nn.log_softmax(f) * jax.nn.one_hot(y, 2, dtype=f.dtype), 1),
}


def labels(name):
    return CLASSES if name == "cross-entropy" else REAL


def build(name):
    loss = "nll" if name == "cross-entropy" else name
    scale = None if name == "cross-entropy" else SIGMA
    return losses.build(MODEL, START, labels(name), loss=loss, noise_scale=scale, student_t_df=DF)


@cache
def derivatives(name):
    """Gradient and Hessian of L_n as one expression over all data, at W in float64."""

    def plain(w):
        return jnp.mean(JAX[name](MODEL.apply(UNRAVEL(w), jnp.asarray(X)), jnp.asarray(labels(name))))

    gradient, hessian = jax.jit(lambda w: (jax.grad(plain)(w), jax.hessian(plain)(w)))(W)
    return np.asarray(gradient), np.asarray(hessian)


@pytest.fixture(params=["one chunk", "chunks"])
def cut(request, monkeypatch):
    """Rows of a dtype, in one chunk, or in four of 38 with one row of padding."""
    if request.param == "chunks":
        monkeypatch.setattr(losses, "CHUNK_BYTES", 1)

    def rows(name, dtype):
        made = losses.to_rows(X, labels(name), 4, dtype, 2)
        assert made.weight.shape == ((4, 38) if request.param == "chunks" else (1, N))
        return made

    return rows


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PLAIN)
def test_value_gradient_and_hessian_product(name, dtype, cut):
    loss, rows, w = build(name), cut(name, dtype), jnp.asarray(W, dtype)
    tolerance = {"float32": 2e-5, "float64": 1e-12}[dtype]
    v = jnp.asarray(np.random.default_rng(1).standard_normal(W.size), dtype)
    mean, grad, product, again, zero = jax.jit(
        lambda rows, w, w0: (
            *losses.value_and_grad(loss, rows, w),
            losses.hessian_product(loss, rows, w, v),
            losses.value(loss, rows, w),
            losses.value(loss, rows, w0),
        )
    )(rows, w, jnp.asarray(W0, dtype))
    assert mean.dtype == again.dtype == jnp.float64
    assert grad.dtype == product.dtype == dtype
    assert float(again) == pytest.approx(float(mean), rel=tolerance)
    outputs = [np.asarray(MODEL.apply(UNRAVEL(v), X)) for v in (W, W0)]
    expected = [PLAIN[name](f, labels(name)).mean() for f in outputs]
    assert float(mean - zero) == pytest.approx(expected[0] - expected[1], rel=10 * tolerance)

    gradient, hessian = derivatives(name)
    np.testing.assert_allclose(grad, gradient, atol=tolerance * np.linalg.norm(gradient))
    np.testing.assert_allclose(product, hessian @ v, atol=tolerance * np.linalg.norm(hessian @ v))


def test_nll_is_mse_over_twice_the_variance(cut):
    nll, mse = (losses.value(build(name), cut(name, "float64"), jnp.asarray(W)) for name in ("nll", "mse"))
    assert float(nll) == pytest.approx(float(mse) / (2 * SIGMA**2), rel=1e-12)


@pytest.mark.parametrize("name", ["nll", "mse"])
def test_scale_brings_the_loss_to_half_the_squared_error(name, cut):
    half = 0.5 * np.sum((np.asarray(MODEL.apply(UNRAVEL(W), X)) - REAL) ** 2, 1).mean()
    loss = build(name)
    assert loss.scale * float(losses.value(loss, cut(name, "float64"), jnp.asarray(W))) == pytest.approx(half)


@pytest.mark.parametrize("name", PLAIN)
def test_batch_gradient_is_unbiased(name, cut):
    """The mean over all batches of one pair is the full gradient, and a batch is the mean of its pairs."""
    loss, rows = build(name), cut(name, "float64")
    batch = jax.jit(lambda index: losses.batch_grad(loss, rows, jnp.asarray(W), index))
    each = jax.jit(jax.vmap(batch))(jnp.arange(N)[:, None])
    full, _ = derivatives(name)
    np.testing.assert_allclose(each.mean(0), full, atol=1e-12 * N)
    index = jnp.asarray([150, 3, 3, 77])
    np.testing.assert_allclose(batch(index), each[index].mean(0), atol=1e-11)


def test_rows_hold_each_pair_once():
    for n, multiple in itertools.product((1, 63, 64, 65, 1000, 1001), (1, 2, 3)):
        x = np.arange(n)[:, None] * np.ones((1, 2))
        rows = losses.to_rows(x, x[:, :1], 10**6, "float64", multiple)
        real = np.asarray(rows.weight).ravel() > 0
        np.testing.assert_array_equal(np.asarray(rows.x)[..., 0].ravel()[real], np.arange(n))
        assert np.sum(rows.weight) == pytest.approx(1, rel=1e-12)
        assert rows.weight.shape[0] == 1 or rows.weight.shape[0] % multiple == 0


def test_chunks_fill_a_cache_and_large_weights_are_read_for_more_rows():
    assert losses.chunk_rows(10**5, 100, "float32", 10**4) == 2**17 // 400
    assert losses.chunk_rows(10**5, 1000, "float32", 10**6) == losses.ROWS
    assert losses.chunk_rows(10**5, 10**5, "float32", 10**6) == 64  # convolutions, which use a weight in many places
    assert losses.chunk_rows(100, 1000, "float32", 10**6) == 100


def test_a_gpu_does_all_chains_in_chunks_that_fit_its_memory(monkeypatch):
    monkeypatch.setattr(losses.devices, "on_cpu", lambda: False)
    assert devices.memory(2**34) == 2**34  # which a CPU does not tell
    one, many = (losses.chunk_rows(10**9, 100, "float32", 10**4, chains) for chains in (1, 64))
    assert one == 2**34 // 64 // 400
    assert many == one // 64
    assert losses.chunk_rows(10**9, 100, "float32", 10**4, 10**6) == 64


def test_analytic_models_are_their_own_loss():
    model = models.build(problems.config("model=monomial", "model.powers=[4,4]").model)
    loss = losses.build(model, model.init(None), np.zeros((5, 0)), loss="nll", noise_scale=None, student_t_df=4.0)
    rows = losses.to_rows(np.zeros((5, 0)), np.zeros((5, 0)), 1, "float32")
    w = jnp.asarray([1.0, 2.0], "float32")
    mean, grad = losses.value_and_grad(loss, rows, w)
    assert (float(mean), mean.dtype) == (8.5, jnp.float64)
    np.testing.assert_allclose(grad, [2, 16])
    np.testing.assert_allclose(losses.batch_grad(loss, rows, w, jnp.arange(3)), grad)
    np.testing.assert_allclose(losses.hessian_product(loss, rows, w, jnp.ones(2, "float32")), [6, 24])


@pytest.mark.parametrize(("n", "parts", "chunk_bytes"), [(301, 4, 1), (301, 8, 2**17), (5, 3, 1), (130, 2, 1)])
def test_deal_gives_each_pair_to_one_part(n, parts, chunk_bytes, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_BYTES", chunk_bytes)
    x, y = np.arange(2.0 * n).reshape(n, 2), -np.arange(float(n)).reshape(n, 1)
    dealt = losses.deal(losses.to_rows(x, y, 4, np.float64), parts)
    for k in range(parts):
        weight = np.asarray(dealt.weight[k]).ravel()
        mine = np.asarray(dealt.x[k]).reshape(-1, 2)[weight > 0]
        np.testing.assert_array_equal(mine, x[k::parts])
        np.testing.assert_array_equal(np.asarray(dealt.y[k]).reshape(-1, 1)[weight > 0], y[k::parts])
        np.testing.assert_allclose(weight[weight > 0], 1 / n)
    assert dealt.x.shape[2] <= max(64, n)
