"""The report: a study as one HTML file that needs nothing else. Problems come first, then tables, then figures."""

import math
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

from lambda_hat import store
from lambda_hat.inspect import formats, groups, overview
from lambda_hat.inspect.filters import KINDS
from lambda_hat.inspect.records import STATES, Record, RunRecord
from lambda_hat.inspect.table import COLUMNS
from lambda_hat.report import curve, panels, sweeps
from lambda_hat.report import draws as traces
from lambda_hat.system.errors import StoreError
from lambda_hat.system.terminal import printable

PAGE = Path(__file__).with_name("page.html")

ORDER = ("hmc", "sgld", "mclmc", "laplace", "amclmc", "nuts", "mala")
"""Samplers in the order of their colours; others come after them."""

MOST_LISTED = 12
"""Problems that are shown before the rest is folded away."""

SEVERITY = ("damaged", "failed", "bad", "stale", "missing", "old", "warn", "running", "queued")
"""Statuses that are listed as problems, the worst first."""


def page(records: Sequence[Record], root: Path, path: Path, drawn: Iterable[sweeps.Figure] = ()) -> str:
    """The whole page.

    Arguments:
        records: what it is about.
        root: where they are from.
        path: where the page will be, which its links are relative to.
        drawn: figures over swept settings.
    """
    context = _Context(records, path)
    targets = groups.by_target(records)
    sections = [
        _target(number, members, context) for number, members in enumerate(targets.values(), 1)
    ]  # which also collects damaged traces
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=_text(f"Study: {Path(root).resolve().name}"),
        counted=_text(overview.counted(records)),
        when=_text(store.now()),
        problems=_problems(context),
        overview=_overview(targets, context),
        legend=_legend(context.samplers),
        sections="\n".join(
            [*(sweeps.section(i, figure) for i, figure in enumerate(drawn)), *_curves(records, context), *sections]
        ),
        shared=_definitions(overview.shared(records, context.differing)),
    )


def _text(value):
    """Text for HTML; what came out of a file may hold anything."""
    return escape(printable(value), True)


class _Context:
    """What all parts of a page share."""

    def __init__(self, records, path):
        names = {record.sampler for record in records if record.sampler}
        self.samplers = [name for name in ORDER if name in names] + sorted(names.difference(ORDER))
        self.differing = groups.varying(records)
        self.estimands = groups.estimands(records)
        self.folder = Path(os.path.abspath(path)).parent
        self.records, self.damaged = records, {}

    def css(self, record: Record) -> str:
        """The class that gives a run's sampler its colour."""
        return f"s{self.samplers.index(record.sampler or '') % 8}"

    def link(self, directory: Path, text: str) -> str:
        """A link to something in the store, or its name alone where there is nothing."""
        if directory.is_symlink() or not directory.is_dir():
            return _text(text)
        address = os.path.relpath(directory, self.folder).replace(os.sep, "/")
        return f'<a href="{escape(quote(os.fsencode(address)), True)}">{_text(text)}</a>'

    def draws(self, record: RunRecord) -> traces.Draws | None:
        """The draws of a run; None where its trace is damaged, which is then listed."""
        try:
            return traces.read(record)
        except StoreError as error:
            self.damaged[record.name] = str(error)
            return None


# --- problems, and the whole at a glance ------------------------------------------------------------------------------


def _problems(context):
    """What is bad, missing or doubtful, the worst first."""
    listed = [
        (SEVERITY.index(record.word), _problem(record, record.word, "; ".join(record.notes), context))
        for record in context.records
        if record.word in SEVERITY
    ]
    by_name = {record.name: record for record in context.records}
    listed += [(0, _problem(by_name[name], "damaged", text, context)) for name, text in context.damaged.items()]
    if not listed:
        return '<p class="fine">No problems.</p>'
    items = [item for _, item in sorted(listed, key=lambda pair: pair[0])]
    first, rest = items[:MOST_LISTED], items[MOST_LISTED:]
    folded = f"<details><summary>{len(rest)} more</summary><ul>{''.join(rest)}</ul></details>" if rest else ""
    return f"<ul>{''.join(first)}</ul>{folded}"


