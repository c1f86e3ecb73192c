"""How large a model is: as its configuration tells, or as its target has recorded it where only the model itself does."""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

from lambda_hat.config.model import Model, count_parameters

DENSE_LIMIT = 1000
"""Up to this many parameters the whole Hessian is diagonalised (`targets.curvature`)."""

TOP = 128
"""Eigenpairs kept of an analytic model beyond that, found by Lanczos."""

GROUP = 64
"""Pairs whose gradients are held at once where a larger network's curvature is taken by layers."""

SUMMED_FROM = 50_000
"""Parameters from which only sums of pairs' gradients are held there: a matrix of each pair would cost as much as thousands of
gradients."""

KEPT, FEWEST_KEPT = 256, 8
"""Draws whose positions are kept: between half of KEPT and all of it over all chains, but of a chain no fewer than half of
FEWEST_KEPT."""

KEPT_NUMBERS = 2**26
"""Most numbers that the positions kept may take: 256 MiB in float32."""


class Sizes(NamedTuple):
    """What a model's memory is told from.

    Attributes:
        arrays: numbers in each array of parameters, by its name.
        squares: of the same arrays, a² + b² for those that are matrices [a, b] to the curvature; None for a loss of the weights
            alone.
        pair: numbers of one pair, inputs and labels.
        widest: numbers that the widest layer holds for one example.
    """

    arrays: Mapping[str, int]
    squares: Mapping[str, int] | None = None
    pair: int = 0
    widest: int = 0


def of(config: Model) -> Sizes | None:
    """What a configuration tells of its model; None where only the model itself does."""
    arrays, units = config.arrays(), config.layers()
    if arrays is None or units is None:
        return None if arrays is None else Sizes(arrays)
    squares = {f"layer{i}.weight": a**2 + b**2 for i, (a, b) in enumerate(itertools.pairwise(units))}
    return Sizes(arrays, squares, units[0] + units[-1], max(units))


def most_kept(chains: int, p: int) -> int:
    """Most draws of each chain whose positions of p numbers are kept; none where they would take too much memory."""
    most = min(max(KEPT // chains, FEWEST_KEPT), KEPT_NUMBERS // (chains * p))
    return most if most >= FEWEST_KEPT else 0


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
