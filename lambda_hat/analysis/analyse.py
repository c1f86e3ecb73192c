"""From a run's draws to its `Summary`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lambda_hat import store
from lambda_hat.analysis import estimates, verdict
from lambda_hat.analysis.summary import (
    ESTIMATOR,
    ControlVariate,
    Estimand,
    Finding,
    SteinIdentity,
    Summary,
    Truth,
    Work,
    known,
)

LEFT = 0.25
"""|w−w0|² over |w0|² from which a chain is no longer where λ at w0 holds: |w−w0| is half of |w0|."""


def analyse(
    result: Any,
    estimand: Estimand,
    sampler: Any,
    posterior: Any,
    w0: np.ndarray,
    curvature_gradients: float,
    truth: Mapping[str, Any] | None = None,
    finite: float | None = None,
) -> Summary:
    """What a run's draws say: estimate, error, verdict and diagnostics. Whose run it is and what it took is added by the caller.

    Arguments:
        result: `samplers.sample.Result`.
        estimand: what λ̂ is an estimate of.
        sampler, posterior: their configurations.
        w0: the centre `[p]`.
        curvature_gradients: full-data gradients that the curvature at w0 took.
        truth: what the target's meta.json says of a known λ; nothing but `Summary.truth` and whether the chain is where that λ
            holds depends on it.
        finite: λ̂ of the exact posterior, where it is known.
    """
    records, steps, p = result.draws.records, result.draws.steps, len(w0)
    trace_r = float(result.density.shares.trace())
    found = estimates.estimate(records, trace_r, p, result.bias, estimand.dtype)
    w0_norm2, distance2 = float(w0 @ w0), float(np.mean(records.distance2))
    acceptance, divergences = float(np.mean(steps.acceptance)), int(np.sum(steps.diverging))
    mean, mcse, ess, rhat = found.mean, found.mcse, found.raw.ess, found.raw.rhat
    if result.bias.kind == "gaussian":
        error, interval = estimates.laplace_budget(result.laplace, found.raw, result.baseline_gain), (None, None)
        findings = verdict.judge_laplace(result.laplace, found.raw, result.baseline_gain)
        mean, mcse, ess, rhat = result.laplace, None, None, None
    else:
        error, interval = estimates.budget(found, result.baseline_gain)
        findings = verdict.judge(
            verdict.Evidence(
                excess=records.excess,
                distance2=records.distance2,
                estimate=found,
                low=interval[0],
                predicted_bias=result.bias.share,
                mcse_target=sampler.mcse_target,
                p=p,
                w0_norm2=w0_norm2,
                baseline_gain=result.baseline_gain,
                acceptance=acceptance,
                warmup=sampler.warmup,
                shortened=bool(result.tuned.get("shortened")),
                divergences=divergences,
            )
        )
    findings = verdict.worst_first([*findings, *_not_where_it_holds(truth, distance2, w0_norm2)])
    drawn, variance = float(np.sum(steps.gradients)), estimates.variance(records.excess)
    return Summary(
        estimator=ESTIMATOR,
        sampler=sampler.name,
        llc_mean=known(mean),
        llc_std=known(found.raw.std),
        llc_mcse=known(mcse),
        llc_interval95=interval,
        llc_raw=known(found.raw.mean),
        ess=known(ess),
        rhat=known(rhat),
        status=verdict.verdict(findings),
        status_reasons=tuple(finding.reason for finding in findings),
        findings=findings,
        truth=_compared(truth, finite, known(mean)),
        estimand=estimand,
        p=p,
        L0=known(result.density.loss0),
        chains=records.excess.shape[0],
        draws=records.excess.shape[1],
        total_fges=curvature_gradients + result.warmup_gradients + drawn,
        fges=Work(warmup=float(result.warmup_gradients), draws=drawn, curvature=float(curvature_gradients)),
        error=error,
        control_variate=ControlVariate(
            llc_mean=known(found.corrected.mean),
            llc_mcse=known(found.corrected.mcse),
            coefficient=known(found.coefficient),
            used=found.uses_stein and result.bias.kind != "gaussian",
        ),
        llc_variance_estimator=known(variance.mean),
        llc_variance_mcse=known(variance.mcse),
        sensitivities=estimates.sensitivities(records.excess, records.distance2, estimand.gamma),
        stein_identity=SteinIdentity(mean=known(found.stein.mean), mcse=known(found.stein.mcse), expected=float(p)),
        laplace=known(result.laplace),
        baseline_gain=known(result.baseline_gain),
        distance2_mean=known(distance2),
        w0_norm2=known(w0_norm2),
        acceptance=known(acceptance),
        divergences=divergences,
        adapted=store.finite(result.tuned),
        sampler_config=store.finite(store.plain(sampler)),
        posterior_config=store.finite(store.plain(posterior)),
    )


def _compared(truth: Mapping[str, Any] | None, finite: float | None, llc: float | None) -> Truth | None:
    """A known λ, and how far off λ̂ is from it and from its value at finite (n, β, γ)."""
    if truth is None:
        return None
    learning_coefficient = truth["lambda"]
    return Truth(
        learning_coefficient=learning_coefficient,
        multiplicity=truth["multiplicity"],
        source=truth["source"],
        local=truth.get("local"),
        least=truth.get("least"),
        finite=finite,
        relative_error_finite=None if llc is None or not finite else llc / finite - 1,
        relative_error=None if llc is None or not learning_coefficient else llc / learning_coefficient - 1,
    )


def _not_where_it_holds(truth: Mapping[str, Any] | None, distance2: float, w0_norm2: float) -> list[Finding]:
    """That the chain has left w0 for places where λ is less than the one known there, which is no fault of the sampler's.

    It looks at where the chain is, never at λ̂.
    """
    least = truth.get("least") if truth is not None else None
    if least is None or not least < truth["lambda"] or not distance2 > LEFT * w0_norm2:
        return []
    return [
        Finding(
            check="elsewhere",
            concerns="w0",
            verdict="warn",
            reason=f"λ = {truth['lambda']:g} holds at w0 alone, and the chain has left it (|w−w0|² {distance2:.3g}, |w0|² "
            f"{w0_norm2:.3g}) for places where it is as little as {least:g}; raise posterior.gamma",
        )
    ]
