"""λ̂, its error and what else is free with the draws. Works on arrays `[chains, draws]`; knows no sampler.

excess       x = nβ (L_n(w) − L_n(w0)), whose mean is λ̂
Stein term   s = (w−w0)ᵀR∇U − tr R, of mean 0 under π; U = −log π, R = nβH(nβH+γ)⁻¹, H the curvature at w0
λ̂            mean of x − c s, c by regression: for a quadratic L_n no variance is left
second one   (nβ)² Var L_n = Var x, which needs no L_n(w0)
sensitivity  dλ̂/d ln β = λ̂ − Var x          dλ̂/d ln γ = −(γ/2) Cov(x, |w−w0|²)
"""

import warnings
from typing import NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import scipy.stats
import xarray as xr
from jaxtyping import Float

from lambda_hat.analysis.summary import ErrorBudget, Sensitivities, known

Draws = Float[np.ndarray, "chains draws"]

NORMAL = 1.96
"""Standard errors in half a 95 % interval, where the error rests on many effective draws."""

FREEDOM = 0.25
"""Degrees of freedom of the standard error, for each effective draw: of few draws it is known to some 20 % only. Measured on
autoregressive chains at an ESS of 100: the interval holds in 94 % of cases without, in 95 % with them."""

DISAGREE = 0.95
"""Level at which the scatter of the chains' means counts as more than autocorrelation explains."""

USEFUL = 0.9
"""The control variate is used where it brings the standard error below this share of the raw mean's. Both errors are estimates,
good to some 5 % at an ESS of 400: a smaller gain may be chance, and choosing by it would make the error too small."""

DOUBT = {"predicted": 0.5, "compensated": 1.0}
"""Share of a prediction of the bias that may be wrong. Of first order: measured, 2.3 % for 2.0 % on the 10k-parameter network."""

NARROW = 0.1
"""Standard deviation of what is averaged, over λ̂, up to which 100 effective draws are good to 1 %, and chains whose R-hat is 1.05
differ by no more."""

ROUNDING = {"float32": 1e-6, "float64": 1e-12}
"""Relative error of λ̂ by rounding: the least standard error that is stated. Measured on quadratics, whose control variate leaves
nothing else: at most 3e-7 in float32."""


class Chains(NamedTuple):
    """Mean and diagnostics of a quantity over chains and draws; what cannot be computed is nan.

    Attributes:
        mean, std: over all draws.
        mcse: Monte Carlo standard error of the mean (ArviZ), at least `between` where the chains disagree.
        within: from autocorrelation within each chain alone.
        between: from the scatter of the chains' means; nan for one chain.
        quantile: how many `mcse` make half of a 95 % interval: Student's, with `FREEDOM` for each effective draw, or where it
            rests on the few chains' means, as many less one.
        disagree: whether it does, since the chains disagree.
        ess: effective sample size of the bulk (ArviZ).
        rhat: rank-normalised split R-hat (ArviZ); nan for one chain.
    """

    mean: float
    std: float
    mcse: float
    within: float
    between: float
    quantile: float
    disagree: bool
    ess: float
    rhat: float


