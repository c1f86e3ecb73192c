"""The head of the report: what was run, three numbers, and what went wrong, as a colleague reads it who has not seen the study."""

import re
import statistics
from collections.abc import Iterable, Sequence

from lambda_hat.inspect import formats, groups, overview, series
from lambda_hat.inspect.records import Record, RunRecord
from lambda_hat.report.markup import text

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w])")

MOST_VALUES = 4
"""Values of a swept setting that are listed one by one."""


# --- what was run -----------------------------------------------------------------------------------------------------


def what(records: Sequence[Record], differing: Sequence[str]) -> str:
    """How many runs of which samplers on how many targets, what was swept, and what it took: sentences."""
    runs = [record for record in records if record.run_id]
    targets = list({record.target_id: record for record in records}.values())
    samplers = sorted({record.sampler for record in runs if record.sampler})
    kinds = sorted({formats.setting(target.settings.get("model.kind", "?")) for target in targets})
    first = f"{_many(len(runs), 'run')} of {', '.join(samplers) or 'no sampler'} on {_many(len(targets), 'target')}"
    first += f" ({', '.join(kinds)})."
    swept = [
        _swept(key, records)
        for key in differing
        if key not in ("sampler.name", "model.kind", "data.kind", "training.kind")
    ]
    said = [first, f"What differs: {'; '.join(swept)}." if swept else "Nothing but the seeds of the samplers differs."]
    done = [record.summary for record in runs if record.summary]
    if done:
        seconds = sum(summary.walltime_sec or 0.0 for summary in done)
        gradients = sum(summary.total_fges for summary in done)
        said.append(f"It took {formats.short(gradients)} full-data gradients, {formats.duration(seconds)} in all.")
    return " ".join(said)


def _many(count, noun):
    return f"{count} {noun}{'s' * (count != 1)}"


def _swept(key: str, records: Sequence[Record]) -> str:
    values = series.in_order(
        formats.setting(value) if isinstance(value, (list, tuple, dict, bool)) else value
        for record in records
        if (value := record.settings.get(key)) is not None
    )
    name = series.short_name(series.RESOLVED_COLUMNS.get(key) or key)
    if len(values) <= MOST_VALUES:
        return f"{name} {', '.join(map(formats.cell, values))}"
    return f"{name} {formats.cell(values[0])} to {formats.cell(values[-1])} ({len(values)} values)"


# --- three numbers ----------------------------------------------------------------------------------------------------


def numbers(records: Sequence[Record], estimands: dict[str, groups.Estimand]) -> str:
    """Tiles: how many runs can be used, λ̂, and how sure it is (or how far from the exact value, where that is known)."""
    runs = [record for record in records if isinstance(record, RunRecord)]
    done = [record for record in runs if record.summary and record.summary.llc_mean is not None]
    usable = [record for record in done if record.verdict in ("ok", "warn")]
    tiles = [(f"{len(usable)} of {len(runs)}", f"runs can be used: {overview.counted(records)}")]
    if usable:
        alike: dict[groups.Estimand, list[float]] = {}
        for record in usable:
            if (llc := record.result.llc_mean) is not None:
                alike.setdefault(estimands[record.name], []).append(llc)
        tiles += [_estimates(alike, usable), _errors(usable)]
    return '<div class="tiles">' + "".join(f"<p><b>{text(a)}</b> {text(b)}</p>" for a, b in tiles) + "</div>"


def _estimates(alike, usable):
    means = sorted(statistics.fmean(values) for values in alike.values())
    if len(usable) == 1:
        return formats.estimate(usable[0].result.llc_mean, usable[0].result.llc_mcse), "λ̂ of the run"
    if len(means) == 1:
        return f"{means[0]:.4g}", f"λ̂, the mean of {len(usable)} runs"
    return f"{means[0]:.4g} to {means[-1]:.4g}", f"λ̂ of {len(means)} different estimands, each averaged over its runs"


def _errors(usable):
    distances = [abs(gap) for record in usable if (gap := gap_of(record)) is not None]
    if distances:
        return (
            f"{100 * statistics.median(distances):.2g} %",
            f"from the exact λ̂, the median of {_many(len(distances), 'run')} (largest {100 * max(distances):.2g} %)",
        )
    halves = []
    for record in usable:
        low, high = record.result.llc_interval95
        if low is not None and high is not None and record.result.llc_mean:
            halves.append((high - low) / 2 / abs(record.result.llc_mean))
    if not halves:
        return "?", "of λ̂ is half of a 95 % interval: no run has one"
    return f"± {100 * statistics.median(halves):.2g} %", "of λ̂ is half of a run's 95 % interval (median)"


def gap_of(record: Record) -> float | None:
    """λ̂ over the exact posterior's, less one; None where that is not known."""
    summary = record.summary
    finite = summary.truth.finite if summary and summary.truth else None
    return summary.llc_mean / finite - 1 if summary and finite and summary.llc_mean is not None else None


# --- what went wrong --------------------------------------------------------------------------------------------------


def reasons(listed: Iterable[tuple[str, str]]) -> list[tuple[str, int, str]]:
    """Sentences about runs that differ in their numbers alone, as one sentence with the range of each number.

    Arguments:
        listed: (status, sentence), in order of what comes first.

    Returns:
        (status, how many there are, the sentence), those of a status by their number.
    """
    found: dict[tuple[str, str], list[list[str]]] = {}
    for status, sentence in listed:
        found.setdefault((status, NUMBER.sub("\0", sentence)), []).append(NUMBER.findall(sentence))
    order = list(dict.fromkeys(status for status, _ in found))
    made = []
    for (status, pattern), values in found.items():
        spans = [_span(column) for column in zip(*values, strict=True)]
        parts = pattern.split("\0")
        made.append((status, len(values), "".join(part + span for part, span in zip(parts, [*spans, ""], strict=True))))
    return sorted(made, key=lambda each: (order.index(each[0]), -each[1]))


def _span(values):
    low, high = min(values, key=float), max(values, key=float)
    return low if float(low) == float(high) else f"{low} to {high}"
