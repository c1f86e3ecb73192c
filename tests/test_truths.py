"""The known learning coefficients: Aoyagi's table, an independent formula for two layers, quadrature for the rest."""

import itertools
from fractions import Fraction

import numpy as np
import problems
import pytest
from scipy import integrate

from lambda_hat.targets import truths

AOYAGI = [
    ((5, 3, 5), 0, 6.5, 2),
    ((5, 3, 5), 2, 9.5, 2),
    ((5, 3, 5), 3, 10.5, 1),
    ((4, 3, 8), 0, 6, 1),
    ((4, 4, 4, 4), 0, 5.5, 3),
    ((4, 4, 4, 4), 1, 6.5, 1),
    ((10, 6, 10), 2, 32, 1),
    ((8, 8, 8, 8, 8), 2, 25.5, 5),
    ((10, 20, 20, 10), 10, 50, 1),
    ((20, 30, 20), 5, 197, 2),
    ((32, 16, 8), 4, 96, 1),
    ((64, 64, 64, 64), 10, 1562, 1),
    ((50, 50, 50, 50, 50), 0, 781.5, 5),
]


@pytest.mark.parametrize(("sizes", "rank", "coefficient", "multiplicity"), AOYAGI)
def test_deep_linear_table(sizes, rank, coefficient, multiplicity):
    truth = truths.deep_linear(sizes, rank)
    assert (truth.learning_coefficient, truth.multiplicity) == (coefficient, multiplicity)


def reduced_rank_regression(inputs, hidden, outputs, rank):
    """λ and m of two layers, case by case (Aoyagi & Watanabe 2005, main theorem)."""
    m, h, n, r = inputs, hidden, outputs, rank
    if n + r <= m + h and m + r <= n + h and h + r <= m + n:
        odd = (m + h + n + r) % 2
        value = -((h + r) ** 2) - m**2 - n**2 + 2 * (h + r) * (m + n) + 2 * m * n + odd
        return Fraction(value, 8), 1 + odd
    if m + h < n + r:
        return Fraction(h * m - h * r + n * r, 2), 1
    if n + h < m + r:
        return Fraction(h * n - h * r + m * r, 2), 1
    return Fraction(m * n, 2), 1


def test_two_layers_are_reduced_rank_regression():
    for sizes in itertools.product(range(1, 8), repeat=3):
        for rank in range(min(sizes) + 1):
            truth = truths.deep_linear(sizes, rank)
            assert truth[:2] == reduced_rank_regression(*sizes, rank), (sizes, rank)


def test_hidden_layers_may_be_permuted():
    """Transposing and reordering hidden layers leaves λ; the ends enter only through r(H_0 + H_L)."""
    for sizes in itertools.product(range(1, 5), repeat=4):
        for rank in range(min(sizes) + 1):
            a, b, c, d = sizes
            same = {truths.deep_linear(s, rank)[:2] for s in (sizes, (a, c, b, d), (d, b, c, a))}
            assert len(same) == 1, sizes


def test_full_rank_is_regular():
    """A map of the greatest possible rank h is a smooth point of the matrices of rank h: λ is half their dimension."""
    for sizes in itertools.product(range(1, 6), repeat=4):
        h = min(sizes)
        dimension = h * (sizes[0] + sizes[-1] - h)
        assert truths.deep_linear(sizes, h)[:2] == (Fraction(dimension, 2), 1), sizes


def test_coefficient_is_below_half_the_dimension_of_the_maps():
    for sizes in itertools.product(range(1, 5), repeat=4):
        for rank in range(min(sizes)):
            assert truths.deep_linear(sizes, rank).learning_coefficient <= Fraction(sizes[0] * sizes[-1], 2)


@pytest.mark.parametrize("rank", [-1, 4])
def test_impossible_rank_is_refused(rank):
    with pytest.raises(ValueError, match="between 0 and 3"):
        truths.deep_linear((5, 3, 5), rank)


@pytest.mark.parametrize("powers", [(1,), (3,), (1, 1), (1, 2), (2, 2), (0, 1), (3, 3)])
def test_normal_crossing_by_quadrature(powers):
    """−d log Z/d log t = λ − (m−1)/log t at t = e^140, Z = ∫ exp(−t Π w^2k) dw over the unit box, in w = e^(−a)."""
    log_t = 140.0
    a = np.arange(0.05, 160, 0.1)
    exponents = sum(2 * k * grid for k, grid in zip(powers, np.meshgrid(*[a] * len(powers)), strict=True))
    volume = sum(-grid for grid in np.meshgrid(*[a] * len(powers)))
    potential = np.exp(np.minimum(log_t - exponents, 700))
    weight = np.exp(volume - potential)
    slope = np.sum(potential * weight) / np.sum(weight)
    truth = truths.normal_crossing(powers)
    assert slope == pytest.approx(float(truth.learning_coefficient) - (truth.multiplicity - 1) / log_t, abs=5e-4)


@pytest.mark.parametrize(("nbeta", "gamma"), [(144.8, 1.0), (3.0, 100.0)])
def test_finite_quadratic_by_quadrature(nbeta, gamma):
    curvatures = [0.01, 0.7, 10.0, 0.0]

    def mean(h):
        def density(w):
            return np.exp(-nbeta * h * w**2 / 2 - gamma * w**2 / 2)

        width = 12 / np.sqrt(nbeta * h + gamma)
        total = integrate.quad(density, -width, width)[0]
        return integrate.quad(lambda w: nbeta * h * w**2 / 2 * density(w), -width, width)[0] / total

    expected = sum(map(mean, curvatures))
    assert truths.finite_quadratic(curvatures, nbeta, gamma) == pytest.approx(expected, rel=1e-9)


def test_configurations_get_the_truth_of_their_model():
    quadratic = problems.config("model=quadratic", "model.dim=3", "model.curvatures=[1,0,2]")
    crossing = problems.config("model=normal_crossing", "model.powers=[2,1,2]")
    linear = problems.config("model=deep_linear", "data.teacher_rank=2", "training=teacher", "data.noise_model=none")
    network = problems.config("model=small")
    assert truths.of(quadratic.model, quadratic.data, quadratic.training)[:2] == (1, 1)
    assert truths.of(crossing.model, crossing.data, crossing.training)[:2] == (Fraction(1, 4), 2)
    assert truths.of(linear.model, linear.data, linear.training)[:2] == (Fraction(19, 2), 2)
    assert truths.of(network.model, network.data, network.training) is None