def summarise(values: Draws) -> Chains:
    """Mean of draws with its Monte Carlo standard error, ESS and R-hat.

    The error is ArviZ's, from the autocorrelation of all chains. Where the chains' means scatter by more than that explains (a χ²
    test at the 95 % level) it is the scatter's, and the interval is Student's t of so few numbers.

    Arguments:
        values: `[chains, draws]`; at least 4 draws for anything but a mean and a standard deviation, and all of them finite.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((4, 1000))
        >>> f"{summarise(3 + x).mean:.2f} ± {summarise(3 + x).mcse:.3f}"
        '2.98 ± 0.016'

    References:
        Vehtari, Gelman, Simpson, Carpenter, Bürkner, Bayesian Analysis 16:667 (2021).
    """
    values = np.asarray(values, float)
    chains, draws = values.shape
    finite = np.all(np.isfinite(values))
    mean, std = (float(values.mean()), float(values.std(ddof=1))) if finite and values.size > 1 else (np.nan, np.nan)
    if not finite or draws < 4:
        return Chains(mean, std, np.nan, np.nan, np.nan, np.nan, False, np.nan, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz as az

        data = xr.Dataset({"v": (("chain", "draw"), values)})
        ess = float(az.ess(data)["v"])
        pooled = float(az.mcse(data, method="mean")["v"])
        each = [float(az.mcse(data.isel(chain=[i]), method="mean")["v"]) for i in range(chains)]
        rhat = np.nan
        if chains > 1 and std > 0:  # ArviZ complains of one chain
            rhat = float(cast(xr.Dataset, az.rhat(data))["v"])  # of a Dataset it makes one, which its hints do not say
    within = float(np.sqrt(np.mean(np.square(each)) / chains))
    between = float(values.mean(1).std(ddof=1) / np.sqrt(chains)) if chains > 1 else np.nan
    scatter = scipy.stats.chi2.ppf(DISAGREE, chains - 1) / (chains - 1) if chains > 1 else np.nan
    if between**2 > scatter * within**2:
        quantile = float(scipy.stats.t.ppf(0.975, chains - 1))
        return Chains(mean, std, max(pooled, between), within, between, quantile, True, ess, rhat)
    quantile = float(scipy.stats.t.ppf(0.975, FREEDOM * ess)) if FREEDOM * ess > 1 else NORMAL
    return Chains(mean, std, pooled, within, between, quantile, False, ess, rhat)


# --- the best estimate ------------------------------------------------------------------------------------------------


def control_variate(excess: Draws, stein: Draws, trace_r: float) -> tuple[Chains, float]:
    """The mean of the excess with the Stein term regressed out: mean of x − c s, c = Cov(x, s)/Var(s).

    E s = 0 for any constant matrix R under the exact posterior, so the mean stays what it is and its variance falls by the share of
    Var x that s explains: all of it for a quadratic L_n (c = ½), none where R vanishes (c = 0). The coefficient is fitted on the
    draws that it corrects, which costs one degree of freedom of the ESS: over 2000 simulated runs with an ESS of 100 the bias is
    below 0.02 standard errors (tests/test_analysis.py).

    A chain stuck at w0 has x − s/2 = ½ tr R, as if it had converged: judge convergence by x.

    Arguments:
        excess: x `[chains, draws]`.
        stein: (w−w0)ᵀR∇U `[chains, draws]`.
        trace_r: tr R, its mean.

    Returns:
        the `Chains` of x − c s, and c.

    References:
        Assaraf and Caffarel, Phys. Rev. Lett. 83:4682 (1999); Mira, Solgi and Imparato, Stat. Comput. 23:653 (2013).
    """
    term = stein - trace_r
    variance = term.var()
    coefficient = float(np.mean((excess - excess.mean()) * (term - term.mean())) / variance) if variance > 0 else 0.0
    return summarise(excess - coefficient * term), coefficient


@runtime_checkable
class _Records(Protocol):
    @property
    def excess(self) -> Draws: ...
    @property
    def distance2(self) -> Draws: ...
    @property
    def stein(self) -> Draws: ...
    @property
    def stein_curvature(self) -> Draws: ...


@runtime_checkable
class _Fluctuation(Protocol):
    @property
    def variance(self) -> float: ...
    @property
    def training_loss(self) -> float: ...
    @property
    def variance_terms(self) -> Draws: ...
    @property
    def training_terms(self) -> Draws: ...
    @property
    def numbers(self) -> np.ndarray: ...


@runtime_checkable
class _Bias(Protocol):
    @property
    def kind(self) -> str: ...
    @property
    def share(self) -> float: ...


class Estimate(NamedTuple):
    """λ̂ as well as a run's draws give it.

    Attributes:
        mean: λ̂: Stein-corrected where that helps, else the raw mean less the predicted bias.
        mcse: its Monte Carlo standard error.
        quantile: how many `mcse` make half of a 95 % interval.
        disagree: whether `mcse` is the scatter of the chains' means.
        bias: estimated bias of the raw mean by the sampler's transitions, positive where it is too large.
        bias_error: how much bias may be left in `mean`, in half a 95 % interval.
        raw: `Chains` of the excess, on which convergence is judged.
        corrected: `Chains` of the excess with the Stein term regressed out.
        coefficient: c of that regression.
        uses_stein: whether `mean` is `corrected.mean`.
        stein: `Chains` of (w−w0)·∇U, whose mean is p under the exact posterior.
        distance2: `Chains` of |w−w0|², which is slow where L_n hardly changes.
    """

    mean: float
    mcse: float
    quantile: float
    disagree: bool
    bias: float
    bias_error: float
    raw: Chains
    corrected: Chains
    coefficient: float
    uses_stein: bool
    stein: Chains
    distance2: Chains

    @property
    def is_narrow(self) -> bool:
        """Whether what is averaged scatters by a small share of λ̂, so that few effective draws will do."""
        return (self.corrected if self.uses_stein else self.raw).std < NARROW * abs(self.mean)

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval, but for the baseline."""
        return float(np.hypot(self.quantile * self.mcse, self.bias_error))


def estimate(records: _Records, trace_r: float, p: int, bias: _Bias, dtype: str, gain: float | None = None) -> Estimate:
    """The best estimate of λ̂ and its error.

    The Stein-corrected mean, where its standard error is below `USEFUL` times the raw mean's; else the raw mean, less the bias that
    the sampler predicts. The correction measures the bias of an unadjusted sampler's draws as well, by the identity's residual, and
    takes it off but for the share of the excess that it does not explain (none for a quadratic): that share of the bias, predicted
    or measured, whichever is larger, widens the interval.

    Arguments:
        records: `samplers.density.Record` of arrays `[chains, draws]`.
        trace_r: tr R.
        p: number of parameters.
        bias: `samplers.base.Bias` of the raw mean.
        dtype: `float32` or `float64`, which rounding depends on.
        gain: of a descent from w0: a share of bias is one of λ̂ from the minimum near w0, whatever w0 lies above it. None = 0.
    """
    raw, stein = summarise(records.excess), summarise(records.stein)
    corrected, coefficient = control_variate(records.excess, records.stein_curvature, trace_r)
    uses_stein = bool(corrected.mcse < USEFUL * raw.mcse)
    scale = raw.mean + (gain or 0.0)
    if scale <= 0:  # w0 lies above the minimum by more than anybody has measured
        scale = trace_r / 2 or abs(raw.mean)
    predicted = scale * bias.share / (1 + bias.share)
    measured = scale * (stein.mean / p - 1), scale * stein.mcse / p
    if uses_stein:
        removed = raw.mean - corrected.mean
        noise = np.sqrt(max(raw.mcse**2 - corrected.mcse**2, 0.0))
        unexplained = min(corrected.std / raw.std, 1.0)
        kept = unexplained * predicted if bias.kind in DOUBT else 0.0
        chains, mean, off = corrected, corrected.mean - kept, removed + kept
        left = 0.0 if bias.kind == "none" else unexplained * max(_beyond(removed, noise), abs(predicted))
    elif bias.kind in DOUBT:
        chains, mean, off, left = raw, raw.mean - predicted, predicted, DOUBT[bias.kind] * abs(predicted)
        if bias.kind == "compensated":
            left = max(left, _beyond(*measured))
    elif bias.kind in ("measured", "unknown"):
        chains, mean, off, left = raw, raw.mean, measured[0], _beyond(*measured)
    else:
        chains, mean, off, left = raw, raw.mean, predicted, abs(predicted)
    return Estimate(
        mean=mean,
        mcse=float(np.hypot(chains.mcse, ROUNDING[dtype] * abs(mean))),
        quantile=chains.quantile,
        disagree=chains.disagree,
        bias=0.0 if bias.kind == "none" else float(off),
        bias_error=float(left),
        raw=raw,
        corrected=corrected,
        coefficient=coefficient,
        uses_stein=uses_stein,
        stein=stein,
        distance2=summarise(records.distance2),
    )


def _beyond(value: float, noise: float) -> float:
    """By how much a measured value exceeds its own standard error."""
    return max(abs(value) - noise, 0.0) if np.isfinite(value) else np.nan


def budget(
    found: Estimate, baseline: float, is_wanted: bool = False
) -> tuple[ErrorBudget, tuple[float | None, float | None]]:
    """Where λ̂'s error comes from, and the 95 % interval.

    mean ± √((quantile·mcse)² + bias_error²), and up by what w0 lies above the minimum nearby.

    Arguments:
        found: the estimate.
        baseline: what a descent from w0 gains, in units of λ̂.
        is_wanted: whether w0 is what λ̂ is to be measured from all the same, so that this is no error.
    """
    chains = found.corrected if found.uses_stein else found.raw
    parts = {
        "between" if found.disagree else "within": found.quantile * found.mcse,
        "discretisation": found.bias_error,
        "baseline": 0.0 if is_wanted else baseline,
    }
    error = ErrorBudget(
        within=known(chains.within),
        between=known(chains.between),
        discretisation=known(found.bias),
        discretisation_error=known(found.bias_error),
        baseline=known(baseline),
        dominant=max(parts, key=lambda name: np.nan_to_num(parts[name])),
    )
    return error, (known(found.mean - found.half_width), known(found.mean + found.half_width + parts["baseline"]))


def laplace_budget(laplace: float, drawn: Chains, baseline: float) -> ErrorBudget:
    """What is known of the Laplace value's error: no interval follows from it.

    Arguments:
        laplace: ½ tr R.
        drawn: `Chains` of the excess of draws of that Gaussian, which falls short of `laplace` where the curvature falls off
            along them. The posterior's may by more: 32 % for the draws' 10 % on the 10k-parameter network, and 5 % less for
            38 % more on the default one.
        baseline: what a descent from w0 gains.
    """
    return ErrorBudget(
        within=None,
        between=None,
        discretisation=known(laplace - drawn.mean),
        baseline=known(baseline),
        dominant="discretisation",
    )


# --- what else the draws say ------------------------------------------------------------------------------------------


def sensitivities(excess: Draws, distance2: Draws, gamma: float) -> Sensitivities:
    """How λ̂ moves with ln β and with ln γ, with standard errors.

        dλ̂/d ln β = E x − Var x          dλ̂/d ln γ = −(γ/2) Cov(x, |w−w0|²)

    Each is the mean over the draws of an influence function (x − (x−x̄)², and −(γ/2)(x−x̄)(d−d̄)), whose Monte Carlo error is
    that of any mean: the means that are put in add nothing to first order.

    Arguments:
        excess: x `[chains, draws]`.
        distance2: d = |w−w0|² `[chains, draws]`.
        gamma: γ.
    """
    deviation = excess - excess.mean()
    beta = summarise(excess - deviation**2)
    gamma_ = summarise(-0.5 * gamma * deviation * (distance2 - distance2.mean()))
    return Sensitivities(
        dllc_dlog_beta=known(beta.mean),
        dllc_dlog_beta_mcse=known(beta.mcse),
        dllc_dlog_gamma=known(gamma_.mean),
        dllc_dlog_gamma_mcse=known(gamma_.mcse),
    )


def variance(excess: Draws) -> Chains:
    """(nβ)² Var L_n, the second estimator of λ̂, as the mean of (x − x̄)²."""
    return summarise((excess - excess.mean()) ** 2)


class Generalisation(NamedTuple):
    """Of the localised posterior at its β and γ, each with a Monte Carlo standard error.

    Attributes:
        singular_fluctuation: ν = (β/2) V, V = Σ_i Var ℓ_i the functional variance.
        waic: T + (β/n) V = T + 2ν/n in nats, T = −(1/n) Σ_i log E exp(−ℓ_i) the Bayes training loss.
    """

    singular_fluctuation: tuple[float, float]
    waic: tuple[float, float]


def generalisation(found: _Fluctuation, excess: Draws, llc: tuple[float, float], n: int, beta: float) -> Generalisation:
    """Singular fluctuation and WAIC, with errors, from the pairs' losses at a few draws.

    Both are means over these draws of x's kin: what a draw adds to them moves with its excess, whose mean is known far better, from
    all draws, as λ̂. So the excess is regressed out, and put back at λ̂: mean of y − c (x − λ̂), c = Cov(x, y)/Var(x).

    Arguments:
        found: `samplers.fluctuation.Fluctuation`.
        excess: x of the draws that it was measured on `[chains, kept]`.
        llc: λ̂ and its standard error.
        n: pairs.
        beta: β.

    References:
        Watanabe, J. Mach. Learn. Res. 11:3571 (2010), equations 5 to 7: the three, with the posterior at inverse temperature β.
    """
    factor = beta / n
    variance = _put_back(found.variance, found.variance_terms, excess, llc)
    waic = _put_back(
        found.training_loss + factor * found.variance,
        found.training_terms + factor * found.variance_terms,
        excess,
        llc,
    )
    return Generalisation((beta / 2 * variance[0], beta / 2 * variance[1]), waic)


def _put_back(value, terms, excess, llc):
    """A statistic and its error, of what its draws' terms have in common with the excess freed."""
    mean, deviation = excess.mean(), excess - excess.mean()
    spread = np.mean(deviation**2)
    coefficient = float(np.mean(deviation * terms) / spread) if spread > 0 else 0.0
    left = summarise(terms - coefficient * excess)
    return value - coefficient * (mean - llc[0]), float(np.hypot(left.mcse, coefficient * llc[1]))
