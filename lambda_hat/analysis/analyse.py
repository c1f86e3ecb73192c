"""From a run's draws to its `Summary`, and the same anew from a run that is stored."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lambda_hat import store
from lambda_hat.analysis import estimates, verdict
from lambda_hat.analysis.summary import (
    ESTIMATOR,
    SCHEMA,
    ControlVariate,
    Estimand,
    Finding,
    SteinIdentity,
    Summary,
    Truth,
    Work,
    known,
)
from lambda_hat.system.errors import StoreError

LEFT = 0.25
"""|w−w0|² over |w0|² from which a chain is no longer where λ at w0 holds: |w−w0| is half of |w0|."""


class Records(NamedTuple):
    """What is recorded of each draw, as `samplers.density.Record` describes it: arrays `[chains, draws]`."""

    excess: estimates.Draws
    distance2: estimates.Draws
    stein: estimates.Draws
    stein_curvature: estimates.Draws


class Bias(NamedTuple):
    """As `samplers.base.Bias`."""

    kind: str
    share: float


class Start(NamedTuple):
    """What λ̂ is measured from.

    Attributes:
        w0: the centre `[p]`.
        training_step: of training that it is at, where it is not the end.
        descent_gain: what a local descent from there gains, where it was measured.
    """

    w0: np.ndarray
    training_step: int | None = None
    descent_gain: float | None = None


class Facts(NamedTuple):
    """What the conclusions from draws rest on beside the draws.

    Attributes:
        p: number of parameters.
        estimand: what λ̂ is an estimate of.
        bias: of the draws' plain mean.
        laplace: ½ tr R.
        baseline_gain: what a Newton step from w0 gains.
        w0_norm2: |w0|²; 0 where it is not known.
        training_step, descent_gain: as `Start`.
        acceptance, divergences: of the draws.
        sampler: its configuration, as plain values.
        tuned: settings that were adapted.
        truth: what the target's meta.json says of a known λ.
        finite: λ̂ of the exact posterior, where it is known.
    """

    p: int
    estimand: Estimand
    bias: Bias
    laplace: float
    baseline_gain: float
    w0_norm2: float
    training_step: int | None
    descent_gain: float | None
    acceptance: float
    divergences: int
    sampler: Mapping[str, Any]
    tuned: Mapping[str, Any]
    truth: Mapping[str, Any] | None
    finite: float | None


def analyse(
    result: Any,
    estimand: Estimand,
    sampler: Any,
    posterior: Any,
    start: Start,
    curvature_gradients: float,
    truth: Mapping[str, Any] | None = None,
    finite: float | None = None,
) -> Summary:
    """What a run's draws say: estimate, error, verdict and diagnostics. Whose run it is and what it took is added by the caller.

    Arguments:
        result: `samplers.sample.Result`.
        estimand: what λ̂ is an estimate of.
        sampler, posterior: their configurations.
        start: w0.
        curvature_gradients: full-data gradients that the curvature at w0 took.
        truth: what the target's meta.json says of a known λ; nothing but `Summary.truth` and whether the chain is where that λ
            holds depends on it.
        finite: λ̂ of the exact posterior, where it is known.
    """
    records, steps = Records(*result.draws.records), result.draws.steps
    facts = Facts(
        p=len(start.w0),
        estimand=estimand,
        bias=Bias(*result.bias),
        laplace=result.laplace,
        baseline_gain=result.baseline_gain,
        w0_norm2=float(start.w0 @ start.w0),
        training_step=start.training_step,
        descent_gain=start.descent_gain,
        acceptance=float(np.mean(steps.acceptance)),
        divergences=int(np.sum(steps.diverging)),
        sampler=store.finite(store.plain(sampler)),
        tuned=store.finite(result.tuned),
        truth=truth,
        finite=finite,
    )
    drawn = float(np.sum(steps.gradients))
    conclusions = _conclusions(records, facts)
    return Summary(
        **conclusions,
        **_generalisation(result.fluctuation, records.excess, conclusions, estimand),
        sampler=sampler.name,
        estimand=estimand,
        p=facts.p,
        L0=known(result.density.loss0),
        chains=records.excess.shape[0],
        draws=records.excess.shape[1],
        total_fges=float(curvature_gradients + result.warmup_gradients + drawn),
        fges=Work(warmup=float(result.warmup_gradients), draws=drawn, curvature=float(curvature_gradients)),
        laplace=known(result.laplace),
        baseline_gain=known(result.baseline_gain),
        w0_norm2=known(facts.w0_norm2),
        training_step=facts.training_step,
        descent_gain=None if facts.descent_gain is None else known(facts.descent_gain),
        acceptance=known(facts.acceptance),
        divergences=facts.divergences,
        adapted=facts.tuned,
        sampler_config=facts.sampler,
        posterior_config=store.finite(store.plain(posterior)),
    )


ARRAYS = ("llc", "distance2", "stein", "stein_curvature")
"""Variables of trace.nc that `recompute` needs."""


def recompute(summary: Summary, arrays: Mapping[str, np.ndarray]) -> Summary:
    """The summary of a stored run by today's estimator, from its trace.

    Arguments:
        summary: as it is stored, of any version.
        arrays: the variables `ARRAYS` of its trace.nc, each `[chains, draws]`.

    Raises:
        StoreError: where the trace or the summary lacks something, so that the run stays what it is.
    """
    bias = _bias_of(summary)
    lacking = [name for name in ARRAYS if name not in arrays]
    lacking += [name for name in ("laplace", "baseline_gain") if getattr(summary, name) is None]
    lacking += ["dtype"] if summary.estimand.dtype is None else []
    if bias is None or summary.laplace is None or summary.baseline_gain is None or lacking:
        what = ", ".join(lacking) or f"how biased {summary.sampler}'s draws are"
        raise StoreError(
            f"λ̂ of {summary.run_id or 'this run'} cannot be computed anew: {what} was not recorded; rerun it."
        )
    records = Records(*(np.asarray(arrays[name], float) for name in ARRAYS))
    if {values.shape for values in records} != {(summary.chains, summary.draws)}:
        raise StoreError(
            f"the trace of {summary.run_id or 'this run'} does not hold the draws that its summary counts."
        )
    truth = summary.truth
    facts = Facts(
        p=summary.p,
        estimand=summary.estimand,
        bias=bias,
        laplace=summary.laplace,
        baseline_gain=summary.baseline_gain,
        w0_norm2=summary.w0_norm2 or 0.0,
        training_step=summary.training_step,
        descent_gain=summary.descent_gain,
        acceptance=np.nan if summary.acceptance is None else summary.acceptance,
        divergences=summary.divergences,
        sampler=summary.sampler_config,
        tuned=summary.adapted,
        truth=None
        if truth is None
        else {
            "lambda": truth.learning_coefficient,
            "multiplicity": truth.multiplicity,
            "source": truth.source,
            "local": truth.local,
            "least": truth.least,
        },
        finite=None if truth is None else truth.finite,
    )
    return replace(summary, schema=SCHEMA, **_conclusions(records, facts))


def _bias_of(summary: Summary) -> Bias | None:
    """How biased a stored run's draws are: as recorded, else as its first version implies."""
    if summary.error.bias_kind is not None:
        return Bias(summary.error.bias_kind, summary.error.bias_share or 0.0)
    adapted = summary.adapted
    if isinstance(adapted.get("predicted_bias"), float):
        return Bias("bound" if adapted.get("predicted_bias_is_a_bound") else "predicted", adapted["predicted_bias"])
    kinds = {"hmc": "none", "mclmc": "measured", "laplace": "gaussian"}
    return Bias(kinds[summary.sampler], 0.0) if summary.sampler in kinds else None