def _problem(record, word, text, context):
    return f"<li>{_badge(word)} {context.link(record.directory, record.short)} {_text(text)}</li>"


def _badge(word):
    return f'<span class="badge {_text(word)}">{_text(word)}</span>'


def _overview(targets, context):
    """For each target a line with its name and the known values, and one for each sampler and estimand."""
    lines = []
    for number, members in enumerate(targets.values(), 1):
        lines.append([f'<a href="#t{number}">{_text(_name(members, context))}</a> {_text(_truth_text(members))}'])
        for title, part in _parts(members, context):
            for sampler in context.samplers:
                if runs := [record for record in part if record.sampler == sampler]:
                    lines.append(_sampler_line(sampler, title, runs, context))
    titled = any(len(line) > 1 and line[1] for line in lines)
    header = ["sampler", "estimand", "runs", "mean λ̂", "status", "MCSE of a run", "sd between runs"]
    if not titled:
        header, lines = header[:1] + header[2:], [line if len(line) == 1 else line[:1] + line[2:] for line in lines]
    note = (
        "Means are over runs that are not bad (bad ones where there are no others), and never over different estimands."
    )
    return _table(header, lines, left=3 if titled else 2) + f'<p class="note">{note}</p>'


def _parts(records, context):
    """Records of a target by what they estimate, with a title that distinguishes the parts; targets without runs are left out."""
    parts: dict = {}
    for record in records:
        if record.run_id:
            estimand = context.estimands[record.name]
            parts.setdefault((estimand.posterior, estimand.estimator), []).append(record)
    finished = [record for record in records if record.summary]
    columns = groups.estimand_columns(finished, COLUMNS)
    differing = {name: read for name, read in columns.items() if len({formats.setting(read(r)) for r in finished}) > 1}
    for members in parts.values():
        first = next((record for record in members if record.summary), None)
        names = (
            [f"{_SYMBOLS.get(name, name)} = {formats.cell(_rounded(read(first)))}" for name, read in differing.items()]
            if first
            else []
        )
        yield ", ".join(names), members


_SYMBOLS = {"beta": "β", "gamma": "γ", "noise_scale": "σ"}


def _rounded(value):
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _sampler_line(sampler, title, records, context):
    counts = ((word, sum(record.word == word for record in records)) for word in (*groups.VERDICTS, *STATES[1:]))
    statistics = groups.summarise(records)
    return [
        f'<span class="key {context.css(records[0])}">{_text(sampler)}</span>',
        _text(title),
        " ".join(f"{_badge(word)}&thinsp;{count}" for word, count in counts if count),
        formats.number(statistics.llc_mean, ".5g"),
        _badge(statistics.status) if statistics.llc_mean is not None else formats.DASH,
        formats.number(statistics.llc_mcse, ".2g"),
        formats.number(statistics.llc_scatter, ".2g"),
    ]


def _truth_text(records):
    """The exact posterior's λ̂ and λ, where they are known."""
    finite, truths = panels.known(records)
    parts = [f"exact λ̂ {' or '.join(f'{value:.5g}' for value in finite)}"] if finite else []
    parts += [f"λ {' or '.join(f'{value:g}' for value in truths)}"] if truths else []
    return f"({', '.join(parts)})" if parts else ""


def _name(records, context):
    """A target in a few words: the settings in which targets differ, or its id."""
    keys = groups.varying(context.records, ("model", "data", "training", "seed"))
    settings = {key: value for record in records for key, value in record.settings.items()}
    parts = [
        formats.setting(settings[key])
        if key in KINDS.values()
        else f"{key.partition('.')[2] or key} {formats.setting(settings[key])}"
        for key in keys
        if key in settings and key not in ("training.kind", "data.kind")
    ]
    return ", ".join(parts) or records[0].target_id


