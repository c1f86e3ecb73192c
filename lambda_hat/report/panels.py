"""The report's figures: λ̂ by sampler, running λ̂, work, traces, ranks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from lambda_hat.inspect import formats
from lambda_hat.inspect.records import Record, RunRecord
from lambda_hat.report import draws as traces
from lambda_hat.report import svg


@runtime_checkable
class Context(Protocol):
    """What figures take from their page."""

    samplers: list[str]

    def css(self, record: Record) -> str:
        """The class that gives a run's sampler its colour."""
        ...


MOST_NAMED = 40
"""Runs of a target that a figure names one by one."""


def label(record: RunRecord, keys: Sequence[str]) -> str:
    """A run's name in a figure: its sampler and the settings `keys`."""
    parts = [f"{key.rpartition('.')[2]} {formats.setting(record.settings.get(key))}" for key in keys]
    return " ".join([record.sampler, *parts])


def described(record: RunRecord, keys: Sequence[str]) -> str:
    """A run's result in a line, shown when the pointer is on its mark."""
    summary = record.result
    estimate = formats.estimate(summary.llc_mean, summary.llc_mcse)
    return f"{label(record, keys)}: {estimate} {formats.interval(*summary.llc_interval95)} {record.word}"


def known(records: Sequence[Record]) -> tuple[list[float], list[float]]:
    """Values of the exact posterior's λ̂, and of λ, that figures show as lines."""
    truths = [record.summary.truth for record in records if record.summary and record.summary.truth]
    finite = {truth.finite for truth in truths if truth.finite is not None}
    return sorted(finite)[:3], sorted({truth.learning_coefficient for truth in truths})


def value_range(values: Iterable[float | None], margin: float = 0.06) -> tuple[float, float]:
    """The ends of an axis that shows these values, with a margin."""
    values = [value for value in values if value is not None and math.isfinite(value)] or [0.0]
    low, high = min(values), max(values)
    space = margin * ((high - low) or abs(high) or 1)
    return low - space, high + space


def forest(records: Sequence[RunRecord], keys: Sequence[str], context: Context) -> svg.Plot:
    """λ̂ of each run with its interval, and known values; runs that are not ok are marked by their status."""
    finite, truths = known(records)
    ends = [end for record in records for end in record.result.llc_interval95]
    names = [(-i, _short(label(record, keys))) for i, record in enumerate(records)]
    if len(records) > MOST_NAMED:  # the first of each sampler alone
        first = (i for i, record in enumerate(records) if i == 0 or records[i - 1].sampler != record.sampler)
        names = [(-i, records[i].sampler) for i in first]
    height = 17 * len(records) if len(records) <= MOST_NAMED else max(17 * MOST_NAMED, 4 * len(records))
    plot = svg.Plot(
        value_range([*ends, *finite, *truths, *(record.result.llc_mean for record in records)]),
        (0.6 - len(records), 0.6),
        xlabel="λ̂",
        height=60 + int(height),
        left=14 + 6 * max(len(name) for _, name in names),
        names=names,
        label="; ".join(described(record, keys) for record in records),
    )
    _mark_known(plot.down, finite, truths)
    for i, record in enumerate(records):
        low, high = record.result.llc_interval95
        css, text = f"{context.css(record)} {record.verdict}", described(record, keys)
        if low is not None and high is not None:
            plot.interval(low, high, -i, css, text)
        if (mean := record.result.llc_mean) is not None:
            (plot.cross if record.verdict == "bad" else plot.point)(mean, -i, css, text)
    return plot


def legend(records: Sequence[RunRecord]) -> str:
    """What the marks of runs that are not ok look like; empty where all are."""
    statuses = {record.verdict for record in records}
    marks = [text for status, text in (("warn", "hollow: warn"), ("bad", "cross: bad")) if status in statuses]
    return ", ".join(marks)


