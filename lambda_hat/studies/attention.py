"""The network of `experiment=attention`: one layer of attention."""

import math

import jax
import jax.numpy as jnp


def make(vocabulary: int = 8, length: int = 11, width: int = 12):
    """A transformer of one layer with one causal head and no MLP: logits (h + softmax(h Q (h K)ᵀ / √width) h V O) U.

    Here h is the sum of what is learnt for a token and for its place. The path around the head knows which token follows
    which; the head copies tokens from a place that it attends to (Elhage et al. 2021, A Mathematical Framework for
    Transformer Circuits).

    Arguments:
        vocabulary: number of tokens.
        length: places.
        width: numbers in h for a token, and in the head's queries, keys and values.

    Returns:
        `init`, key → parameters; `apply`, parameters, tokens `[n, length]` → logits of the next token `[n, length, vocabulary]`.
    """
    shapes = {"token": (vocabulary, width), "place": (length, width), "unembed": (width, vocabulary)}
    shapes |= {name: (width, width) for name in ("query", "key", "value", "out")}
    causal = jnp.tril(jnp.ones((length, length), bool))

    def init(key):
        keys = jax.random.split(key, len(shapes))
        return {
            name: jax.random.normal(k, shape, jnp.float64) / math.sqrt(width)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    def apply(params, x):
        h = params["token"][x] + params["place"]
        scores = (h @ params["query"]) @ (h @ params["key"]).mT / math.sqrt(width)
        pattern = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), -1)
        return (h + pattern @ (h @ params["value"]) @ params["out"]) @ params["unembed"]

    return init, apply