def _legend(samplers):
    keys = [f'<span class="key s{i % 8}">{_text(name)}</span>' for i, name in enumerate(samplers)]
    keys += ['<span class="key exact">exact λ̂ at this n, β, γ</span>', '<span class="key truth">λ (n → ∞)</span>']
    return "".join(keys)


def _table(header, lines, left):
    """An HTML table; the first `left` columns are text, and a line of one cell is a heading within it."""
    side = lambda i: ' class="w"' if i < left else ""
    head = "".join(f"<th{side(i)}>{_text(name)}</th>" for i, name in enumerate(header))
    body = "".join(
        f'<tr><td class="w group" colspan="{len(header)}"><div>{line[0]}</div></td></tr>'
        if len(line) == 1
        else "<tr>" + "".join(f"<td{side(i)}>{cell}</td>" for i, cell in enumerate(line)) + "</tr>"
        for line in lines
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _definitions(pairs: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{_text(a)}</dt><dd>{_text(b)}</dd>" for a, b in pairs) + "</dl>"


# --- along training ---------------------------------------------------------------------------------------------------


def _curves(records, context):
    """A section for each network that is sampled at several steps of its training."""
    for number, group in enumerate(curve.along_training(records), 1):
        drawings = "".join(_figure(caption, svg) for caption, svg in curve.figures(group, context).items())
        seeds = len({record.settings.get("seed") for record in group})
        steps = sorted({step for record in group if (step := curve.step_of(record)) is not None})
        about = (
            f"{len(group)} runs at {len(steps)} steps from {steps[0]} to {steps[-1]}, {seeds} seed{'s' * (seeds > 1)}"
        )
        yield (
            f'<section id="c{number}"><h2>Along training</h2><p class="note">{_text(about)}; step 0 is drawn at the left end. '
            f'w0 is no minimum before the end: λ̂ may be negative there.</p><div class="figures">{drawings}</div></section>'
        )


# --- a target ---------------------------------------------------------------------------------------------------------


def _target(number, records, context):
    records = sorted(records, key=lambda record: context.samplers.index(record.sampler) if record.sampler else -1)
    keys = [key for key in groups.varying(records) if key != "sampler.name"]
    about = overview.describe_target(records, [key for key in context.differing if key not in keys])
    directory = records[0].directory.parent if records[0].run_id else records[0].directory
    done = [record for record in records if record.summary and record.summary.llc_mean is not None]
    draws = {record.name: read for record in done if (read := context.draws(record)) is not None}
    sampled = [record for record in done if record.name in draws and record.summary.llc_mcse is not None]
    parts = [
        f'<section id="t{number}"><h2>{_text(_name(records, context))}</h2>',
        f'<p class="note">{context.link(directory, records[0].target_id)} {_text(about)}</p>',
        _runs_table(records, keys, context),
    ]
    for title, members in _parts(done, context):
        parts.append(f"<h3>{_text(title)}</h3>" if title else "")
        parts.append(_figures(members, [record for record in sampled if record in members], draws, keys, context))
    return "\n".join([*parts, _chains(sampled, draws, keys, context), _provenance(records), "</section>"])


def _figures(done, sampled, draws, keys, context):
    figures = [_figure("λ̂ by sampler, with its 95 % interval", panels.forest(done, keys, context))]
    if sampled:
        drawings = (panels.convergence(sampled, draws, name, label, context) for name, label in _AXES)
        figures.append(
            _figure("Running mean of every run's draws, against gradients and against time", "".join(drawings))
        )
        figures.append(_figure("Work-normalised variance: MCSE² × work, less is better", panels.work(sampled, context)))
    return f'<div class="figures">{"".join(figures)}</div>'


_AXES = (
    ("gradients", "full-data gradients, all chains, warm-up included"),
    ("seconds", "seconds of adapting and drawing, compilation included"),
)


def _runs_table(records, keys, context):
    header = [
        "sampler",
        "status",
        *(key.partition(".")[2] or key for key in keys),
        "λ̂ ± MCSE",
        "95 %",
        "raw mean",
        "error",
    ]
    header += ["ESS", "R-hat", "gradients", "time", "MCSE²·gradients", "MCSE²·s", "directory"]
    lines = [_run_line(record, keys, context) for record in records]
    shown = [i for i in range(len(header)) if any(line[i] != formats.DASH for line in lines)]
    return _table([header[i] for i in shown], [[line[i] for i in shown] for line in lines], left=2)


def _run_line(record, keys, context):
    summary = record.summary
    mean, error, ess, rhat = record.current
    finite = summary.truth.finite if summary and summary.truth else None
    return [
        f'<span class="key {context.css(record)}">{_text(record.sampler)}</span>' if record.sampler else "",
        f'<span title="{_text("; ".join(record.notes))}">{_badge(record.word)}</span>',
        *(_text(formats.setting(record.settings.get(key))) for key in keys),
        formats.estimate(mean, error),
        formats.interval(*summary.llc_interval95) if summary else formats.DASH,
        formats.number(summary.llc_raw if summary else None, ".5g"),
        f"{100 * (mean / finite - 1):+.2f} %" if finite and mean is not None else formats.DASH,
        formats.number(ess, ".0f"),
        formats.number(rhat, ".4f"),
        formats.number(summary.total_fges if summary else None, ".0f"),
        formats.duration(summary.walltime_sec if summary else None),
        *(formats.short(error**2 * work) if summary and error else formats.DASH for work in panels.spent(record)),
        context.link(record.directory, record.run_id or record.target_id),
    ]


def _figure(title, drawing):
    return f"<figure><figcaption>{_text(title)}</figcaption>{drawing}</figure>"


# --- chains -----------------------------------------------------------------------------------------------------------


def _chains(records, draws, keys, context):
    """Trace and ranks of the most doubtful run of each sampler, and links to the figures of all."""
    parts = []
    for sampler in context.samplers:
        runs = [record for record in records if record.sampler == sampler]
        if not runs:
            continue
        worst = max(runs, key=lambda run: (groups.VERDICTS.index(run.verdict), run.summary.rhat or math.inf))
        which = "" if len(runs) == 1 else f", the most doubtful of {len(runs)}"
        name = panels.label(worst, keys)
        parts.append(_figure(f"{name}{which}: trace", panels.trace(worst, draws[worst.name])))
        parts.append(_figure(f"{name}: ranks by chain, flat where chains agree", panels.ranks(draws[worst.name])))
    if not parts:
        return ""
    drawn = [record for record in records if (record.directory / "diagnostics").is_dir()]
    links = [context.link(record.directory / "diagnostics", panels.label(record, keys)) for record in drawn]
    note = f'<p class="note">Figures of every run: {" · ".join(links)}</p>' if links else ""
    return (
        f'<details open><summary>Traces and ranks</summary><div class="figures">{"".join(parts)}</div>{note}</details>'
    )


# --- behind the fold --------------------------------------------------------------------------------------------------


def _provenance(records):
    values: dict[str, dict[str, None]] = {}
    for record in records:
        for key, value in record.settings.items():
            values.setdefault(key, {})[formats.setting(value)] = None
    lines = [(key, ", ".join(each)) for key, each in values.items()]
    sources: dict[str, dict[str, None]] = {}
    for record in records:
        provenance = record.summary.provenance if record.summary else None
        for key, value in vars(provenance).items() if provenance else ():
            if key != "log" and value is not None:
                text = (
                    ", ".join(f"{name} {each}" for name, each in value.items())
                    if isinstance(value, dict)
                    else str(value)
                )
                sources.setdefault(key, {})[text] = None
    lines += [(key, " | ".join(each)) for key, each in sources.items()]
    made = sorted(
        record.summary.created_at for record in records if record.summary and record.summary.created_at is not None
    )
    lines += [("made", f"{formats.time(made[0])} to {formats.time(made[-1])}")] if made else []
    return f"<details><summary>Configuration and provenance</summary>{_definitions(lines)}</details>"
