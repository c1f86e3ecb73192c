"""How large a model is, told from its configuration alone, without JAX."""

import itertools

from lambda_hat.config import MLP, DeepLinear, Quadratic


def layers(config):
    """Units of each layer of a network, inputs and outputs included; None for an analytic model."""
    if isinstance(config, MLP):
        widths = config.widths if config.widths is not None else infer_widths(config)
        return config.in_dim, *widths, config.out_dim
    if isinstance(config, DeepLinear):
        return config.in_dim, *config.widths, config.out_dim
    return None


def parameters(config):
    """Number of parameters p of a model configuration."""
    sizes = layers(config)
    if sizes is None:
        return config.dim if isinstance(config, Quadratic) else len(config.powers)
    kinds = {name: getattr(config, name, False) for name in ("bias", "layernorm")}
    return parameter_count(sizes[0], sizes[1:-1], sizes[-1], **kinds)


def parameter_count(in_dim, widths, out_dim, *, bias, layernorm):
    """Number of parameters p of a fully connected network."""
    sizes = (in_dim, *widths, out_dim)
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    return weights + bias * sum(sizes[1:]) + 2 * layernorm * sum(widths)


def infer_widths(config):
    """Equal hidden widths whose parameter count comes closest to `target_params`, at least 1."""

    def count(width):
        return parameter_count(
            config.in_dim, [width] * config.depth, config.out_dim, bias=config.bias, layernorm=config.layernorm
        )

    low, high = 1, 2
    while count(high) < config.target_params:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < config.target_params else (low, middle)
    width = min((low, high), key=lambda w: abs(count(w) - config.target_params))
    return (width,) * config.depth
