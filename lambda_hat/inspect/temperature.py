"""λ from runs of one target at several inverse temperatures: by regression, and extrapolated where its multiplicity is above one.

E_β[n L_n] = n L_n(w0) + λ̂(β)/β. Where λ̂ does not depend on β, as at a minimum of multiplicity 1 whose γ is not felt, λ is the
slope of E_β[n L_n] over 1/β (Watanabe 2013, doi 10.5555/2567709.2502609, whose WBIC is the one point β = 1/log n). The regression
needs no L_n(w0). Where λ̂ does depend on β, its slope is an average of λ̂ − dλ̂/d ln β, that is of the variance estimator
(nβ)² Var L_n, and farther from λ than λ̂ at the largest β is.

At multiplicity m the partition function goes as t^−λ (log t)^(m−1), t = nβ, so λ̂(t) = λ − (m−1)/(log t + c) with a constant c
that the prior and the shape of the zero set decide.

Measured with HMC at nβ = 1e3 … 1e5, γ = 1 (regression, then m = 2): crossing, m = 2, λ = 0.5, 25 runs: 0.401 ± 0.003 and
0.502 ± 0.005; a linear network 5-3-5 of rank 2, m = 2, λ = 9.5: 9.335 ± 0.035, though χ² found nothing, and 9.57 ± 0.06; monomial,
m = 1, λ = 0.9167, 25 runs: 0.909 ± 0.002 and 0.952 ± 0.016. A single run at nβ = 1e5 gives 0.42, 9.47 and 0.908.

On ten targets, 4 seeds of 300 draws at nβ = 300 … 1e4, γ = 1, n = 200 (tests/benchmarks/temperatures.py): mean error of λ in
per cent, 95 % intervals that hold λ; the last two have as many draws at one β as the four runs together.

    target                m   regression   if m = 2    nβ = 1e4   WBIC, β = 1/log n
    linear 4-3-8, r 3     1   +0.8  3/4    +1.7  3/4   +0.4  1/1   +0.1  1/1
    linear 4-4-4-4, r 1   1   −4.7  1/4    +1.0  4/4   −2.3  0/1    −10  0/1
    linear 5-3-5, r 0     2   −4.6  1/4    −0.8  4/4   −2.9  1/1    −11  0/1
    linear 5-3-5, r 2     2   −2.8  0/4    +1.0  4/4   −0.9  1/1   −4.4  0/1
    … with noise          2   −1.6  3/4    no fit       −19  0/1   −3.1  0/1
    monomial              1   −0.7  4/4    +6.0  3/4   +0.8  1/1   −1.7  1/1
    w1² w2²               2    −21  0/4    −6.0  4/4    −17  0/1    −34  0/1
    w1⁴ w2²               1   −8.6  2/4     +21  4/4   −1.7  1/1    −19  0/1
    flat                  1   −0.2  0/4    no fit      −0.0  0/1   −2.4  0/1
    quadratic             1   −2.9  0/4    no fit      −0.2  0/1    −20  0/1

So the regression is no help where w0 is a minimum: a run at the largest β, which takes twice the gradients, is as near to λ or
nearer. WBIC is farthest as a rule, at a tenth of the gradients. What a finite β lacks is in no interval but that of the right
multiplicity, which held λ in 12 of 12. The regression helps where w0 has fitted noise: there L_n(w0) is not what a cold posterior
is measured from. A γ that is felt (quadratic) spoils all of them.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lambda_hat.inspect.groups import Columns, estimands
from lambda_hat.inspect.groups import Estimand as Group
from lambda_hat.inspect.records import Record
from lambda_hat.system.errors import UserError

NORMAL95 = 1.959964
CHI95 = NORMAL95**2
SAME = 1e-6
"""Relative difference up to which two β are the same."""

DOUBTFUL = 0.01
"""Probability of χ² below which a fit is said to be bad."""

OFFSETS = np.geomspace(0.3, 3e3, 4000)
"""Of log t + c at the smallest t: what the fit at multiplicity m looks through. The last is a constant λ̂."""


class Point(NamedTuple):
    """A run of the tempered curve: nβ and β, λ̂ and its MCSE, dλ̂/d ln β and its MCSE."""

    nbeta: float
    beta: float
    llc: float
    mcse: float
    slope: float | None
    slope_mcse: float | None


class Line(NamedTuple):
    """A weighted fit of a straight line.

    Attributes:
        intercept, slope: of the line.
        error: standard error of the slope, from the given errors alone.
        chi2, freedom: of the fit.
    """

    intercept: float
    slope: float
    error: float
    chi2: float
    freedom: int


class Fit(NamedTuple):
    """λ of runs that differ in β alone.

    Attributes:
        matched: target, model, sampler and γ, and what else tells fits apart.
        temperatures, runs, bad: different β; runs that count; runs that are bad, which do not.
        llc, error, low, high: λ by regression, its standard error and its 95 % interval, both widened by √(χ²/dof) where
            the fit is bad.
        chi2, freedom, chi2_reduced: of the regression.
        verdict: what that says in words.
        extrapolated, extrapolated_error, extrapolated_low, extrapolated_high: λ if the multiplicity is 2, None where that
            does not fit either; the error is the
            interval's width over 3.92, though it is not symmetric.
        extrapolated_chi2: of that fit, which has as many degrees of freedom.
        wbic, wbic_error: λ̂ at β = 1/log n, where the sweep has that β.
        truth: λ, where it is known.
        curve: the runs, by β.
    """

    matched: dict[str, Any]
    temperatures: int
    runs: int
    bad: int
    llc: float
    error: float
    low: float
    high: float
    chi2: float
    freedom: int
    chi2_reduced: float | None
    verdict: str
    extrapolated: float | None
    extrapolated_error: float | None
    extrapolated_low: float | None
    extrapolated_high: float | None
    extrapolated_chi2: float | None
    wbic: float | None
    wbic_error: float | None
    truth: float | None
    curve: list[Point]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each run of the curve: its point, and all of the fit."""
        at = [{"nbeta": point.nbeta, "beta": point.beta} for point in self.curve]
        rest = [{f"curve_{name}": getattr(point, name) for name in Point._fields[2:]} for point in self.curve]
        return [self.row() | where | what for where, what in zip(at, rest, strict=True)]

    def row(self) -> dict[str, Any]:
        """All but the curve, by column."""
        return self.matched | {
            name: value for name, value in self._asdict().items() if name not in ("matched", "curve")
        }


