"""The known learning coefficients: Aoyagi's table, an independent formula for two layers, quadrature for the rest."""

import itertools
from fractions import Fraction

import numpy as np
import problems
import pytest
from scipy import integrate

from lambda_hat.targets import artifact, models, truths

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


CROSSINGS = [
    ((1, 0), 1.0, (0.498, 0.500, 0.500, 0.500)),
    ((1, 1), 1.0, (0.361, 0.391, 0.411, 0.425)),
    ((2, 2), 1.0, (0.150, 0.166, 0.178, 0.187)),
]


@pytest.mark.parametrize(("powers", "gamma", "expected"), CROSSINGS)
def test_finite_crossing_table(powers, gamma, expected):
    """Quadrature at n = 1e3 … 1e6, β = 1/log n."""
    doubled = [2 * k for k in powers]
    found = [truths.finite_product(doubled, n / np.log(n), gamma) for n in (1e3, 1e4, 1e5, 1e6)]
    np.testing.assert_allclose(found, expected, atol=6e-4)


@pytest.mark.parametrize(("power", "nbeta", "gamma"), [(2, 100.0, 3.0), (3.5, 40.0, 1.0), (4, 1e5, 0.1), (6, 0.3, 2.0)])
def test_finite_monomial_by_quadrature(power, nbeta, gamma):
    scale = (nbeta + 1) ** (-1 / power)
    density = lambda w: np.exp(-nbeta * w**power - gamma * w**2 / 2)
    options = {"points": [scale / 3, scale, 3 * scale], "limit": 500, "epsabs": 0, "epsrel": 1e-10}
    end = 12 * scale + 12 / np.sqrt(gamma)
    total = integrate.quad(density, 0, end, **options)[0]
    mean = integrate.quad(lambda w: nbeta * w**power * density(w), 0, end, **options)[0] / total
    assert truths.finite_product([power], nbeta, gamma) == pytest.approx(mean, rel=1e-7)


def test_finite_value_reaches_the_truth():
    """λ − (m−1)/log nβ, at nβ = 1e200, for any number of factors."""
    for powers in ((1, 1, 1), (2, 1), (3, 3), (1, 1, 1, 1, 1, 0)):
        truth = truths.normal_crossing(powers)
        found = truths.finite_product([2 * k for k in powers], 1e200, 1.0)
        expected = float(truth.learning_coefficient) - (truth.multiplicity - 1) / np.log(1e200)
        assert found == pytest.approx(expected, abs=1e-3), powers


def test_monomial():
    assert truths.monomial([2.0, 4.0, 6.0])[:2] == (Fraction(11, 12), 1)
    assert truths.monomial([2.5])[:2] == (Fraction(2, 5), 1)


def test_tanh_of_one_unit_is_a_crossing():
    """b tanh(ax) ≈ abx: λ = ½, m = 2; and the table of the formula."""
    assert truths.tanh_zero(1)[:2] == truths.normal_crossing((1, 1))[:2]
    found = [truths.tanh_zero(h)[:2] for h in (2, 3, 4, 5, 9)]
    expected = [(Fraction(2, 3), 1), (Fraction(5, 6), 1), (Fraction(1), 2), (Fraction(11, 10), 1), (Fraction(3, 2), 2)]
    assert found == expected


def test_two_layers_at_the_balanced_point_are_the_global_coefficient():
    for q, h, p in itertools.product(range(1, 6), repeat=3):
        for r in range(min(q, h, p) + 1):
            assert truths.two_layers((q, h, p), r, r, r)[:2] == truths.deep_linear((q, h, p), r)[:2]


def test_two_layers_elsewhere():
    """λ at w0 is never below the global one, and half the dimension of the outputs where a layer is onto."""
    for q, h, p in itertools.product(range(1, 6), repeat=3):
        for r in range(min(q, h, p) + 1):
            for a, b in itertools.product(range(r, min(q, h) + 1), range(r, min(h, p) + 1)):
                if a + b - r > h:
                    continue
                found = truths.two_layers((q, h, p), a, b, r).learning_coefficient
                assert found >= truths.deep_linear((q, h, p), r).learning_coefficient
                if a == q or b == p:
                    assert found == Fraction(q * p, 2)


TEACHER = ("training=teacher", "data.noise_model=none")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("model=quadratic", "model.dim=3", "model.curvatures=[1,0,2]"), (1, 1)),
        (("model=normal_crossing", "model.powers=[2,1,2]"), (Fraction(1, 4), 2)),
        (("model=monomial", "model.powers=[2,4,4]"), (1, 1)),
        (("model=deep_linear", "data.teacher_rank=2", *TEACHER), (Fraction(19, 2), 2)),
        (("model=tanh", "data.teacher_rank=0", "training=teacher"), (Fraction(5, 6), 1)),
        (("model=tanh", "model.bias=true", "data.teacher_rank=0", "training=teacher"), None),
        (("model=deep_linear", "data.teacher_rank=2"), None),
        (("model=small",), None),
    ],
)
def test_configurations_get_the_truth_of_their_model(options, expected):
    made = problems.config(*options)
    truth = models.build(made.model).truth(made.data, made.training, None)
    assert truth is None if expected is None else truth[:2] == expected and truth.local


@pytest.mark.parametrize("seed", range(4))
def test_a_random_teacher_of_two_layers_has_its_local_coefficient(seed):
    made = problems.config(
        "model=deep_linear", "data.teacher_rank=1", "data.teacher_balanced=false", *TEACHER, f"seed={seed}"
    )
    target = artifact.build(made, problems.silent)
    weights = [np.asarray(target.params[f"layer{i}"]["weight"]) for i in (0, 1)]
    ranks = [np.linalg.matrix_rank(weight) for weight in weights]
    assert sorted(ranks) == [1, 3]
    assert np.linalg.matrix_rank(weights[0] @ weights[1]) == 1
    truth = target.meta["truth"]
    assert truth["lambda"] == float(truths.two_layers((5, 3, 5), *map(int, ranks), 1).learning_coefficient)
    assert truth["lambda"] > truths.deep_linear((5, 3, 5), 1).learning_coefficient
    assert truth["local"]


def test_deeper_random_teachers_have_the_global_coefficient_only():
    made = problems.config(
        "model=deep_linear", "model.widths=[4,4]", "data.teacher_rank=1", "data.teacher_balanced=false", *TEACHER
    )
    truth = models.build(made.model).truth(made.data, made.training, None)
    assert truth.learning_coefficient == truths.deep_linear((5, 4, 4, 5), 1).learning_coefficient
    assert not truth.local
