"""The report's figures: λ̂ by sampler, running λ̂, work, traces, ranks."""

import math

import numpy as np

from lambda_hat.inspect import tell
from lambda_hat.inspect.row import show
from lambda_hat.report import draws as traces
from lambda_hat.report import svg

MOST_NAMED = 40
"""Runs of a target that a figure names one by one."""


def label(row, own):
    """A run's name in a figure: its sampler and what it varies in, seeds last and short."""
    words = [f"{key.rpartition('.')[2]} {show(row.settings.get(key))}" for key in own]
    return " ".join([row.sampler, *words])


def said(row, own):
    """A run's result in a line, which is shown where one points at its mark."""
    found = row.result
    estimate = tell.estimate(found["llc_mean"], found["llc_mcse"])
    return f"{label(row, own)}: {estimate} {tell.interval(*found['llc_interval95'])} {row.word}"


def known(rows):
    """Values of the exact posterior's λ̂, and of λ, that figures show as lines."""
    known = [row.result["truth"] for row in rows if row.result.get("truth")]
    return sorted({one["finite"] for one in known} - {None})[:3], sorted({one["lambda"] for one in known})


def _range(values, margin=0.06):
    values = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(values), max(values)
    space = margin * ((high - low) or abs(high) or 1)
    return low - space, high + space


def forest(rows, own, context):
    """λ̂ of each run with its interval, and what is known."""
    finite, truths = known(rows)
    ends = [end for row in rows for end in row.result["llc_interval95"]]
    names = [(-i, _short(label(row, own))) for i, row in enumerate(rows)]
    if len(rows) > MOST_NAMED:  # the first of each sampler alone
        names = [(-i, row.sampler) for i, row in enumerate(rows) if i == 0 or rows[i - 1].sampler != row.sampler]
    plot = svg.Plot(
        _range([*ends, *finite, *truths, *(row.result["llc_mean"] for row in rows)]),
        (0.6 - len(rows), 0.6),
        xlabel="λ̂",
        height=60 + int(17 * len(rows) if len(rows) <= MOST_NAMED else max(17 * MOST_NAMED, 4 * len(rows))),
        left=14 + 6 * max(len(name) for _, name in names),
        names=names,
    )
    for value in finite:
        plot.down(value, "exact", f"exact λ̂ at this n, β, γ: {value:.5g}")
    for value in truths:
        plot.down(value, "truth", f"λ = {value:g}")
    for i, row in enumerate(rows):
        low, high = row.result["llc_interval95"]
        css = context.css(row) + (" doubtful" if row.verdict != "ok" else "")
        if low is not None:
            plot.interval(low, high, -i, css, said(row, own))
        plot.point(row.result["llc_mean"], -i, css, said(row, own))
    note = "" if all(row.verdict == "ok" for row in rows) else '<p class="note">Hollow: warn or bad.</p>'
    return plot.svg("; ".join(said(row, own) for row in rows)) + note


def _short(text):
    return text if len(text) <= 24 else text[:23] + "…"


def convergence(rows, found, name, label, context):
    """The running mean of each run against `name`, a field of `draws.Draws`."""
    finite, truths = known(rows)
    curves = []
    for row in rows:
        at, mean = traces.running(found[row.name])
        curves.append((row, getattr(found[row.name], name)[at], mean))
    late = [value for _, _, mean in curves for value in mean[len(mean) // 3 :]]
    xs = [max(float(x[0]), 1e-3) for _, x, _ in curves], [float(x[-1]) for _, x, _ in curves]
    plot = svg.Plot(
        (min(xs[0]), max(max(xs[1]), 1.01 * min(xs[0]))),
        _range([*late, *finite, *truths]),
        xlabel=label,
        ylabel="λ̂",
        xlog=True,
    )
    for value in finite:
        plot.across(value, "exact", f"exact λ̂ at this n, β, γ: {value:.5g}")
    for value in truths:
        plot.across(value, "truth", f"λ = {value:g}")
    for row, x, mean in curves:
        plot.line(np.maximum(x, 1e-3), mean, context.css(row), said(row, ()))
    return plot.svg(f"Running mean of λ̂ of {len(rows)} runs")


def work(rows, context):
    """One dot for each run: gradients on the left, seconds on the right."""
    drawings = []
    for i, label in enumerate(("MCSE² × full-data gradients", "MCSE² × seconds")):
        values = [(row, row.result["llc_mcse"] ** 2 * spent(row)[i]) for row in rows]
        values = [(row, value) for row, value in values if value > 0]
        if not values:
            continue
        names = [name for name in context.samplers if any(row.sampler == name for row, _ in values)]
        low, high = min(v for _, v in values), max(v for _, v in values)
        plot = svg.Plot(
            (low / 1.3, high * 1.3),
            (0.6 - len(names), 0.6),
            xlabel=label,
            xlog=True,
            height=54 + 22 * len(names),
            left=14 + 6 * max(map(len, names)),
            names=[(-i, name) for i, name in enumerate(names)],
        )
        for row, value in values:
            plot.point(value, -names.index(row.sampler), context.css(row), f"{said(row, ())}: {value:.3g}")
        drawings.append(plot.svg(label))
    return "".join(drawings)


def trace(row, draws):
    """The chains of a run, thinned."""
    at, chains = traces.thinned(draws)
    finite = chains[np.isfinite(chains)]
    if not finite.size:
        return '<p class="note">No draw is finite.</p>'
    plot = svg.Plot(
        (0, max(1, draws.llc.shape[1] - 1)),
        _range(finite.tolist(), 0.03),
        xlabel="draw",
        ylabel="nβ (L − L₀)",
        height=170,
    )
    for c, chain in enumerate(chains[:8]):
        plot.line(at, chain, f"thin c{c}", f"chain {c}")
    plot.across(row.result["llc_mean"], "mean", f"λ̂ = {row.result['llc_mean']:.5g}")
    return plot.svg(f"Trace of {len(chains)} chains")


def ranks(draws):
    """How often each chain's draws have each rank among all."""
    shares = traces.ranks(draws)[:8]
    most = max(2.0, float(shares.max()))
    bins = shares.shape[1]
    plot = svg.Plot(
        (0, 100),
        (-len(shares), 0),
        xlabel="rank among all draws, per cent",
        height=60 + 26 * len(shares),
        left=58,
        names=[(-c - 0.6, f"chain {c}") for c in range(len(shares))],
    )
    for c, heights in enumerate(shares):
        for b, height in enumerate(heights):
            plot.box(100 * b / bins, 100 * (b + 1) / bins, -c - 1, -c - 1 + 0.92 * height / most, f"c{c}")
        plot.across(-c - 1 + 0.92 / most, "expected")
    return plot.svg(f"Ranks of {len(shares)} chains")


def spent(row):
    """Gradients, and seconds of adapting and drawing."""
    if not row.result:
        return math.nan, math.nan
    laps = row.result["timings_sec"]
    return row.result["total_fges"], laps.get("adapt", 0.0) + laps.get("sample", 0.0)
