"""From a target and settings to λ̂: the one way that the command line's runs and `lambda_hat.estimate` go."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import xarray as xr

from lambda_hat.analysis import analyse, estimates, status, trace
from lambda_hat.samplers import sample
from lambda_hat.store.journal import Journal
from lambda_hat.targets.artifact import Target
from lambda_hat.targets.curvature import Curvature, LayerCurvature


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
    summary: dict
    trace: xr.DataTree
    seconds: dict[str, float]


def estimate_llc(
    target: Target,
    curvature: Curvature | LayerCurvature,
    settings: Settings,
    *,
    log: Callable[..., None],
    report: Callable[..., None],
    journal: Journal | None = None,
    identity: dict[str, str] | None = None,
) -> Estimation:
    """Sample a target's posterior, and say what λ̂ is and how far to believe it.

    Arguments:
        target: the model, w0 and the data.
        curvature: of the posterior's loss at w0.
        settings: posterior and sampler; anything with these two attributes.
        log: called with a line for each phase.
        report: called with `phase=` and the state of the estimate, as it becomes known.
        journal: what an interrupted run is resumed from; None: nothing is kept.
        identity: what the trace's attributes name beside n, β and γ.
    """
    sampler, posterior = settings.sampler, settings.posterior
    n, w0 = target.meta["dims"]["n"], target.w0
    beta, gamma = sample.inverse_temperature(posterior, n), sample.localization(posterior, len(w0))

    def enough(excess, acceptance):
        so_far = estimates.summarise(excess)
        report(
            phase="sample",
            draw=excess.shape[1],
            draws=sampler.draws,
            llc=so_far.mean,
            mcse=so_far.mcse,
            ess=so_far.ess,
            rhat=so_far.rhat,
            acceptance=acceptance,
        )
        return status.is_enough(so_far, getattr(sampler, "mcse_target", None))

    report(phase="adapt", now=True)
    result = sample.sample(
        sampler,
        posterior,
        target.loss(posterior),
        target.rows(sampler.dtype),
        w0,
        n,
        curvature,
        log,
        enough,
        journal,
    )
    report(phase="analyse", now=True)
    began = time.perf_counter()
    summary = analyse.analyse(settings, target, result, beta, gamma)
    attributes = {**(identity or {}), "n": n, "beta": beta, "gamma": gamma}
    tree = trace.dataset(result.draws, summary["L0"], n * beta, result.warmup_gradients, attributes)
    seconds = result.seconds | {"analyse": time.perf_counter() - began}
    return Estimation(result, summary, tree, seconds)
