"""The network of `experiment=superposition`: features that are squeezed into fewer dimensions and read out again."""

import math

import jax
import jax.numpy as jnp


def make(features: int = 6, dimensions: int = 2, polygon: int | None = None, scale: float = 0.5):
    """The toy model of superposition, ReLU(WᵀWx + b) (Elhage et al., transformer-circuits.pub, 2022).

    Arguments:
        features: inputs and outputs.
        dimensions: hidden units; 2 for a polygon.
        polygon: how many features the columns of W start from the corners of a regular polygon for, the others being zero with a
            negative bias; None = random.
        scale: standard deviation of random weights.

    Returns:
        `init`, key → W `[dimensions, features]` and b `[features]`; `apply`, parameters, x `[n, features]` → `[n, features]`.
    """

    def init(key):
        if polygon is None:
            return {
                "W": scale * jax.random.normal(key, (dimensions, features), jnp.float64),
                "b": jnp.zeros(features, jnp.float64),
            }
        angles = 2 * math.pi * jnp.arange(polygon, dtype=jnp.float64) / polygon
        corners = jnp.stack([jnp.cos(angles), jnp.sin(angles)])
        is_corner = jnp.arange(features) < polygon
        between = math.cos(2 * math.pi / polygon)  # what a neighbour's feature gives: the bias takes it off
        return {
            "W": jnp.zeros((2, features), jnp.float64).at[:, :polygon].set(corners),
            "b": jnp.where(is_corner, -max(between, 0.0) / 2, -0.5),
        }

    def apply(params, x):
        return jax.nn.relu(x @ params["W"].T @ params["W"] + params["b"])

    return init, apply
