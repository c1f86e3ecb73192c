"""Models: the distributions of initial weights, parameter counts, inferred widths, and the forward pass in plain NumPy."""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from jax.flatten_util import ravel_pytree

from lambda_hat.config import sizes
from lambda_hat.system.errors import ConfigError
from lambda_hat.targets import artifact, models

MLP = problems.config("model=small").model
FAN_IN, FAN_OUT = 400, 200


def first_weight(init, sizes=(FAN_IN, FAN_OUT)):
    model = models.network(
        *sizes[:1], sizes[1:-1], sizes[-1], activation="tanh", bias=False, layernorm=False, init=init
    )
    return np.asarray(model.init(jax.random.key(1))["layer0"]["weight"])


@pytest.mark.parametrize(
    ("init", "variance"), [("he", 2 / FAN_IN), ("xavier", 2 / (FAN_IN + FAN_OUT)), ("lecun", 1 / FAN_IN)]
)
def test_variance_of_initial_weights(init, variance):
    weight = first_weight(init)
    assert weight.shape == (FAN_IN, FAN_OUT)
    assert weight.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / weight.size))
    assert abs(weight.mean()) < 4 * math.sqrt(variance / weight.size)


def test_orthogonal_initial_weights():
    tall, broad = first_weight("orthogonal", (20, 7)), first_weight("orthogonal", (7, 20))
    np.testing.assert_allclose(tall.T @ tall, np.eye(7), atol=1e-12)
    np.testing.assert_allclose(broad @ broad.T, np.eye(7), atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layernorm", [False, True])
@pytest.mark.parametrize("widths", [(), (5,), (5, 7, 2)])
def test_parameter_count(widths, bias, layernorm):
    model = models.network(3, widths, 4, activation="relu", bias=bias, layernorm=layernorm, init="he")
    actual = ravel_pytree(model.init(jax.random.key(0)))[0].size
    assert sizes.parameter_count(3, widths, 4, bias=bias, layernorm=layernorm) == actual


def test_inferred_widths_of_the_base_model():
    config = problems.config("model=base").model
    assert sizes.infer_widths(config) == (62, 62, 62)
    assert sizes.parameter_count(32, [62] * 3, 1, bias=True, layernorm=False) == 9921


@pytest.mark.parametrize("layernorm", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_inferred_width_is_the_closest(depth, layernorm):
    for target in (1, 17, 100, 433, 999, 12345):
        config = replace(MLP, depth=depth, layernorm=layernorm, target_params=target, widths=None)

        def distance(width, config=config):
            count = sizes.parameter_count(
                config.in_dim, [width] * config.depth, config.out_dim, bias=config.bias, layernorm=config.layernorm
            )
            return abs(count - config.target_params)

        (width,) = set(sizes.infer_widths(config))
        assert distance(width) == min(map(distance, range(1, 2000)))


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "gelu": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "identity": lambda x: x,
}


@pytest.mark.parametrize("layernorm", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_pass(activation, layernorm):
    model = models.network(3, (6, 5), 2, activation=activation, bias=True, layernorm=layernorm, init="he")
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape), model.init(jax.random.key(0)))
    x = generator.standard_normal((10, 3))
    expected = x
    for i in range(3):
        layer = params[f"layer{i}"]
        expected = expected @ layer["weight"] + layer["bias"]
        if i < 2 and layernorm:
            centred = expected - expected.mean(1, keepdims=True)
            expected = layer["scale"] * centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) + layer["shift"]
        if i < 2:
            expected = ACTIVATIONS[activation](expected)
    np.testing.assert_allclose(model.apply(params, jnp.asarray(x)), expected, rtol=1e-10, atol=1e-12)


def test_layernorm_normalises_over_units():
    """With identity weights after it, one hidden layer's output is the normalised pre-activation."""
    model = models.network(4, (8,), 8, activation="identity", bias=False, layernorm=True, init="he")
    params = model.init(jax.random.key(0)) | {"layer1": {"weight": jnp.eye(8)}}
    hidden = model.apply(params, 10 * jax.random.normal(jax.random.key(1), (50, 4)))
    np.testing.assert_allclose(hidden.mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(hidden.var(1), 1, atol=1e-4)


def test_analytic_potentials():
    w = jnp.asarray([0.5, -1.5, 2.0])
    quadratic = models.build(problems.config("model=quadratic", "model.dim=3", "model.curvatures=[1,0,4]").model)
    crossing = models.build(problems.config("model=normal_crossing", "model.powers=[1,0,2]").model)
    assert quadratic.potential({"w": w}) == pytest.approx((0.25 + 16) / 2)
    assert crossing.potential({"w": w}) == pytest.approx(0.25 * 16)
    gradient = jax.grad(lambda w: crossing.potential({"w": w}))
    np.testing.assert_allclose(gradient(w), [2 * 0.5 * 16, 0, 0.25 * 4 * 8])
    np.testing.assert_array_equal(gradient(jnp.zeros(3)), 0)


def test_spaced_curvatures():
    config = problems.config("model=quadratic", "model.dim=4", "model.curvature_min=0.01", "model.curvature_max=10")
    np.testing.assert_allclose(models.build(config.model).curvatures, [0.01, 0.1, 1, 10])


@dataclass(frozen=True)
class Residual(models.Network):
    """f(x) = x + tanh(x A): a kind of network that lambda_hat does not ship."""

    in_dim: int

    def init(self, key):
        return {"gate": jax.random.normal(key, (self.in_dim, self.in_dim), "float64")}

    def apply(self, params, x):
        return x + jnp.tanh(x @ params["gate"])


def test_another_network_needs_init_and_apply_alone(monkeypatch):
    """It is its own teacher, and its widest array is seen from its program."""
    shipped = problems.config("training=teacher", "data.noise_model=none", "data.n_data=40", "model.in_dim=3")
    monkeypatch.setattr(models, "build", lambda config: Residual(3))
    target = artifact.build(shipped, problems.silent)
    np.testing.assert_allclose(target.y, target.x + np.tanh(target.x @ target.params["gate"]), rtol=1e-12)
    assert target.meta["metrics"]["L0"] == 0
    assert target.meta["truth"] is None
    assert target.widest == 3
    wide = models.network(3, (7,), 2, activation="relu", bias=True, layernorm=False, init="he")
    assert models.Network.widest(wide, wide.init(jax.random.key(0)), target.x) == wide.widest(None, target.x) == 7


def test_another_network_refuses_a_teacher_that_it_cannot_be():
    data = replace(problems.config().data, teacher_rank=1)
    with pytest.raises(ConfigError, match=r"data\.teacher_rank must be null"):
        Residual(3).teacher(data, jax.random.key(0))