def multiple(parts: Sequence[tuple[str, Sequence[RunRecord]]], context: Context) -> svg.Plot:
    """λ̂ of all runs of a network, a row for each thing that is estimated or, where that is one, for each sampler.

    Runs that are bad do not stretch the axis.

    Arguments:
        parts: title and runs of each row.
        context: of the page.
    """
    records = [record for _, members in parts for record in members]
    finite, truths = known(records)
    good = [record.result for record in records if record.verdict != "bad"] or [record.result for record in records]
    ends = value_range(end for each in good for end in (each.llc_mean, *each.llc_interval95))
    low, high = value_range([*ends, *(value for value in [*finite, *truths] if 3 * ends[0] < value + 2 * ends[1])], 0.0)
    samplers = [name for name in context.samplers if any(record.sampler == name for record in records)]
    if len(parts) == 1:
        parts = [(name, [record for record in records if record.sampler == name]) for name in samplers]
        samplers = [""]
    every = -(-len(parts) // MOST_NAMED)
    names = [(-i, _short(title)) for i, (title, _) in enumerate(parts) if title and i % every == 0]
    plot = svg.Plot(
        value_range((low, high), 0.03),
        (0.6 - len(parts), 0.6),
        xlabel="λ̂",
        height=54 + len(parts) * max(6, min(17 + 5 * len(samplers), 1400 // len(parts))),
        left=14 + 6 * max((len(name) for _, name in names), default=0),
        names=names,
        label=f"λ̂ of {len(records)} runs",
    )
    _mark_known(plot.down, finite, truths)
    for i, (_, members) in enumerate(parts):
        for record in members:
            result, css = record.result, f"{context.css(record)} {record.verdict}"
            at = -i - (0.7 * ((samplers.index(record.sampler) + 0.5) / len(samplers) - 0.5) if len(samplers) > 1 else 0)
            text = f"{record.sampler} {formats.estimate(result.llc_mean, result.llc_mcse)} {record.word}"
            place = min(max(result.llc_mean or 0.0, low), high)
            left, right = (None if end is None else min(max(end, low), high) for end in result.llc_interval95)
            if left is not None and right is not None and place == result.llc_mean:
                plot.interval(left, right, at, css)
            (plot.cross if record.verdict == "bad" else plot.point)(place, at, css, text)
    return plot


def _mark_known(mark, finite, truths):
    for value in finite:
        mark(value, "exact", f"exact λ̂ at this n, β, γ: {value:.5g}")
    for value in truths:
        mark(value, "truth", f"λ = {value:g}")


def _short(text):
    return text if len(text) <= 24 else text[:23] + "…"


def convergence(
    records: Sequence[RunRecord], draws: Mapping[str, traces.Draws], axis: str, xlabel: str, context: Context
) -> svg.Plot:
    """The running mean of each run's draws against `axis`, a field of `draws.Draws`."""
    finite, truths = known(records)
    curves = []
    for record in records:
        at, mean = traces.running(draws[record.name])
        curves.append((record, np.maximum(getattr(draws[record.name], axis)[at], 1e-3), mean))
    late = [value for _, _, mean in curves for value in mean[len(mean) // 3 :]]
    first, last = min(float(x[0]) for _, x, _ in curves), max(float(x[-1]) for _, x, _ in curves)
    span = (first, max(last, 1.01 * first))
    about = f"Running mean of the draws of {len(records)} runs"
    plot = svg.Plot(span, value_range([*late, *finite, *truths]), xlabel=xlabel, ylabel="λ̂", xlog=True, label=about)
    _mark_known(plot.across, finite, truths)
    for record, x, mean in curves:
        plot.line(x, mean, context.css(record), described(record, ()))
    return plot


def work(records: Sequence[RunRecord], context: Context) -> list[svg.Plot]:
    """One dot for each run: gradients on the left, seconds on the right."""
    drawings = []
    for i, label in enumerate(("MCSE² × full-data gradients", "MCSE² × seconds")):
        values = [(record, (record.result.llc_mcse or 0.0) ** 2 * spent(record)[i]) for record in records]
        values = [(record, value) for record, value in values if 1e-100 < value < 1e100]
        if not values:
            continue
        names = [name for name in context.samplers if any(record.sampler == name for record, _ in values)]
        low, high = min(v for _, v in values), max(v for _, v in values)
        plot = svg.Plot(
            (low / 1.3, high * 1.3),
            (0.6 - len(names), 0.6),
            xlabel=label,
            xlog=True,
            height=54 + 22 * len(names),
            left=14 + 6 * max(map(len, names)),
            names=[(-i, name) for i, name in enumerate(names)],
            label=label,
        )
        for record, value in values:
            plot.point(
                value, -names.index(record.sampler), context.css(record), f"{described(record, ())}: {value:.3g}"
            )
        drawings.append(plot)
    return drawings


def trace(record: RunRecord, draws: traces.Draws) -> svg.Plot | None:
    """The chains of a run, thinned; None where no draw is finite."""
    at, chains = traces.thinned(draws)
    finite = chains[np.isfinite(chains)]
    if not finite.size:
        return None
    plot = svg.Plot(
        (0, max(1, draws.llc.shape[1] - 1)),
        value_range(finite.tolist(), 0.03),
        xlabel="draw",
        ylabel="nβ (L − L₀)",
        height=170,
        label=f"Trace of {len(chains)} chains",
    )
    for c, chain in enumerate(chains[:8]):
        plot.line(at, chain, f"thin c{c}", f"chain {c}")
    if (mean := record.result.llc_mean) is not None:
        plot.across(mean, "mean", f"λ̂ = {mean:.5g}")
    return plot


def ranks(draws: traces.Draws) -> svg.Plot:
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
        label=f"Ranks of {len(shares)} chains",
    )
    for c, heights in enumerate(shares):
        for b, height in enumerate(heights):
            plot.box(100 * b / bins, 100 * (b + 1) / bins, -c - 1, -c - 1 + 0.92 * height / most, f"c{c}")
        plot.across(-c - 1 + 0.92 / most, "expected")
    return plot


def spent(record: Record) -> tuple[float, float]:
    """Gradients, and seconds of adapting and drawing."""
    if not record.summary:
        return math.nan, math.nan
    laps = record.summary.timings_sec or {}
    return record.summary.total_fges, laps.get("adapt", 0.0) + laps.get("sample", 0.0)
