"""Models: how parameters are drawn and what a network computes from them."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lambda_hat.config import MLP, DeepLinear, Monomial, NormalCrossing, Quadratic, sizes

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": jax.nn.gelu, "identity": lambda x: x}

INITS = {
    "he": jax.nn.initializers.he_normal(),
    "xavier": jax.nn.initializers.glorot_normal(),
    "lecun": jax.nn.initializers.lecun_normal(),
    "orthogonal": jax.nn.initializers.orthogonal(),
}

Params = Any
"""A dictionary of arrays, one or more for each layer; analytic models have the single entry `w`."""


class Model(NamedTuple):
    """A parametric family.

    Attributes:
        init: random key → parameters in float64. Analytic models start at their minimum, the origin.
        apply: parameters, inputs `[n, d_in]` → outputs `[n, d_out]`; None for an analytic model.
        potential: parameters → L(w) itself; None for a network.
        widths: hidden widths, inferred ones filled in.
    """

    init: Callable[[Array], Params]
    apply: Callable[[Params, Float[Array, "n d_in"]], Float[Array, "n d_out"]] | None
    potential: Callable[[Params], Float[Array, ""]] | None
    widths: tuple[int, ...]


def build(config):
    """The `Model` that a model configuration describes."""
    return _BUILDERS[type(config)](config)


def network(in_dim, widths, out_dim, *, activation, bias, layernorm, init):
    """A fully connected network; layer i holds `weight` `[fan_in, fan_out]`, and `bias`, `scale`, `shift` where asked."""
    units = (in_dim, *widths, out_dim)
    sigma, draw, last = ACTIVATIONS[activation], INITS[init], len(units) - 2

    def initialise(key):
        params = {}
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(units)):
            layer = {"weight": draw(jax.random.fold_in(key, i), (fan_in, fan_out), jnp.float64)}
            if bias:
                layer["bias"] = jnp.zeros(fan_out, jnp.float64)
            if layernorm and i < last:
                layer |= {"scale": jnp.ones(fan_out, jnp.float64), "shift": jnp.zeros(fan_out, jnp.float64)}
            params[f"layer{i}"] = layer
        return params

    def apply(params, x):
        for i in range(last + 1):
            layer = params[f"layer{i}"]
            x = x @ layer["weight"]
            if bias:
                x = x + layer["bias"]
            if i < last:
                if layernorm:
                    x = layer["scale"] * jax.nn.standardize(x, axis=-1) + layer["shift"]
                x = sigma(x)
        return x

    return Model(initialise, apply, None, tuple(widths))


def _mlp(config):
    return network(
        config.in_dim,
        sizes.layers(config)[1:-1],
        config.out_dim,
        activation=config.activation,
        bias=config.bias,
        layernorm=config.layernorm,
        init=config.init,
    )


def _deep_linear(config):
    return network(
        config.in_dim,
        config.widths,
        config.out_dim,
        activation="identity",
        bias=False,
        layernorm=False,
        init=config.init,
    )


def curvatures(config):
    """The curvatures h `[dim]` of a quadratic model."""
    if config.curvatures is not None:
        return np.asarray(config.curvatures, float)
    return np.geomspace(config.curvature_min, config.curvature_max, config.dim)


def _quadratic(config):
    h = curvatures(config)
    return _analytic(len(h), lambda w: 0.5 * jnp.sum(jnp.asarray(h, w.dtype) * w**2))


def _normal_crossing(config):
    k = np.asarray(config.powers)
    return _analytic(len(k), lambda w: jnp.prod(w ** (2 * k)))


def _monomial(config):
    powers = np.asarray(config.powers, float)
    return _analytic(len(powers), lambda w: 0.5 * jnp.sum(jnp.abs(w) ** jnp.asarray(powers, w.dtype)))


def _analytic(dim, loss):
    return Model(lambda key: {"w": jnp.zeros(dim, jnp.float64)}, None, lambda params: loss(params["w"]), ())


_BUILDERS = {
    MLP: _mlp,
    DeepLinear: _deep_linear,
    Quadratic: _quadratic,
    NormalCrossing: _normal_crossing,
    Monomial: _monomial,
}
