"""Loss and λ̂ along training: one figure for each network, with all of its samplers and seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence

from lambda_hat.inspect.records import Record, RunRecord
from lambda_hat.report import svg
from lambda_hat.report.panels import Context, described, value_range

FEWEST = 2
"""Steps of training that make a curve."""

VARIED = ("seed", "sampler.", "training.checkpoint")
"""Settings in which the runs of one curve may differ."""


def along_training(records: Iterable[Record]) -> list[list[RunRecord]]:
    """Finished runs at steps of training, in groups that differ in step, seed and sampler alone, of two steps or more."""
    found: dict[tuple, list[RunRecord]] = {}
    for record in records:
        summary = record.summary
        if not isinstance(record, RunRecord) or summary is None:
            continue
        if summary.training_step is not None and summary.llc_mean is not None:
            rest = {key: str(value) for key, value in record.settings.items() if not key.startswith(VARIED)}
            estimand = summary.estimand
            found.setdefault((*sorted(rest.items()), estimand.beta, estimand.gamma, estimand.loss), []).append(record)
    curves = (sorted(group, key=lambda record: step_of(record) or 0) for group in found.values())
    return [group for group in curves if len({step_of(record) for record in group}) >= FEWEST]


def step_of(record: Record) -> int | None:
    """The step of training that a finished run's w0 is at, unpolished; None for any other."""
    return record.summary.training_step if record.summary else None


def figures(group: Sequence[RunRecord], context: Context) -> Mapping[str, svg.Plot]:
    """Figures against the step of training by their captions; step 0 stands at the left end of the logarithmic axis.

    Arguments:
        group: of `along_training`.
        context: of the page.
    """
    steps = {step_of(record) or 0 for record in group}
    least = min((step for step in steps if step > 0), default=1)
    place = lambda record: (step_of(record) or 0) or least / 2
    span = (least / 2, max(max(steps), least) * 1.15)
    made = {}
    if any(_losses(record) != (None, None) for record in group):
        made["Mean loss (dashed: held-out pairs)"] = _loss(group, place, span, context)
    made["λ̂, with its 95 % interval"] = _llc(group, place, span, context)
    if any(record.summary.llc_from_minimum is not None for record in group if record.summary):
        made["λ̂ and the gain of a local descent: measured from the minimum near w0"] = _from_minimum(
            group, place, span, context
        )
    return made


def _losses(record):
    point = record.meta.trajectory if record.meta else None
    return (point.train_loss, point.test_loss) if point else (None, None)


def _lines(group, read):
    """(sampler and seed) → the runs of which there is something to read, and that."""
    found: dict[tuple, list] = {}
    for record in group:
        if (value := read(record)) is not None and math.isfinite(value):
            key = record.sampler, *(str(record.settings.get(name)) for name in ("seed", "sampler.seed"))
            found.setdefault(key, []).append((record, value))
    return found.values()


def _axes(span, values, ylabel, what):
    """An empty figure of these values against the step of training."""
    label = f"{what} against the step of training"
    return svg.Plot(span, value_range(values), xlabel="step of training", ylabel=ylabel, xlog=True, label=label)


def _loss(group, place, span, context):
    values = [value for record in group for value in _losses(record) if value is not None]
    plot = _axes(span, values, "mean loss", "Mean loss")
    for i, dashes in ((0, ""), (1, " dashed")):
        for line in _lines(group, lambda record, i=i: _losses(record)[i]):
            plot.line([place(r) for r, _ in line], [v for _, v in line], f"plain{dashes}", f"seed {_seed(line)}")
    return plot


def _seed(line):
    return line[0][0].settings.get("seed")


def _llc(group, place, span, context):
    ends = [end for record in group for end in record.result.llc_interval95]
    means = [record.result.llc_mean for record in group]
    plot = _axes(span, [*ends, *means], "λ̂", "Estimates")
    for line in _lines(group, lambda record: record.result.llc_mean):
        css = context.css(line[0][0])
        plot.line([place(r) for r, _ in line], [v for _, v in line], f"thin {css}", f"seed {_seed(line)}")
        for record, value in line:
            low, high = record.result.llc_interval95
            text = f"step {step_of(record)}, {described(record, ())}"
            if low is not None and high is not None:
                plot.error(place(record), low, high, css, text)
            mark = plot.cross if record.verdict == "bad" else plot.point
            mark(place(record), value, f"{css} {record.verdict}", text)
    return plot


def _from_minimum(group, place, span, context):
    read = lambda record: record.result.llc_from_minimum
    values = [value for line in _lines(group, read) for _, value in line]
    plot = _axes(span, values, "λ̂ + descent gain", "Estimates from the minimum near w0")
    for line in _lines(group, read):
        css = context.css(line[0][0])
        plot.line([place(r) for r, _ in line], [v for _, v in line], f"thin {css}", f"seed {_seed(line)}")
        for record, value in line:
            mark = plot.cross if record.verdict == "bad" else plot.point
            mark(place(record), value, f"{css} {record.verdict}", f"step {step_of(record)}: {value:.5g}")
    return plot
