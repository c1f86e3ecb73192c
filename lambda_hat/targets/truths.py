"""Learning coefficients that are known exactly, as formulas; `targets.models` says for which model they hold."""

import math
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

import numpy as np
import scipy.special


class Truth(NamedTuple):
    """λ and its multiplicity m: the Bayes free energy grows as nL + λ log n − (m−1) log log n.

    Attributes:
        learning_coefficient: λ at w0, exact; where `local` is False it is the global one, which λ at w0 may exceed.
        multiplicity: m; None where it is not known.
        source: where the formula is from, and what it presupposes.
        local: whether it is λ at w0.
        least: the smallest λ on the zero set around w0, where it is known; a chain that leaves w0 finds it.
    """

    learning_coefficient: Fraction
    multiplicity: int | None
    source: str
    local: bool = True
    least: Fraction | None = None


# --- λ ----------------------------------------------------------------------------------------------------------------


def regular(directions):
    """Truth of a regular minimum: half the number of directions of positive curvature."""
    return Truth(Fraction(int(directions), 2), 1, "regular minimum: half the number of positive curvatures")


def monomial(powers):
    """Truth of L = ½ Σ |w_i|^(p_i) at the origin: λ = Σ 1/p_i, m = 1 (each coordinate adds its own)."""
    total = sum((1 / Fraction(power).limit_denominator(10**6) for power in powers), Fraction(0))
    return Truth(total, 1, "sum of monomials (Watanabe 2009)")


def tanh_zero(hidden):
    """Truth of a 1-H-1 tanh network without biases at the zero function (Aoyagi & Watanabe 2005)."""
    i = math.isqrt(hidden)
    source = "tanh network of one input and one output, true function zero (Aoyagi & Watanabe 2005)"
    return Truth(Fraction(hidden + i * i + i, 4 * i + 2), 2 if i * i == hidden else 1, source)


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


def two_layers(sizes, first, second, rank):
    """Truth at two layers A, B of ranks a and b with BA of rank r, which may be less degenerate than the balanced point.

    λ = (bq + ap − ab)/2 + λ of the deep linear network of sizes q−a, h−a−b+r, p−b at rank 0, for q inputs, h hidden
    units and p outputs: the directions that a and b fix are regular, what remains is a smaller network at zero.
    """
    (q, h, p), a, b = sizes, first, second
    rest, least = deep_linear((q - a, h - a - b + rank, p - b), 0), deep_linear(sizes, rank).learning_coefficient
    return Truth(
        Fraction(b * q + a * p - a * b, 2) + rest.learning_coefficient,
        rest.multiplicity,
        f"two linear layers of ranks {a} and {b}, their product of rank {rank}: λ at w0 (the global one is "
        f"{float(least):g})",
        least=least,
    )


# --- λ̂ at finite n ----------------------------------------------------------------------------------------------------


def finite_quadratic(curvatures, nbeta, gamma):
    """λ̂ of a quadratic minimum at finite (n, β, γ), exactly: ½ Σ ρ_i with ρ_i = nβh_i/(nβh_i + γ)."""
    stiffness = nbeta * np.asarray(curvatures, float)
    return float(0.5 * np.sum(stiffness / (stiffness + gamma)))


def finite_product(powers, nbeta, gamma):
    """λ̂ of L = Π |w_i|^(s_i) at finite (n, β, γ), exactly.

    With a = nβ and w ~ N(0, 1/γ): Z(a) = E[exp(−aL)] = (1/2πi) ∫ Γ(z) a^(−z) E[L^(−z)] dz along Re z = c, 0 < c < 1/max s
    (Mellin–Barnes), where E|w|^(−sz) = (2/γ)^(−sz/2) Γ((1−sz)/2)/√π; and λ̂ = −d ln Z/d ln a is the mean of z under that
    integrand. It is analytic and decays exponentially, so the trapezoidal rule is exact to rounding; c is put so near to the
    pole at 1/max s that nothing cancels.
    """
    powers = np.asarray([power for power in powers if power], float)
    pole = 1 / powers.max()
    margin = min(pole / 2, 1 / max(np.log(nbeta), 1.0))
    z = pole - margin + 1j * np.arange(-80, 80, margin / 8)
    logs = scipy.special.loggamma(z) - z * np.log(nbeta)
    for power in powers:
        logs += -0.5 * power * z * np.log(2 / gamma) + scipy.special.loggamma((1 - power * z) / 2)
    weights = np.exp(logs - logs.real.max())
    return float(np.sum(z * weights).real / np.sum(weights).real)