def fits(records: Sequence[Record], columns: Columns) -> list[Fit]:
    """A `Fit` for each target, sampler and γ of which there are finished runs at two β or more.

    Arguments:
        records: runs.
        columns: the tidy table's.

    Raises:
        UserError: where there is none.
    """
    done = [r for r in records if r.state == "done" and r.summary and r.run_id]
    estimand, groups = estimands(done), {}
    for record in done:
        groups.setdefault(_but_beta(record, estimand[record.name]), []).append(record)
    found = []
    for members in groups.values():
        good = [
            r for r in members if r.summary.status != "bad" and r.summary.llc_mean is not None and r.summary.llc_mcse
        ]
        made = fit([_point(record) for record in good])
        if made is not None:
            wbic, error = _wbic(good)
            truth = good[0].summary.truth
            matched = {name: columns[name](good[0]) for name in ("target_id", "model", "n", "seed", "sampler", "gamma")}
            found.append(
                made._replace(
                    matched=matched,
                    bad=sum(r.summary.status == "bad" for r in members),
                    wbic=wbic,
                    wbic_error=error,
                    truth=truth.learning_coefficient if truth else None,
                )
            )
    if not found:
        raise UserError(
            "no target has finished runs at two inverse temperatures that agree in sampler and γ; make some with "
            "posterior.nbeta=1000,3000,10000."
        )
    keep = [name for name in found[0].matched if name in ("target_id", "sampler", "gamma") or _varies(found, name)]
    return [each._replace(matched={name: each.matched[name] for name in keep}) for each in found]


def _varies(found, name):
    return len({str(each.matched[name]) for each in found}) > 1


def _but_beta(record, estimand: Group):
    values = record.summary.estimand
    rest = tuple(value for value in estimand.posterior[8:])
    same = (
        values.n,
        float(f"{values.gamma:.9g}"),
        values.loss,
        values.noise_scale,
        values.dtype,
        values.parameters,
        values.other_data,
    )
    return record.target_id, record.sampler, same, rest, estimand.estimator


def _point(record):
    summary, slopes = record.summary, record.summary.sensitivities
    slope = slopes.dllc_dlog_beta
    if slope is None and summary.llc_raw is not None and summary.llc_variance_estimator is not None:
        slope = summary.llc_raw - summary.llc_variance_estimator
    return Point(
        summary.estimand.nbeta,
        summary.estimand.beta,
        summary.llc_mean,
        summary.llc_mcse,
        slope,
        slopes.dllc_dlog_beta_mcse,
    )


