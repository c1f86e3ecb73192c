"""From a target and settings to λ̂: the one way that the command line's runs and `lambda_hat.estimate` go."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import xarray as xr

from lambda_hat.analysis import analyse, estimates, trace, verdict
from lambda_hat.analysis.summary import Estimand, Summary
from lambda_hat.config import Config
from lambda_hat.samplers import sample
from lambda_hat.store.journal import Journal
from lambda_hat.targets.artifact import Target
from lambda_hat.targets.curvature import Curvature, LayerCurvature
from lambda_hat.targets.training import descent_gain


class Settings(NamedTuple):
    """What decides the draws from a target.

    Attributes:
        posterior, sampler: their configurations.
    """

    posterior: Any
    sampler: Any


class Estimation(NamedTuple):
    """What sampling a target's posterior gives.

    Attributes:
        result: the draws, with what was tuned and spent.
        summary: what analysis.json says, but for timings and provenance.
        trace: the recorded draws as ArviZ reads them.
        seconds: wall-clock time of `adapt`, `sample` and `analyse`.
    """

    result: sample.Result
    summary: Summary
    trace: xr.DataTree
    seconds: dict[str, float]


def estimate_llc(
    target: Target,
    curvature: Curvature | LayerCurvature,
    settings: Settings | Config,
    *,
    log: Callable[..., None],
    report: Callable[..., None],
    journal: Journal | None = None,
    identity: dict[str, str] | None = None,
) -> Estimation:
    """Sample a target's posterior, and say what λ̂ is and how far to believe it.

    Arguments:
        target: the model, w0 and the data, as the posterior sees them (`restriction.seen_by`).
        curvature: of the posterior's loss at w0.
        settings: posterior and sampler; anything with these two attributes.
        log: called with a line for each phase.
        report: called with `phase=` and the state of the estimate, as it becomes known.
        journal: what an interrupted run is resumed from; None: nothing is kept.
        identity: `target_id` and `run_id`, which summary and trace name.
    """
    sampler, posterior = settings.sampler, settings.posterior
    n, w0 = target.meta["dims"]["n"], target.w0
    beta, gamma = sample.inverse_temperature(posterior, n), sample.localization(posterior, len(w0))

    report(phase="adapt", now=True)
    journal = journal or Journal()
    step, gain = target.training_step, _descent_gain(target, posterior, n * beta, gamma, journal)

    def enough(so_far):
        estimate = estimates.estimate(so_far.records, so_far.trace_r, len(w0), so_far.bias, sampler.dtype, gain)
        report(
            phase="sample",
            draw=so_far.records.excess.shape[1],
            draws=sampler.draws,
            llc=estimate.mean,
            mcse=estimate.mcse,
            ess=estimate.raw.ess,
            ess_wanted=verdict.least(estimate)[0],
            rhat=estimate.raw.rhat,
            acceptance=so_far.acceptance,
        )
        return verdict.is_enough(estimate, sampler.mcse_target, 0.0 if step is None else gain)

    result = sample.sample(
        sampler,
        posterior,
        target.loss(posterior),
        target.rows(sampler.dtype, sampler.chains),
        w0,
        n,
        curvature,
        log,
        enough,
        journal,
    )
    report(phase="analyse", now=True)
    began = time.perf_counter()
    estimand = Estimand(
        n=n,
        beta=float(beta),
        gamma=float(gamma),
        loss=target.loss_name(posterior),
        noise_scale=target.noise_scale_in(posterior),
        dtype=sampler.dtype,
        parameters=target.meta.get("parameters"),
        other_data=target.meta.get("other_data"),
    )
    truth, finite = target.meta["truth"], target.model.finite(n * beta, gamma)
    start = analyse.Start(w0, step, gain)
    summary = analyse.analyse(result, estimand, sampler, posterior, start, curvature.gradients, truth, finite)
    made_from = {"target_hashes": target.meta.get("hashes"), "p_model": target.meta.get("p_model")}
    summary = replace(summary, **(identity or {}), **made_from)
    tree = trace.dataset(result.draws, summary)
    seconds = result.seconds | {"analyse": time.perf_counter() - began}
    return Estimation(result, summary, tree, seconds)


def _descent_gain(target, posterior, nbeta, gamma, journal):
    """What a local descent from w0 gains under a posterior, in units of λ̂; None where w0 is a minimum, or nobody has looked.

    Building the target has measured it, at its own n/log n and γ.
    """
    found, training = target.meta.get("metrics") or {}, target.meta.get("training_cfg") or {}
    measured, tolerance = found.get("further_descent_gain"), training.get("polish_tolerance")
    if measured is None or tolerance is None:
        return None
    tolerance *= len(target.w0) / 2
    restricted = {"parameters", "other_data"} & target.meta.keys()
    if target.training_step is None and measured <= tolerance and "other_data" not in restricted:
        return None
    n, localization = target.meta["dims"]["n"], found.get("further_descent_localization")
    is_same = target.loss_name(posterior) in ("analytic", "cross-entropy", "nll") and localization == gamma
    if is_same and not restricted and math.isclose(nbeta, n / math.log(n)):
        return measured
    measure = partial(descent_gain, target.loss(posterior), target.rows, target.w0, nbeta, gamma, tolerance)
    return float(journal.step("descent gain", lambda: {"gain": measure()})["gain"])
