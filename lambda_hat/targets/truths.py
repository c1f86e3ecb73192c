"""Learning coefficients that are known exactly, and for which model they hold."""

import math
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

import numpy as np

from lambda_hat.config import DeepLinear, FromTeacher, NormalCrossing, Quadratic, TeacherData
from lambda_hat.targets import models


class Truth(NamedTuple):
    """λ and its multiplicity m: the Bayes free energy grows as nL + λ log n − (m−1) log log n.

    Attributes:
        learning_coefficient: λ, exact.
        multiplicity: m.
        source: where the formula is from, and what it presupposes.
    """

    learning_coefficient: Fraction
    multiplicity: int
    source: str


def of(model, data, training):
    """The `Truth` for a model, data and training configuration, or None where it is not known.

    For a deep linear network it is known at the balanced teacher only, and where the inputs span their space; a trained w0
    may be less degenerate than the formula's.
    """
    if isinstance(model, Quadratic):
        positive = int(np.count_nonzero(models.curvatures(model)))
        return Truth(Fraction(positive, 2), 1, "regular minimum: half the number of positive curvatures")
    if isinstance(model, NormalCrossing):
        return normal_crossing(model.powers)
    balanced = isinstance(training, FromTeacher) and isinstance(data, TeacherData) and data.teacher_rank is not None
    if isinstance(model, DeepLinear) and balanced and data.n_data >= model.in_dim:
        return deep_linear((model.in_dim, *model.widths, model.out_dim), data.teacher_rank)
    return None


def normal_crossing(powers):
    """Truth of L = Π w_i^(2 k_i) at the origin: λ = min 1/(2k_i), m = how many attain it (Watanabe 2009, Thm 2.3)."""
    largest = max(powers)
    return Truth(Fraction(1, 2 * largest), list(powers).count(largest), "normal crossing (Watanabe 2009)")


def deep_linear(sizes, rank):
    """Truth of a deep linear network with layer sizes H_0 … H_L whose true product has this rank (Aoyagi 2024, Thm 1).

    Raises:
        ValueError: where the rank exceeds the smallest layer.
    """
    if not 0 <= rank <= min(sizes):
        raise ValueError(f"rank must be between 0 and {min(sizes)}, the smallest layer; got {rank}")
    excess = sorted(size - rank for size in sizes)
    for count in range(2, len(excess) + 1):
        chosen, rest, ell = excess[:count], excess[count:], count - 1
        if sum(chosen) >= ell * max(chosen) and (
            not rest or (max(chosen) < min(rest) and sum(chosen) < ell * min(rest))
        ):
            break
    total = sum(chosen)
    ceiling = math.ceil(Fraction(total, ell))
    a = total - (ceiling - 1) * ell
    coefficient = (
        Fraction(rank * (sizes[0] + sizes[-1]) - rank**2, 2)
        + Fraction(a * (ell - a), 4 * ell)
        - Fraction((ell - 1) * total**2, 4 * ell)
        + Fraction(sum(x * y for x, y in combinations(chosen, 2)), 2)
    )
    return Truth(
        coefficient,
        a * (ell - a) + 1,
        "deep linear network (Aoyagi 2024): the global coefficient, at the balanced point the local one too",
    )


def finite_quadratic(curvatures, nbeta, gamma):
    """λ̂ of a quadratic minimum at finite (n, β, γ), exactly: ½ Σ ρ_i with ρ_i = nβh_i/(nβh_i + γ)."""
    stiffness = nbeta * np.asarray(curvatures, float)
    return float(0.5 * np.sum(stiffness / (stiffness + gamma)))
