"""Training: descent against least squares, the polish against its tolerance, and the minima that need no training."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
import scipy.linalg

from lambda_hat.store.journal import Journal
from lambda_hat.system import devices
from lambda_hat.system.errors import BrokeDown
from lambda_hat.targets import artifact, curvature, data, losses, models, training

LINEAR = (
    "model=small",
    "model.activation=identity",
    "model.in_dim=3",
    "model.out_dim=2",
    "model.depth=1",
    "model.widths=[5]",
    "data.n_data=200",
)


@pytest.mark.parametrize(
    "options", [("training=adam",), ("training=sgd",), ("training=adam", "training.dtype=float64")]
)
def test_a_linear_network_reaches_least_squares(options):
    """Without the polish, full batches: L0 within 1e-4 of the best affine map's."""
    config = problems.config(
        *LINEAR,
        *options,
        "training.steps=3000",
        "training.polish_steps=0",
        "training.learning_rate=0.02",
        "training.batch_size=200",
    )
    target = artifact.build(config, problems.silent)
    features = np.column_stack([target.x, np.ones(len(target.x))])
    solution = np.linalg.lstsq(features, target.y, rcond=None)[0]
    best = np.sum((features @ solution - target.y) ** 2, 1).mean() / (2 * config.data.noise_scale**2)
    # batches are drawn with replacement, so descent hovers; cosine decay brings it to rest
    assert target.meta["metrics"]["L0"] == pytest.approx(best, rel=1e-2)
    assert target.meta["metrics"]["L0"] >= best * (1 - 1e-6)

    polished = replace(config, training=replace(config.training, polish_steps=2000))
    target = artifact.build(polished, problems.silent)
    assert target.meta["metrics"]["L0"] == pytest.approx(best, rel=1e-6)
    fitted = np.asarray(target.model.apply(target.params, jnp.asarray(features[:, :3])))
    np.testing.assert_allclose(fitted, features @ solution, atol=1e-3)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "warmup_cosine"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adamw"])
def test_every_optimizer_and_schedule_descends(optimizer, schedule):
    config = problems.config(
        *LINEAR,
        f"training={optimizer}",
        f"training.schedule={schedule}",
        "training.steps=300",
        "training.polish_steps=0",
    )
    built = artifact.build(config, problems.silent)
    initial = artifact.build(replace(config, training=replace(config.training, steps=0)), problems.silent)
    assert built.meta["metrics"]["L0"] < 0.5 * initial.meta["metrics"]["L0"]
    np.testing.assert_array_equal(
        initial.w0,
        np.concatenate(
            [leaf.ravel() for leaf in jax.tree.leaves(models.build(config.model).init(data.key(0, "init")))]
        ),
    )


def test_sgd_with_full_batches_is_gradient_descent():
    """Three steps of an analytic quadratic, by hand: v ← 0.9 v + ∇L, w ← w − η v."""
    config = problems.config("training=sgd", "training.steps=3", "training.schedule=constant").training
    h = jnp.asarray([1.0, 4.0])
    loss = losses.Loss(None, None, lambda w: 0.5 * jnp.sum(h * w**2), None, 1.0)
    rows = losses.to_rows(np.zeros((2, 0)), np.zeros((2, 0)), 1, "float64")
    steps = training.Steps(config, loss, rows, 2, jax.random.key(0))
    w = steps.run(steps.start(jnp.ones(2)), Journal())
    expected, velocity = np.ones(2), np.zeros(2)
    for _ in range(3):
        velocity = 0.9 * velocity + np.asarray(h) * expected
        expected = expected - config.learning_rate * velocity
    np.testing.assert_allclose(w, expected, rtol=1e-12)


def test_polish_ends_below_its_tolerance():
    options = (*LINEAR, "model.activation=tanh", "data.n_data=300", "training.steps=300")
    rough = artifact.build(problems.config(*options, "training.polish_steps=0"), problems.silent)
    polished = artifact.build(problems.config(*options, "training.polish_steps=20000"), problems.silent)
    half = len(polished.w0) / 2
    assert rough.meta["metrics"]["further_descent_gain"] > 5e-4 * half
    assert polished.meta["metrics"]["further_descent_gain"] < 5e-4 * half
    assert polished.meta["metrics"]["polish_iterations"] < 20000
    assert polished.meta["metrics"]["L0"] < rough.meta["metrics"]["L0"]


def test_proximal_step_of_a_quadratic():
    """argmin ½ wᵀHw − bᵀw + (γ/2)|w − c|² = (H + γ)^{-1}(b + γc)."""
    generator = np.random.default_rng(0)
    root = generator.standard_normal((6, 6))
    hessian, b, centre = root @ root.T, generator.standard_normal(6), generator.standard_normal(6)

    def objective(w):
        return 0.5 * w @ hessian @ w - b @ w, hessian @ w - b

    w, _ = training.proximal_step(objective, centre, 3.0, None, 0.0)
    expected = scipy.linalg.solve(hessian + 3 * np.eye(6), b + 3 * centre)
    np.testing.assert_allclose(w, expected, atol=1e-6)


