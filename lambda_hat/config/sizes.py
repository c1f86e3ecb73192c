"""How large a model is, from its configuration alone: thin callers of its methods."""

from lambda_hat.config.model import Model, count_parameters

DENSE_LIMIT = 1000
"""Up to this many parameters the whole Hessian is diagonalised (`targets.curvature`)."""

TOP = 128
"""Eigenpairs kept of an analytic model beyond that, found by Lanczos."""

GROUP = 64
"""Pairs whose gradients are held at once where a larger network's curvature is taken by layers."""


def layers(config: Model) -> tuple[int, ...] | None:
    """Units of each layer of a network, inputs and outputs included; None for an analytic model."""
    return config.layers()


def parameters(config: Model) -> int | None:
    """Number of parameters p of a model; None where only the model itself tells."""
    return config.parameters()


def parameter_count(in_dim, widths, out_dim, *, bias, layernorm):
    """Number of parameters p of a fully connected network."""
    return count_parameters((in_dim, *widths, out_dim), bias=bias, layernorm=layernorm)


def infer_widths(config):
    """The hidden widths of an `MLP`, inferred where they are not given."""
    return config.hidden()
