"""Data sets: the scale of each input distribution, the noise models against their distributions, teachers, streams."""

import itertools
import math
from dataclasses import replace

import jax
import numpy as np
import problems
import pytest
from scipy import stats
from sklearn.datasets import load_digits

from lambda_hat.targets import data, models

CONFIG = problems.config("model=small", "model.in_dim=6")
SCALE = 2.5


def build(seed=0, model=CONFIG.model, **changes):
    return data.build(replace(CONFIG.data, **{"n_data": 20_000} | changes), models.build(model), seed)


def noise(**changes):
    """The noise of the labels, and the inputs."""
    noisy, clean = build(**changes), build(**changes | {"noise_model": "none"})
    return noisy.y - clean.y, noisy.x


def rms(x):
    return math.sqrt(np.mean(x**2))


@pytest.mark.parametrize(
    ("x_dist", "changes", "expected", "relative_error"),
    [
        # standard error of the rms of N numbers: sqrt((kurtosis − 1)/(4N)); N = 120 000
        ("gauss_iso", {}, SCALE, math.sqrt(2 / 480_000)),
        ("uniform", {}, SCALE / math.sqrt(3), math.sqrt(0.8 / 480_000)),
        ("heavy_tail", {"x_df": 10.0}, SCALE, math.sqrt(3 / 480_000)),
        # scales 1 … 1/10: the sum of squares is dominated by about two of the six axes
        ("gauss_aniso", {"x_condition": 10.0}, SCALE, math.sqrt(2 / (4 * 20_000 * 2))),
        # 5000 centres of variance 3/4 in 6 dimensions
        ("mixture", {"x_components": 5000}, SCALE, math.sqrt(0.75**2 * 2 / (4 * 30_000))),
    ],
)
def test_scale_of_the_inputs(x_dist, changes, expected, relative_error):
    x = build(x_dist=x_dist, x_scale=SCALE, **changes).x
    assert x.shape == (20_000, 6)
    assert x.dtype == np.float64
    assert rms(x) == pytest.approx(expected, rel=4 * relative_error)


def test_uniform_half_width():
    x = build(x_dist="uniform", x_scale=SCALE).x
    assert SCALE * 0.999 < np.abs(x).max() <= SCALE


def test_anisotropy():
    """Standard deviations along the principal axes are evenly spaced in their logarithm, over x_condition."""
    x = build(x_dist="gauss_aniso", x_condition=100.0).x
    deviations = np.sqrt(np.linalg.eigvalsh(x.T @ x / len(x)))[::-1]
    np.testing.assert_allclose(deviations / deviations[0], np.geomspace(1, 0.01, 6), rtol=4 * math.sqrt(2 / 40_000))


def test_mixture_is_clustered():
    """In 100 dimensions two points of one cluster are √50 ± 3.5 % apart, of different ones √200: three equal clusters."""
    x = build(x_dist="mixture", x_components=3, model=replace(CONFIG.model, in_dim=100)).x
    near = x[np.linalg.norm(x - x[0], axis=1) < 10]
    assert len(near) == pytest.approx(len(x) / 3, abs=4 * math.sqrt(len(x) * 2 / 9))
    assert np.mean((near - near.mean(0)) ** 2) == pytest.approx(0.25, rel=4 * math.sqrt(2 / near.size))


def test_heavy_tail_is_student_t():
    x = build(x_dist="heavy_tail", x_df=3.0, x_scale=SCALE).x.ravel()
    assert stats.kstest(x / SCALE * math.sqrt(3), "t", args=(3,)).pvalue > 0.01


def test_manifold_scale():
    """Over random phases the mean square is exactly 1 (σ = 0.24 for one coordinate in two dimensions)."""
    x = build(x_dist="lowdim_manifold", x_manifold_dim=2, x_scale=SCALE, model=replace(CONFIG.model, in_dim=200)).x
    assert rms(x) / SCALE == pytest.approx(1, abs=4 * 0.24 / 2 / math.sqrt(200))
    assert np.abs(x).max() <= math.sqrt(2) * SCALE


def test_manifold_is_low_dimensional():
    """A small neighbourhood is flat: as many singular values as dimensions, the others of second order in its size."""
    x = build(x_dist="lowdim_manifold", x_manifold_dim=2, n_data=200_000).x
    near = x[np.argsort(np.linalg.norm(x - x[0], axis=1))[:50]]
    singular = np.linalg.svd(near - near.mean(0), compute_uv=False)
    assert singular[2] < 0.1 * singular[1]
    whole = np.linalg.svd(x - x.mean(0), compute_uv=False)
    assert whole[2] > 0.3 * whole[0]


@pytest.mark.parametrize("x_dist", ["gauss_aniso", "mixture", "heavy_tail", "lowdim_manifold"])
def test_whitening_is_exact(x_dist):
    x = build(x_dist=x_dist, x_whiten=True, x_scale=SCALE, n_data=500).x
    np.testing.assert_allclose(x.T @ x / 500, SCALE**2 * np.eye(6), atol=1e-10)


def test_whitening_needs_full_rank():
    with pytest.raises(ValueError, match="rank"):
        build(n_data=5, x_whiten=True)


def test_gaussian_noise():
    e, _ = noise(noise_model="gauss", noise_scale=0.3)
    assert stats.kstest(e.ravel() / 0.3, "norm").pvalue > 0.01