def test_proximal_step_in_other_coordinates_has_the_same_minimum():
    """A symmetric map of the coordinates, and the loose tolerance that goes with it: within its reach of the minimum."""
    generator = np.random.default_rng(0)
    root = generator.standard_normal((6, 6))
    hessian, b, centre = root @ root.T, generator.standard_normal(6), generator.standard_normal(6)
    values, vectors = np.linalg.eigh(hessian + 3 * np.eye(6))

    def objective(w):
        return 0.5 * w @ hessian @ w - b @ w, hessian @ w - b

    whitening = vectors * values**-0.5 @ vectors.T
    w, iterations = training.proximal_step(objective, centre, 3.0, lambda u: whitening @ u, 1e-6)
    np.testing.assert_allclose(w, scipy.linalg.solve(hessian + 3 * np.eye(6), b + 3 * centre), atol=1e-6)
    assert iterations <= 2, "a quadratic whose curvature is one is minimised by a step"


@pytest.mark.soak
def test_a_large_network_is_polished_in_whitened_coordinates(monkeypatch):
    """To the same tolerance as a small one, in fewer iterations."""
    options = ("model.target_params=300", "data.n_data=500", "training.steps=1000", "training.polish_steps=20000")
    plain = artifact.build(problems.config(*options), problems.silent).meta["metrics"]
    monkeypatch.setattr(curvature, "DENSE_LIMIT", 100)
    white = artifact.build(problems.config(*options), problems.silent)
    found, half = white.meta["metrics"], len(white.w0) / 2
    assert found["further_descent_gain"] < 5e-4 * half
    assert found["polish_iterations"] < 0.7 * plain["polish_iterations"]
    assert abs(found["L0"] - plain["L0"]) * 500 / np.log(500) < 0.02 * half


@pytest.mark.parametrize("polish_steps", [100, 0])
def test_a_polish_that_leaves_the_optimizers_end_says_so(polish_steps):
    """How far and by how much, in the log and in meta.json."""
    options = ("training.schedule=constant", "training.steps=30", f"training.polish_steps={polish_steps}")
    config, lines = problems.config("model.target_params=100", "data.n_data=200", *options), []
    found = artifact.build(config, lines.append).meta["metrics"]
    told = [line for line in lines if "the polish moved w by" in line and "training.polish_steps=0 keeps" in line]
    if polish_steps:
        assert len(told) == 1 and f"to {found['L0']:.4g};" in told[0]
        assert found["polish_distance"] > 0.1 and found["L0_before_polish"] > 1.5 * found["L0"]
    else:
        assert not told and found["polish_distance"] == 0 and found["L0_before_polish"] == found["L0"]


def test_objective_is_spread_over_devices(monkeypatch):
    """Parts on two devices give what one pass gives."""
    monkeypatch.setattr(losses, "CHUNK_BYTES", 1)
    monkeypatch.setattr(devices, "ALL_AT_ONCE", 0)
    monkeypatch.setattr(devices, "WHOLE", 0)
    config = problems.config(
        "model.target_params=100", "data.n_data=301", "training.steps=0", "training.polish_steps=0"
    )
    target = artifact.build(config, problems.silent)
    loss, rows = target.loss(config.posterior), target.rows(np.float64)
    assert rows.weight.shape[0] == devices.PARTS
    value, grad = training.full_batch(loss, rows, len(target.w0), 7.0)(target.w0)
    mean, direct = losses.value_and_grad(loss, rows, jnp.asarray(target.w0))
    assert value == pytest.approx(7 * float(mean), rel=1e-12)
    np.testing.assert_allclose(grad, 7 * direct, rtol=1e-10)


def test_teacher_training_returns_the_teacher():
    config = problems.config("model=deep_linear", "data.teacher_rank=2", "data.noise_model=none", "training=teacher")
    target = artifact.build(config, problems.silent)
    teacher = data.build(config.data, models.build(config.model), config.seed).teacher
    jax.tree.map(np.testing.assert_array_equal, target.params, teacher)
    assert target.meta["metrics"]["L0"] < 1e-25
    assert target.meta["truth"]["lambda"] == 9.5


@pytest.mark.parametrize("model", ["quadratic", "normal_crossing"])
@pytest.mark.parametrize("kind", ["adam", "teacher"])
def test_analytic_models_stay_at_the_origin(model, kind):
    target = artifact.build(problems.config(f"model={model}", f"training={kind}"), problems.silent)
    np.testing.assert_array_equal(target.w0, 0)
    assert target.meta["metrics"]["L0"] == 0
    assert target.meta["metrics"]["further_descent_gain"] == 0


def test_divergence_is_an_error():
    config = problems.config(*LINEAR, "training=sgd", "training.learning_rate=100", "training.steps=300")
    with pytest.raises(BrokeDown, match=r"after step \d+ of training; lower training\.learning_rate") as broke:
        artifact.build(config, problems.silent)
    step = int(re.search(r"step (\d+)", str(broke.value)).group(1))
    assert 0 < step < 300
    assert np.all(np.isfinite(broke.value.last_good["w"]))