def _conclusions(records: Records, facts: Facts) -> dict[str, Any]:
    """The fields of a `Summary` that follow from the draws."""
    excess, bias, distance2 = records.excess, facts.bias, float(np.mean(records.distance2))
    assert facts.estimand.dtype is not None, "only a stored run may lack it, which `recompute` refuses"
    found = estimates.estimate(records, 2 * facts.laplace, facts.p, bias, facts.estimand.dtype, facts.descent_gain)
    mean, mcse, ess, rhat = found.mean, found.mcse, found.raw.ess, found.raw.rhat
    baseline, from_minimum = facts.baseline_gain, None
    if facts.descent_gain is not None:
        baseline = (
            baseline if facts.training_step is None else facts.descent_gain
        )  # a Newton step tells little far from a minimum
        from_minimum = None if bias.kind == "gaussian" else mean + facts.descent_gain
    if bias.kind == "gaussian":
        error, interval = estimates.laplace_budget(facts.laplace, found.raw, baseline), (None, None)
        findings = verdict.judge_laplace(facts.laplace, found.raw, baseline, facts.training_step)
        mean, mcse, ess, rhat = facts.laplace, None, None, None
    else:
        error, interval = estimates.budget(found, baseline, is_wanted=facts.training_step is not None)
        findings = verdict.judge(
            verdict.Evidence(
                excess=excess,
                distance2=records.distance2,
                finite=np.all(np.isfinite(records), axis=0),
                estimate=found,
                low=interval[0],
                predicted_bias=bias.share,
                bias_is_known=bias.kind != "unknown",
                mcse_target=facts.sampler["mcse_target"],
                p=facts.p,
                w0_norm2=facts.w0_norm2,
                baseline_gain=baseline,
                training_step=facts.training_step,
                acceptance=facts.acceptance,
                warmup=facts.sampler["warmup"],
                shortened=bool(facts.tuned.get("shortened")),
                divergences=facts.divergences,
            )
        )
    findings = verdict.worst_first([*findings, *_not_where_it_holds(facts.truth, distance2, facts.w0_norm2)])
    variance = estimates.variance(excess)
    return {
        "estimator": ESTIMATOR,
        "llc_mean": known(mean),
        "llc_std": known(found.raw.std),
        "llc_mcse": known(mcse),
        "llc_interval95": interval,
        "llc_raw": known(found.raw.mean),
        "llc_from_minimum": known(from_minimum),
        "ess": known(ess),
        "rhat": known(rhat),
        "distance2_mean": known(distance2),
        "distance2_ess": known(found.distance2.ess),
        "distance2_rhat": known(found.distance2.rhat),
        "status": verdict.verdict(findings),
        "status_reasons": tuple(finding.reason for finding in findings),
        "findings": findings,
        "truth": _compared(facts.truth, facts.finite, known(mean)),
        "error": replace(error, bias_kind=bias.kind, bias_share=known(bias.share)),
        "control_variate": ControlVariate(
            llc_mean=known(found.corrected.mean),
            llc_mcse=known(found.corrected.mcse),
            coefficient=known(found.coefficient),
            used=found.uses_stein and bias.kind != "gaussian",
        ),
        "llc_variance_estimator": known(variance.mean),
        "llc_variance_mcse": known(variance.mcse),
        "sensitivities": estimates.sensitivities(excess, records.distance2, facts.estimand.gamma),
        "stein_identity": SteinIdentity(
            mean=known(found.stein.mean), mcse=known(found.stein.mcse), expected=float(facts.p)
        ),
    }


def _generalisation(fluctuation, excess, conclusions, estimand) -> dict[str, Any]:
    """The fields of a `Summary` that follow from the losses of the pairs."""
    llc = conclusions["llc_mean"], conclusions["llc_mcse"]
    if fluctuation is None or None in llc:
        return {}
    found = estimates.generalisation(fluctuation, excess[:, fluctuation.numbers], llc, estimand.n, estimand.beta)
    (nu, nu_mcse), (waic, waic_mcse) = found
    return {
        "singular_fluctuation": known(nu),
        "singular_fluctuation_mcse": known(nu_mcse),
        "waic": known(waic),
        "waic_mcse": known(waic_mcse),
    }


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
    if truth is None or least is None or not least < truth["lambda"] or not distance2 > LEFT * w0_norm2:
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
