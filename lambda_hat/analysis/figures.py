"""The figures of a run as PNG: trace, rank, running λ̂, and energy where there is one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from lambda_hat.analysis import curves
from lambda_hat.analysis.summary import Summary

COLOURS = plt.color_sequences["tab10"]

MOST_CHAINS = len(COLOURS)
"""Chains that are drawn."""

TRACE_POINTS, RUNNING_POINTS = 2000, 400
"""Draws of a chain that are drawn."""


def write_all(directory: Path, tree: xr.DataTree, summary: Summary) -> None:
    """Draw every figure of a run into a directory.

    Arguments:
        directory: where the PNGs go; must exist.
        tree: the trace, as `trace.dataset` makes it.
        summary: of the run.
    """
    llc = np.asarray(tree["posterior/llc"])
    distance2, stein, gradients = (
        np.asarray(tree[f"sample_stats/{name}"]) for name in ("distance2", "stein_curvature", "gradient_evaluations")
    )
    work = (summary.fges.curvature or 0.0) + gradients.sum(0)
    corrected = curves.corrected(llc, stein, summary)
    save(directory / "trace.png", _trace, llc, distance2, summary)
    save(directory / "rank.png", _rank, llc, summary)
    save(directory / "running_llc.png", _running, corrected, work, summary)
    if "energy" in tree["sample_stats"] and llc.shape[1] > 1:
        save(directory / "energy.png", _energy, np.asarray(tree["sample_stats/energy"]), summary)


def save(path: Path, draw: Callable[..., Figure], *arguments: Any) -> None:
    """Save the figure that a function draws of these arguments."""
    with plt.rc_context({"axes.grid": True, "grid.alpha": 0.25, "axes.spines.top": False, "axes.spines.right": False}):
        figure = draw(*arguments)
        figure.savefig(path, dpi=120)
        plt.close(figure)


def _title(summary, what):
    run, estimand = f"{summary.sampler.upper()} on {summary.target_id or 'a target'}", summary.estimand
    posterior = f"n = {estimand.n}, β = {estimand.beta:.4g}, γ = {estimand.gamma:.4g}, {estimand.loss}"
    return f"{what}\n{run}  ·  {posterior}"


def _trace(llc, distance2, summary):
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), width_ratios=[4, 1], sharey="row", layout="constrained")
    figure.suptitle(_title(summary, "Trace"), fontsize=11)
    for row, values, label in ((0, llc, "nβ (L(w) − L(w0))"), (1, distance2, "|w − w0|²")):
        line, histogram = axes[row]
        at, thinned = curves.thinned(values, TRACE_POINTS)
        for c, (chain, shown) in enumerate(zip(values[:MOST_CHAINS], thinned[:MOST_CHAINS], strict=True)):
            line.plot(at, shown, lw=0.5, alpha=0.8, color=COLOURS[c], label=f"chain {c}")
            finite = chain[np.isfinite(chain)]
            if finite.size and np.ptp(finite) > 0:
                histogram.hist(
                    finite, bins=40, orientation="horizontal", histtype="step", color=COLOURS[c], density=True
                )
        line.set_ylabel(label)
        histogram.set_xticks([])
    if summary.llc_mean is not None:
        axes[0][0].axhline(summary.llc_mean, color="black", lw=1, label="λ̂")
    axes[1][0].set_xlabel("draw")
    axes[1][1].set_xlabel("density")
    figure.legend(
        *axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8, frameon=False
    )
    return figure


def _rank(llc, summary):
    shares = curves.rank_shares(llc)[:MOST_CHAINS]
    shown, bins = shares.shape
    figure, axes = plt.subplots(
        shown, 1, figsize=(8, 1.1 * shown + 1.4), sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    figure.suptitle(_title(summary, "Rank of each chain's draws among all: flat if chains agree"), fontsize=11)
    for c, axis in enumerate(axes[:, 0]):
        axis.stairs(shares[c], np.linspace(0, llc.size, bins + 1), fill=True, color=COLOURS[c], alpha=0.8)
        axis.axhline(1, color="black", lw=1, ls="--")
        axis.set_ylabel(f"chain {c}", rotation=0, ha="right", va="center")
        axis.set_yticks([])
    axes[-1, 0].set_xlabel(
        f"rank of nβ (L(w) − L(w0)) among all {llc.size} draws   (dashed: what agreeing chains give)"
    )
    return figure


def _running(llc, work, summary):
    figure, axis = plt.subplots(figsize=(8, 4.8), layout="constrained")
    at = curves.spaced(llc.shape[1], RUNNING_POINTS)
    chains, mean = curves.running_mean(llc)[:, at], curves.running_mean(llc.mean(0))[at]
    error = (summary.llc_mcse or np.nan) * np.sqrt(llc.shape[1] / (at + 1))
    for c, chain in enumerate(chains[:MOST_CHAINS]):
        axis.plot(work[at], chain, lw=0.8, alpha=0.6, color=COLOURS[c], label=f"chain {c}")
    axis.plot(work[at], mean, color="black", lw=1.6, label="all chains")
    axis.fill_between(work[at], mean - 2 * error, mean + 2 * error, color="black", alpha=0.15, lw=0, label="± 2 MCSE")
    known = []
    if summary.truth is not None:
        finite, limit = summary.truth.finite, summary.truth.learning_coefficient
        if finite is not None:
            known.append(finite)
            axis.axhline(finite, color="crimson", lw=1.2, label=f"exact at this n, β, γ: {finite:.4g}")
        known.append(limit)
        axis.axhline(limit, color="crimson", lw=1.2, ls="--", label=f"λ = {limit:.4g} (n → ∞)")
    late = slice(len(at) // 2, None)
    bands = np.concatenate([(mean - 2 * error)[late], (mean + 2 * error)[late], chains[:, late].ravel(), known])
    bands = bands[np.isfinite(bands)]
    if bands.size:
        margin = 0.08 * (np.ptp(bands) or 1)
        axis.set_ylim(bands.min() - margin, bands.max() + margin)
    axis.set_xlabel("full-data gradient evaluations, all chains, curvature and warm-up included")
    axis.set_ylabel("running λ̂" + (", Stein-corrected" if summary.control_variate.used else ""))
    axis.set_title(_title(summary, summary.estimate_text()), fontsize=11)
    axis.legend(fontsize=8, ncols=2, frameon=False)
    return figure


def _energy(energy, summary):
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    level = (energy - np.nanmean(np.where(np.isfinite(energy), energy, np.nan))).ravel()
    change = np.diff(energy, axis=1).ravel()
    level, change = level[np.isfinite(level)], change[np.isfinite(change)]
    edges = np.histogram_bin_edges(np.concatenate([level, change]), bins=60)
    axis.hist(level, edges.tolist(), density=True, alpha=0.55, color=COLOURS[0], label="energy − mean")
    axis.hist(change, edges.tolist(), density=True, alpha=0.55, color=COLOURS[1], label="change from draw to draw")
    axis.set_xlabel("energy (−log π + kinetic)")
    axis.set_ylabel("density")
    axis.set_title(_title(summary, "Energy: draws mix over energies if the two agree"), fontsize=11)
    axis.legend(frameon=False)
    return figure
