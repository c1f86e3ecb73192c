"""λ̂, its errors and what else is free with a trace.

λ̂ = E[excess]                                  excess = nβ(L_n(w) − L_n(w0))
second estimator, needs no L_n(w0)              (nβ)² Var L_n = Var[excess]
dλ̂/d ln β = λ̂ − Var[excess]                     dλ̂/d ln γ = −(γ/2) Cov(excess, |w−w0|²)
control variate: E[excess − c (stein_A − tr A)], c by regression; for a quadratic L_n no variance is left
"""

import warnings
from typing import NamedTuple

import numpy as np
import xarray as xr


class Chains(NamedTuple):
    """Mean and diagnostics of a quantity over chains and draws.

    Attributes:
        mean, std: over all draws.
        mcse: Monte Carlo standard error of the mean, the larger of ArviZ's (from autocorrelation) and the one between
            the chains' means.
        ess: effective sample size of the bulk (ArviZ).
        rhat: rank-normalised split R-hat (ArviZ).
    """

    mean: float
    std: float
    mcse: float
    ess: float
    rhat: float


def summarise(values):
    """`Chains` of an array `[chains, draws]`; what cannot be computed is nan."""
    values = np.asarray(values, float)
    chains, draws = values.shape
    finite = np.all(np.isfinite(values))
    mean, std = (float(values.mean()), float(values.std(ddof=1))) if finite and values.size > 1 else (np.nan, np.nan)
    if not finite or draws < 4:
        return Chains(mean, std, np.nan, np.nan, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz as az

        data = xr.Dataset({"v": (("chain", "draw"), values)})
        ess = float(az.ess(data)["v"])
        within = float(az.mcse(data, method="mean")["v"])
        rhat = float(az.rhat(data)["v"]) if std > 0 else np.nan
    between = float(values.mean(1).std(ddof=1) / np.sqrt(chains)) if chains > 1 else 0.0
    return Chains(mean, std, max(within, between), ess, rhat)


def sensitivities(excess, distance2, gamma):
    """How λ̂ moves with ln β and with ln γ, from the draws at hand."""
    covariance = np.mean((excess - excess.mean()) * (distance2 - distance2.mean()))
    return {
        "dllc_dlog_beta": float(excess.mean() - excess.var()),
        "dllc_dlog_gamma": float(-0.5 * gamma * covariance),
    }


def control_variate(excess, stein, expected):
    """λ̂ with the Stein identity's fluctuation regressed out, its `Chains`, and the fitted coefficient."""
    deviation = stein - expected
    spread = deviation.var()
    coefficient = (
        float(np.mean((excess - excess.mean()) * (deviation - deviation.mean())) / spread) if spread > 0 else 0.0
    )
    return summarise(excess - coefficient * deviation), coefficient
