"""The studies of superposition and of a convolutional network: their networks, their data, and each in a small form."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import problems

import lambda_hat
from lambda_hat.studies import digits_cnn, superposition
from lambda_hat.targets import data as datasets


def test_one_feature_is_on_and_its_size_is_uniform():
    config = problems.config("model=custom", "model.source=lambda_hat.studies.superposition:make", "data=features").data
    drawn = datasets.source(config).draw(None, 3)
    assert drawn.x.shape == (1200, 6) and np.array_equal(drawn.x, drawn.y)
    assert np.all((drawn.x > 0).sum(1) == 1) and np.all((drawn.x > 0).sum(0) == 200)
    sizes = drawn.x.max(1)
    assert abs(sizes.mean() - 0.5) < 4 / math.sqrt(12 * 1200) and sizes.max() < 1


def test_a_polygon_starts_at_its_corners():
    init, apply = superposition.make(polygon=5)
    params = init(jax.random.key(0))
    w = np.asarray(params["W"])
    np.testing.assert_allclose(np.linalg.norm(w, axis=0), [1, 1, 1, 1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(w[:, 0] @ w[:, 1], math.cos(2 * math.pi / 5))
    x = np.array([[0, 0.8, 0, 0, 0, 0.0]])
    np.testing.assert_allclose(apply(params, x), np.maximum(x @ w.T @ w + np.asarray(params["b"]), 0), atol=1e-12)


def test_the_convolution_is_one_and_the_pooling_a_mean():
    init, apply = digits_cnn.make(channels=2)
    params = jax.tree.map(lambda leaf: leaf + 0.1, init(jax.random.key(0)))
    image = np.random.default_rng(0).standard_normal((8, 8))
    kernel, bias = (np.asarray(params["conv"][name]) for name in ("kernel", "bias"))
    hidden = np.zeros((6, 6, 2))
    for i in range(6):
        for j in range(6):
            hidden[i, j] = np.maximum(np.einsum("ab,abc->c", image[i : i + 3, j : j + 3], kernel[:, :, 0]) + bias, 0)
    pooled = np.array([[hidden[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((0, 1)) for j in range(3)] for i in range(3)])
    expected = pooled.ravel() @ np.asarray(params["out"]["kernel"]) + np.asarray(params["out"]["bias"])
    np.testing.assert_allclose(apply(params, jnp.asarray(image.reshape(1, 64)))[0], expected, rtol=1e-10)


def test_superposition_has_the_rank_that_counting_says(script, tmp_path):
    """λ̂ of the 6-gon and of the 5-gon with a dead feature differ by what the dead feature's three parameters are worth, 3/2."""
    words = ("model.options={polygon: 5},{polygon: 6}", "seed=0", "sampler.mcse_target=0.01", "runtime.figures=false")
    outcome = script("sample", "-m", "experiment=superposition", *words)
    assert outcome.code == 0, outcome.text
    found = {}
    for path in (tmp_path / "runs").glob("targets/tgt_*/run_*/analysis.json"):
        summary = json.loads(path.read_text())
        with np.load(path.parent.parent / "curvature_nll_gn.npz") as curvature:
            values = curvature["eigenvalues"]
        found[int(np.sum(values > 1e-6 * values[0]))] = summary
    assert set(found) == {14, 17} and all(summary["status"] != "bad" for summary in found.values())
    for rank, summary in found.items():
        assert 0.94 * rank / 2 < summary["llc_mean"] < 1.02 * rank / 2


def test_a_convolutional_network_learns_digits_and_its_posterior_narrows(script, tmp_path):
    few = ("data.n_data=150", "model.options={channels: 2}", "sampler.draws=100", "sampler.mcse_target=0.1")
    words = ("training.checkpoint=30,300", "training.steps=300", "runtime.figures=false", *few)
    outcome = script("sample", "-m", "experiment=digits_cnn", *words)
    assert outcome.code == 0, outcome.text
    table = lambda_hat.load_results(tmp_path / "runs").sort_values("training_step")
    early, late = (row for _, row in table.iterrows())
    assert (early["training_step"], late["training_step"]) == (30, 300)
    assert early["train_loss"] > 1.2 > 0.8 > late["train_loss"] > 0
    assert early["llc_from_minimum"] > late["llc_mean"] > 0
