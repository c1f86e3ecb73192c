"""The figures of a run: trace, rank, running λ̂, and energy where there is one."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import rankdata

COLOURS = plt.get_cmap("tab10").colors
MOST_CHAINS = 10
MOST_POINTS = 2000


def write_all(directory, tree, summary):
    """Draw every figure of a run into a directory.

    Arguments:
        directory: where the PNGs go; must exist.
        tree: the trace, as `trace.dataset` makes it.
        summary: the contents of analysis.json.
    """
    llc = tree["posterior"]["llc"].values
    work = tree["sample_stats"]["gradient_evaluations"].values.sum(0)
    save(directory / "trace.png", _trace, llc, tree["sample_stats"]["distance2"].values, summary)
    save(directory / "rank.png", _rank, llc, summary)
    save(directory / "running_llc.png", _running, llc, work, summary)
    if "energy" in tree["sample_stats"] and llc.shape[1] > 1:
        save(directory / "energy.png", _energy, tree["sample_stats"]["energy"].values, summary)


def save(path, draw, *arguments):
    with plt.rc_context({"axes.grid": True, "grid.alpha": 0.25, "axes.spines.top": False, "axes.spines.right": False}):
        figure = draw(*arguments)
        figure.savefig(path, dpi=120)
        plt.close(figure)


def _title(summary, what):
    run = f"{summary['sampler'].upper()} on {summary['target_id']}"
    posterior = f"n = {summary['n']}, β = {summary['beta']:.4g}, γ = {summary['gamma']:.4g}, {summary['loss']}"
    return f"{what}\n{run}  ·  {posterior}"


def _trace(llc, distance2, summary):
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), width_ratios=[4, 1], sharey="row", layout="constrained")
    figure.suptitle(_title(summary, "Trace"), fontsize=11)
    for row, values, label in ((0, llc, "nβ (L(w) − L(w0))"), (1, distance2, "|w − w0|²")):
        line, histogram = axes[row]
        thin = max(1, values.shape[1] // MOST_POINTS)
        for c, chain in enumerate(values[:MOST_CHAINS]):
            line.plot(
                np.arange(0, values.shape[1], thin),
                chain[::thin],
                lw=0.5,
                alpha=0.8,
                color=COLOURS[c],
                label=f"chain {c}",
            )
            finite = chain[np.isfinite(chain)]
            if finite.size and np.ptp(finite) > 0:
                histogram.hist(
                    finite, bins=40, orientation="horizontal", histtype="step", color=COLOURS[c], density=True
                )
        line.set_ylabel(label)
        histogram.set_xticks([])
    axes[0][0].axhline(
        summary["llc_mean"] if summary["llc_mean"] is not None else np.nan, color="black", lw=1, label="λ̂, the mean"
    )
    axes[1][0].set_xlabel("draw")
    axes[1][1].set_xlabel("density")
    figure.legend(
        *axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8, frameon=False
    )
    return figure


def _rank(llc, summary):
    chains, draws = llc.shape
    ranks = rankdata(llc).reshape(llc.shape)
    shown = min(chains, MOST_CHAINS)
    bins = max(2, min(20, draws // 5))
    figure, axes = plt.subplots(
        shown, 1, figsize=(8, 1.1 * shown + 1.4), sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    figure.suptitle(_title(summary, "Rank of each chain's draws among all: flat if chains agree"), fontsize=11)
    expected = draws / bins
    for c, axis in enumerate(axes[:, 0]):
        axis.hist(ranks[c], bins=np.linspace(0.5, llc.size + 0.5, bins + 1), color=COLOURS[c], alpha=0.8, rwidth=0.94)
        axis.axhline(expected, color="black", lw=1, ls="--")
        axis.set_ylabel(f"chain {c}", rotation=0, ha="right", va="center")
        axis.set_yticks([])
    axes[-1, 0].set_xlabel(
        f"rank of nβ (L(w) − L(w0)) among all {llc.size} draws   (dashed: what agreeing chains give)"
    )
    return figure


def _running(llc, work, summary):
    figure, axis = plt.subplots(figsize=(8, 4.8), layout="constrained")
    count = np.arange(1, llc.shape[1] + 1)
    for c, chain in enumerate(llc[:MOST_CHAINS]):
        axis.plot(work, np.cumsum(chain) / count, lw=0.8, alpha=0.6, color=COLOURS[c], label=f"chain {c}")
    mean = np.cumsum(llc.mean(0)) / count
    total = np.nanstd(llc)
    share = summary["ess"] / llc.size if summary["ess"] else np.nan
    error = total / np.sqrt(np.maximum(count * llc.shape[0] * share, 1))
    axis.plot(work, mean, color="black", lw=1.6, label="all chains")
    axis.fill_between(work, mean - 2 * error, mean + 2 * error, color="black", alpha=0.15, lw=0, label="± 2 MCSE")
    lines = []
    truth = summary["truth"]
    if truth is not None:
        if truth.get("finite") is not None:
            axis.axhline(
                truth["finite"], color="crimson", lw=1.2, label=f"exact at this n, β, γ: {truth['finite']:.4g}"
            )
            lines.append(truth["finite"])
        axis.axhline(truth["lambda"], color="crimson", lw=1.2, ls="--", label=f"λ = {truth['lambda']:.4g} (n → ∞)")
        lines.append(truth["lambda"])
    late = slice(len(count) // 10, None)
    bands = np.concatenate(
        [(mean - 2 * error)[late], (mean + 2 * error)[late], (np.cumsum(llc, 1) / count)[:, late].ravel(), lines]
    )
    bands = bands[np.isfinite(bands)]
    if bands.size:
        margin = 0.08 * (np.ptp(bands) or 1)
        axis.set_ylim(bands.min() - margin, bands.max() + margin)
    axis.set_xlabel("full-data gradient evaluations, all chains, warm-up included")
    axis.set_ylabel("running λ̂")
    value = (
        "no finite estimate"
        if summary["llc_mean"] is None
        else f"λ̂ = {summary['llc_mean']:.4g} ± {summary['llc_mcse'] or np.nan:.2g} (MCSE)"
    )
    axis.set_title(_title(summary, value), fontsize=11)
    axis.legend(fontsize=8, ncols=2, frameon=False)
    return figure


def _energy(energy, summary):
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    level = (energy - np.nanmean(np.where(np.isfinite(energy), energy, np.nan))).ravel()
    change = np.diff(energy, axis=1).ravel()
    level, change = level[np.isfinite(level)], change[np.isfinite(change)]
    edges = np.histogram_bin_edges(np.concatenate([level, change]), bins=60)
    axis.hist(level, edges, density=True, alpha=0.55, color=COLOURS[0], label="energy − mean")
    axis.hist(change, edges, density=True, alpha=0.55, color=COLOURS[1], label="change from draw to draw")
    axis.set_xlabel("energy (−log π + kinetic)")
    axis.set_ylabel("density")
    axis.set_title(_title(summary, "Energy: draws mix over energies if the two agree"), fontsize=11)
    axis.legend(frameon=False)
    return figure