def test_heteroscedastic_noise():
    """Scale ∝ 1 + c |x|/rms|x|, its rms noise_scale."""
    e, x = noise(noise_model="hetero", noise_scale=0.3, noise_hetero=2.0, x_dist="heavy_tail")
    size = np.linalg.norm(x, axis=1, keepdims=True)
    scale = 1 + 2 * size / rms(size)
    assert stats.kstest((e / (0.3 * scale / rms(scale))).ravel(), "norm").pvalue > 0.01


def test_student_noise():
    e, _ = noise(noise_model="student_t", noise_scale=0.3, noise_df=2.5)
    assert stats.kstest(e.ravel() / 0.3, "t", args=(2.5,)).pvalue > 0.01


def test_outliers():
    e, _ = noise(noise_model="outliers", noise_scale=0.3, outlier_fraction=0.2, outlier_scale=10.0)

    def cdf(z):
        return 0.8 * stats.norm.cdf(z) + 0.2 * stats.norm.cdf(z / 10)

    assert stats.kstest(e.ravel() / 0.3, cdf).pvalue > 0.01


def test_outliers_strike_whole_labels():
    model = replace(CONFIG.model, out_dim=30)
    e, _ = noise(noise_model="outliers", noise_scale=1.0, outlier_fraction=0.2, outlier_scale=10.0, model=model)
    struck = np.array([rms(row) for row in e]) > 3
    assert struck.mean() == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / 20_000))


def test_streams_are_independent():
    """Other noise leaves inputs and teacher; more outputs or another teacher leave the inputs."""
    plain = build(n_data=100)
    other = build(n_data=100, noise_model="student_t", noise_scale=3.0)
    np.testing.assert_array_equal(plain.x, other.x)
    jax.tree.map(np.testing.assert_array_equal, plain.teacher, other.teacher)
    assert not np.allclose(plain.y, other.y)
    broader = build(n_data=100, model=replace(CONFIG.model, out_dim=3), teacher_widths=[4], teacher_activation="relu")
    np.testing.assert_array_equal(plain.x, broader.x)
    keys = [tuple(jax.random.key_data(data.key(0, name)).tolist()) for name in data.STREAMS]
    assert len(set(keys)) == len(keys)


def test_seed_decides_everything():
    first, same, other = build(n_data=100), build(n_data=100), build(seed=1, n_data=100)
    np.testing.assert_array_equal(first.x, same.x)
    np.testing.assert_array_equal(first.y, same.y)
    assert not np.any(first.x == other.x)
    assert not np.any(first.y == other.y)


def test_teacher_like_the_model_and_not():
    like = build(n_data=10)
    np.testing.assert_array_equal(like.y, build(n_data=10).y)
    assert like.teacher_model.widths == (17, 17)  # 443 parameters with six inputs; 401 at width 16
    other = build(n_data=10, teacher_widths=[3], teacher_activation="relu", noise_model="none")
    layers = [other.teacher[f"layer{i}"] for i in range(2)]
    expected = np.maximum(other.x @ layers[0]["weight"], 0) @ layers[1]["weight"]
    np.testing.assert_allclose(other.y, expected, rtol=1e-12)


@pytest.mark.parametrize(("widths", "rank"), [([3], 2), ([4, 6, 5], 3), ([4], 0)])
def test_balanced_teacher(widths, rank):
    """The map has `rank` equal singular values; WᵢᵀWᵢ = Wᵢ₊₁Wᵢ₊₁ᵀ at every hidden layer; labels are that map's."""
    model = replace(problems.config("model=deep_linear").model, widths=widths)
    built = build(model=model, n_data=50, teacher_rank=rank, teacher_singular_value=1.3, noise_model="none")
    layers = [np.asarray(built.teacher[f"layer{i}"]["weight"]) for i in range(len(widths) + 1)]
    product = np.linalg.multi_dot(layers)
    expected = np.zeros(5)
    expected[:rank] = 1.3 ** len(layers)
    np.testing.assert_allclose(np.linalg.svd(product, compute_uv=False), expected, atol=1e-12)
    for left, right in itertools.pairwise(layers):
        np.testing.assert_allclose(left.T @ left, right @ right.T, atol=1e-12)
    np.testing.assert_allclose(built.y, built.x @ product, atol=1e-12)


def test_digits_are_scikit_learns():
    config = problems.config("data=digits")
    built = data.build(config.data, models.build(config.model), 0)
    bunch = load_digits()
    assert built.y.dtype == np.int64
    order = np.lexsort(np.column_stack([built.x * 16, built.y]).T)
    reference = np.lexsort(np.column_stack([bunch.data, bunch.target]).T)
    np.testing.assert_array_equal((built.x * 16)[order], bunch.data[reference])
    np.testing.assert_array_equal(built.y[order], bunch.target[reference])


def test_digits_subset():
    config = problems.config("data=digits", "data.n_data=100")
    whole, part = (data.build(replace(config.data, n_data=n), models.build(config.model), 0) for n in (1797, 100))
    np.testing.assert_array_equal(part.x, whole.x[:100])
    assert np.unique(part.x, axis=0).shape[0] == 100


def test_analytic_models_have_no_inputs():
    config = problems.config("model=quadratic")
    built = data.build(config.data, models.build(config.model), 0)
    assert built.x.shape == (1000, 0)
    assert built.teacher is None