def _wbic(good):
    """λ̂ at β = 1/log n, weighted by the errors of the runs there."""
    at = [
        r.summary
        for r in good
        if r.summary.estimand.n > 1 and abs(r.summary.estimand.beta * math.log(r.summary.estimand.n) - 1) < SAME
    ]
    if not at:
        return None, None
    weights = np.array([each.llc_mcse**-2 for each in at])
    return float(np.average([each.llc_mean for each in at], weights=weights)), float(weights.sum() ** -0.5)


# --- fits -------------------------------------------------------------------------------------------------------------


def fit(points: Sequence[Point]) -> Fit | None:
    """The fits to runs of one target; None where they have fewer than two different β.

    E[n (L_n − L_n(w0))] = λ̂/β over 1/β, weighted by the standard errors MCSE/β.
    """
    points = sorted(points)
    count = len({float(f"{point.beta:.6g}") for point in points})
    if count < 2:
        return None
    beta, llc, mcse = (np.array([getattr(each, name) for each in points]) for name in ("beta", "llc", "mcse"))
    made = line(1 / beta, llc / beta, mcse / beta)
    chance = chi2_tail(made.chi2, made.freedom) if made.freedom else None
    bad = chance is not None and chance < DOUBTFUL
    widen = math.sqrt(made.chi2 / made.freedom) if bad else 1.0
    half = NORMAL95 * made.error * widen
    curved = at_multiplicity([each.nbeta for each in points], llc, mcse, 2)
    if count > 2 and chi2_tail(curved.chi2, made.freedom) < DOUBTFUL:
        curved = Curved(None, None, None, curved.chi2)
    return Fit(
        matched={},
        temperatures=count,
        runs=len(points),
        bad=0,
        llc=made.slope,
        error=made.error * widen,
        low=made.slope - half,
        high=made.slope + half,
        chi2=made.chi2,
        freedom=made.freedom,
        chi2_reduced=made.chi2 / made.freedom if made.freedom else None,
        verdict=_verdict(chance, count),
        extrapolated=curved.llc,
        extrapolated_error=None
        if curved.low is None or curved.high is None
        else (curved.high - curved.low) / (2 * NORMAL95),
        extrapolated_low=curved.low,
        extrapolated_high=curved.high,
        extrapolated_chi2=curved.chi2,
        wbic=None,
        wbic_error=None,
        truth=None,
        curve=points,
    )


def _verdict(chance, count):
    if chance is None or count < 3:
        return "not checked"
    return "λ̂ depends on β" if chance < DOUBTFUL else "linear"


def line(x: np.ndarray, y: np.ndarray, error: np.ndarray) -> Line:
    """The straight line of least Σ ((y − a − b x)/error)², for arrays of the same shape (k,), k ≥ 2."""
    weight = error**-2.0
    middle = np.average(x, weights=weight)
    spread = np.sum(weight * (x - middle) ** 2)
    slope = np.sum(weight * (x - middle) * y) / spread
    intercept = np.average(y, weights=weight) - slope * middle
    chi2 = np.sum(weight * (y - intercept - slope * x) ** 2)
    return Line(float(intercept), float(slope), float(spread**-0.5), float(chi2), len(x) - 2)


class Curved(NamedTuple):
    """λ by λ̂(t) = λ − (m−1)/(log t + c), its 95 % interval by the profile of χ², and that of the fit.

    None where the fit is bad.
    """

    llc: float | None
    low: float | None
    high: float | None
    chi2: float


def at_multiplicity(
    nbeta: Sequence[float] | np.ndarray, llc: np.ndarray, mcse: np.ndarray, multiplicity: int
) -> Curved:
    """λ of a minimum of this multiplicity from λ̂ at several nβ.

    Arguments:
        nbeta, llc, mcse: nβ, λ̂ and its standard error, each of shape (k,).
        multiplicity: m ≥ 2.
    """
    log = np.log(np.asarray(nbeta, float))
    weight = mcse**-2.0
    drop = (multiplicity - 1) / (log - log.min() + OFFSETS[:, None])  # (offsets, k)
    best = np.average(llc + drop, weights=weight, axis=1)  # λ at each offset
    chi2 = np.sum(weight * (llc + drop - best[:, None]) ** 2, axis=1)
    least = int(np.argmin(chi2))
    near = chi2 <= chi2[least] + CHI95
    half = np.sqrt((chi2[least] + CHI95 - chi2[near]) / weight.sum())
    low, high = np.min(best[near] - half), np.max(best[near] + half)
    return Curved(float(best[least]), float(low), float(high), float(chi2[least]))


def chi2_tail(value: float, freedom: int) -> float:
    """Probability that χ² with this many degrees of freedom is larger."""
    from scipy.special import chdtrc

    return float(chdtrc(freedom, value))
