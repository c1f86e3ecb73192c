"""The network of `experiment=digits_cnn`: a convolution, a pooling layer and a linear read-out."""

import jax
import jax.numpy as jnp


def make(side: int = 8, kernel: int = 3, channels: int = 6, classes: int = 10):
    """A convolutional network on square images of one channel: convolution, ReLU, mean over 2×2, linear read-out.

    Arguments:
        side: pixels of an image's side.
        kernel: pixels of the convolution's side.
        channels: of the convolution.
        classes: number of classes.

    Returns:
        `init`, key → parameters; `apply`, parameters, images `[n, side²]` → logits `[n, classes]`.
    """
    pooled = (side - kernel + 1) // 2

    def init(key):
        first, second = jax.random.split(key)
        fan_in, features = kernel**2, pooled**2 * channels
        return {
            "conv": {
                "kernel": jax.random.normal(first, (kernel, kernel, 1, channels), jnp.float64) * (2 / fan_in) ** 0.5,
                "bias": jnp.zeros(channels),
            },
            "out": {
                "kernel": jax.random.normal(second, (features, classes), jnp.float64) / features**0.5,
                "bias": jnp.zeros(classes),
            },
        }

    def apply(params, x):
        images = x.reshape(-1, side, side, 1)
        convolved = jax.lax.conv_general_dilated(
            images, params["conv"]["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        hidden = jax.nn.relu(convolved + params["conv"]["bias"])[:, : 2 * pooled, : 2 * pooled]
        means = hidden.reshape(-1, pooled, 2, pooled, 2, channels).mean((2, 4))
        return means.reshape(len(x), -1) @ params["out"]["kernel"] + params["out"]["bias"]

    return init, apply
