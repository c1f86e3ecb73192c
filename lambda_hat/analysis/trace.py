"""trace.nc: the recorded draws, as ArviZ reads them, with all that λ̂ can be computed anew from.

R = nβH(nβH+γ)⁻¹, H the curvature at w0; U = nβ(L_n − L_n(w0)) + γ/2 |w−w0|².
"""

from dataclasses import asdict
from os import PathLike
from typing import Any

import numpy as np
import xarray as xr

from lambda_hat.analysis.summary import Summary

ATTRIBUTES = ("target_id", "run_id", "sampler", "p", "L0", "w0_norm2")
"""Fields of the summary that the trace repeats, beside the estimand's."""

Variable = tuple[tuple[str, ...], np.ndarray, dict[str, str]]
"""Dimensions, values, and attributes."""


def dataset(draws: Any, summary: Summary) -> xr.DataTree:
    """The trace, with groups posterior (llc, L) and sample_stats.

    Arguments:
        draws: `samplers.loop.Draws`.
        summary: of the run, which names the trace's attributes: the estimand, nβ, tr R and whose run it is.
    """
    records, steps = draws.records, draws.steps
    chains, count = records.excess.shape
    coords = {"chain": np.arange(chains), "draw": np.arange(count)}
    nbeta, before = summary.estimand.nbeta, summary.fges.warmup

    def variable(values, long_name, units="1"):
        return (("chain", "draw"), np.asarray(values, float), {"units": units, "long_name": long_name})

    posterior: dict[str, Variable] = {
        "llc": variable(records.excess, "nβ(L_n(w) − L_n(w0))"),
        "L": variable((summary.L0 or 0.0) + records.excess / nbeta, "L_n(w)", "mean loss"),
    }
    if draws.params is not None:
        dims = ("chain", "draw", "parameter")
        posterior["w_minus_w0"] = (dims, draws.params, {"units": "1", "long_name": "w − w0"})
    stats = {
        "distance2": variable(records.distance2, "|w − w0|²"),
        "stein": variable(records.stein, "(w−w0)·∇U, of mean p"),
        "stein_curvature": variable(records.stein_curvature, "(w−w0)·R∇U, of mean tr R"),
        "diverging": (("chain", "draw"), steps.diverging),
        "gradient_evaluations": variable(
            before / chains + np.cumsum(steps.gradients, 1),
            "full-data gradients of this chain so far, its share of warm-up included",
            "gradients",
        ),
        # not "seconds since …" in the units: CF conventions take that for a date
        "time": (("draw",), draws.seconds, {"units": "s", "long_name": "since the first draw began"}),
    }
    for name, values, long_name in (
        ("acceptance_rate", steps.acceptance, "probability of acceptance"),
        ("energy", steps.energy, "−log π + kinetic energy"),
        ("energy_error2", steps.energy_error2, "squared energy change of a step"),
    ):
        if not np.all(np.isnan(values)):
            stats[name] = variable(values, long_name)
    named = {name: getattr(summary, name) for name in ATTRIBUTES} | asdict(summary.estimand)
    trace_r = None if summary.laplace is None else 2 * summary.laplace
    attributes = {
        key: value for key, value in (named | {"nbeta": nbeta, "trace_R": trace_r}).items() if value is not None
    }
    groups = {"/": xr.Dataset(attrs=attributes)}
    groups["/posterior"] = xr.Dataset(posterior, coords)
    groups["/sample_stats"] = xr.Dataset(stats, coords)
    return xr.DataTree.from_dict(groups)


def write(path: str | PathLike[str], tree: xr.DataTree) -> None:
    """Write the trace as netCDF 4."""
    tree.to_netcdf(path, engine="h5netcdf")


def read(path: str | PathLike[str]) -> xr.DataTree:
    """Read a trace back; arrays are read as they are used."""
    return xr.open_datatree(path, engine="h5netcdf")
