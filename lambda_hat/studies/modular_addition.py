"""The network of `experiment=modular_addition`: two layers that add modulo P."""

import jax
import jax.numpy as jnp


def make(modulus: int = 23, units: int = 48, scale: float = 0.2):
    """A two-layer network with quadratic units, logits (A_a + B_b)² C for the tokens a and b (Gromov, arXiv 2301.02679).

    A pair of cosines in a and b of one frequency, squared, holds the cosine of a + b: this is how it comes to add.

    Arguments:
        modulus: number of tokens, and of classes, P.
        units: hidden units.
        scale: standard deviation of the initial weights.

    Returns:
        `init`, key → parameters A `[P, units]`, B `[P, units]`, C `[units, P]`; `apply`, parameters, tokens `[n, 2]` → `[n, P]`.
    """
    shapes = {"first": (modulus, units), "second": (modulus, units), "out": (units, modulus)}

    def init(key):
        keys = jax.random.split(key, len(shapes))
        return {
            name: scale * jax.random.normal(k, shapes[name], jnp.float64) for name, k in zip(shapes, keys, strict=True)
        }

    def apply(params, x):
        return (params["first"][x[:, 0]] + params["second"][x[:, 1]]) ** 2 @ params["out"]

    return init, apply
