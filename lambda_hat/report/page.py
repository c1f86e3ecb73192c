"""The report: a study as one HTML file that needs nothing else.

First what was run and what went wrong, then λ̂ by what it estimates, then figures; each target's runs are folded at the end.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from string import Template
from urllib.parse import quote

from lambda_hat import store
from lambda_hat.inspect import formats, groups, overview
from lambda_hat.inspect.filters import KINDS
from lambda_hat.inspect.records import STATES, Record, RunRecord
from lambda_hat.inspect.table import COLUMNS, tidy
from lambda_hat.report import curve, header, panels, svg, sweeps
from lambda_hat.report import draws as traces
from lambda_hat.report.markup import badge, data_link, definitions, table, text
from lambda_hat.system.errors import StoreError

PAGE = Path(__file__).with_name("page.html")

ORDER = ("hmc", "sgld", "mclmc", "laplace", "amclmc", "nuts", "mala")
"""Samplers in the order of their colours; others come after them."""

MOST_LISTED = 12
"""Problems that are listed one by one; of more, those that are alike are a line, and the list is folded away."""

MOST_OPEN = 2
"""Targets whose runs are not folded away."""

MOST_DRAWN = 400
"""Runs whose draws a page shows, the most doubtful first."""

MOST_TRACED = 100
"""Runs whose chains a page shows, one of a target and sampler at most, the most doubtful first."""

MOST_MULTIPLES = 120
"""Small figures of λ̂."""

SEVERITY = ("damaged", "failed", "bad", "stale", "missing", "old", "warn", "running", "queued")
"""Statuses that are listed as problems, the worst first."""


def samplers_of(records: Iterable[Record]) -> list[str]:
    """The samplers of these runs, in the order of their colours."""
    names = {record.sampler for record in records if record.sampler}
    return [name for name in ORDER if name in names] + sorted(names.difference(ORDER))


def page(
    records: Sequence[Record],
    root: Path,
    path: Path,
    drawn: Iterable[sweeps.Figure] = (),
    keep: Callable[[str, svg.Plot], None] = lambda name, plot: None,
) -> str:
    """The whole page.

    Arguments:
        records: what it is about.
        root: where they are from.
        path: where the page will be, which its links are relative to.
        drawn: figures over swept settings.
        keep: is called with each other figure, and a name for it.
    """
    context = _Context(records, path, keep)
    targets = groups.by_target(records)
    sections = [
        _target(number, members, context) for number, members in enumerate(targets.values(), 1)
    ]  # which also collects damaged traces
    heading = ["<h2>Every target</h2>"] if context.multiples else []
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=text(f"Study: {Path(root).resolve().name}"),
        what=text(header.what(records, context.differing)),
        numbers=header.numbers(records, context.estimands),
        when=text(store.now()),
        problems=_problems(context),
        overview=_overview(context),
        legend=_legend(context),
        sections="\n".join(
            [
                *(sweeps.section(i, each) for i, each in enumerate(drawn)),
                *_curves(records, context),
                *_multiples(context),
                *heading,
                *sections,
            ]
        ),
        shared=definitions(
            [*overview.shared(records, context.differing), *(_sources(records) if context.is_large else [])]
        ),
    )


class _Context:
    """What all parts of a page share."""

    def __init__(self, records, path, keep):
        self.samplers = samplers_of(records)
        self._keep, self._names = keep, Counter()
        self.differing = groups.varying(records)
        self.estimands = groups.estimands(records)
        self.folder = Path(os.path.abspath(path)).parent
        self.records, self.damaged = records, {}
        self.number = {target: i for i, target in enumerate(groups.by_target(records), 1)}
        self.is_large = len(self.number) > MOST_MULTIPLES  # what all targets share is then said once
        self.alike: dict = {}  # records by the settings of their target but for its seed
        for record in records:
            estimand = self.estimands[record.name]
            self.alike.setdefault((estimand.target, estimand.target_version), []).append(record)
        self.parts = [(members, list(_parts(members, self))) for members in self.alike.values()]
        done = [[title for title, part in parts if any(record.summary for record in part)] for _, parts in self.parts]
        self.multiples = len(self.number) > 1 or any(len(titles) > 1 for titles in done)
        self.chosen = _chosen(self)
        self.traced = _traced(self)

    def css(self, record: Record) -> str:
        """The class that gives a run's sampler its colour."""
        return f"s{self.samplers.index(record.sampler or '') % 8}"

    def link(self, directory: Path, name: str) -> str:
        """A link to something in the store, or its name alone where there is nothing."""
        if directory.is_symlink() or not directory.is_dir():
            return text(name)
        address = os.path.relpath(directory, self.folder).replace(os.sep, "/")
        return f'<a href="{escape(quote(os.fsencode(address)), True)}">{text(name)}</a>'

    def figure(self, caption: str, plots: Sequence[svg.Plot], name: str, note: str = "", link: str = "") -> str:
        """Plots with a caption and a note, or a caption that is HTML; they are kept under the name and their numbers."""
        for plot in plots:
            self._names[name] += 1
            self._keep(f"{re.sub(r'[^a-zA-Z0-9_λ]+', '_', name)}_{self._names[name]}", plot)
        note = f'<p class="note">{text(note)}</p>' if note else ""
        drawn = "".join(plot.svg() for plot in plots) + note
        return f"<figure><figcaption>{link or text(caption)}</figcaption>{drawn}</figure>"

    def draws(self, record: RunRecord) -> traces.Draws | None:
        """The draws of a run; None where its trace is damaged, which is then listed."""
        try:
            return traces.read(record)
        except StoreError as error:
            self.damaged[record.name] = str(error)
            return None


def _chosen(context):
    """Names of the runs whose draws are shown: as many of each sampler, target and estimand, the most doubtful first."""
    cells: dict = {}
    for _, parts in context.parts:
        for title, members in parts:
            for record in members:
                if record.summary and record.summary.llc_mean is not None:
                    cells.setdefault((record.target_id, title, record.sampler), []).append(record)
    share = max(1, MOST_DRAWN // max(1, len(cells)))
    chosen = [record.name for members in cells.values() for record in sorted(members, key=_doubt, reverse=True)[:share]]
    return set(chosen[:MOST_DRAWN])


def _traced(context):
    """Names of the runs whose chains are shown, out of those whose draws are."""
    worst: dict = {}
    for record in sorted((r for r in context.records if r.name in context.chosen), key=_doubt):
        worst[record.target_id, record.sampler] = record
    return {record.name for record in sorted(worst.values(), key=_doubt, reverse=True)[:MOST_TRACED]}


def _doubt(record):
    return groups.VERDICTS.index(record.verdict), record.summary.rhat or math.inf


# --- problems, and the whole at a glance ------------------------------------------------------------------------------


def _problems(context):
    """What is bad, missing or doubtful, the worst first."""
    listed = [
        (SEVERITY.index(record.word), _problem(record, record.word, "; ".join(record.notes), context))
        for record in context.records
        if record.word in SEVERITY
    ]
    by_name = {record.name: record for record in context.records}
    listed += [(0, _problem(by_name[name], "damaged", said, context)) for name, said in context.damaged.items()]
    if not listed:
        return '<p class="fine">No problems.</p>'
    items = [item for _, item in sorted(listed, key=lambda pair: pair[0])]
    if len(items) <= MOST_LISTED:
        return f"<ul>{''.join(items)}</ul>"
    said = [
        (SEVERITY.index(record.word), record.word, note)
        for record in context.records
        if record.word in SEVERITY
        for note in dict.fromkeys(record.notes or ["no reason is known"])
    ]
    said += [(0, "damaged", note) for note in context.damaged.values()]
    kinds = header.reasons((word, note) for _, word, note in sorted(said))
    lines = [f"<li>{badge(word)} {count} × {text(sentence)}</li>" for word, count, sentence in kinds]
    rest = f"<details><summary>{len(lines) - MOST_LISTED} more kinds</summary><ul>{''.join(lines[MOST_LISTED:])}</ul></details>"
    return (
        f"<ul>{''.join(lines[:MOST_LISTED])}</ul>{rest if len(lines) > MOST_LISTED else ''}"
        f"<details><summary>All {len(items)} of them, one by one</summary><ul>{''.join(items)}</ul></details>"
    )


def _problem(record, word, said, context):
    return f"<li>{badge(word)} {context.link(record.directory, record.short)} {text(said)}</li>"


def _overview(context):
    """For each target, its seeds together, a line with its name and the known values, and one for each estimand and sampler."""
    lines, exact = [], False
    for members, parts in context.parts:
        known = _truth_text(members)
        lines.append([f"{_targets_links(members, context)} {text(known)}"])
        for title, part in parts:
            for sampler in context.samplers:
                if runs := [record for record in part if record.sampler == sampler]:
                    lines.append(_sampler_line(sampler, title, runs, context))
                    exact = exact or lines[-1][-1] != formats.DASH
    head = ["sampler", "estimand", "runs", "mean λ̂", "status", "MCSE of a run", "sd between runs", "from exact λ̂"]
    titled = any(len(line) > 1 and line[1] for line in lines)
    kept = [i for i in range(len(head)) if (i != 1 or titled) and (i != len(head) - 1 or exact)]
    lines = [line if len(line) == 1 else [line[i] for i in kept] for line in lines]
    note = (
        "Means are over runs that are not bad (bad ones where there are no others), seeds of targets that are otherwise alike "
        "included, and never over different estimands."
    )
    return table([head[i] for i in kept], lines, left=3 if titled else 2) + f'<p class="note">{note}</p>'


def _targets_links(records, context):
    """The name of targets that differ in their seed at most, with a link to each."""
    targets = groups.by_target(records)
    first = f"#t{context.number[next(iter(targets))]}"
    if len(targets) == 1:
        return f'<a href="{first}">{text(_name(records, context))}</a>'
    name = text(_name(records, context, ("model", "data", "training")))
    seeds = [
        f'<a href="#t{context.number[target]}">{text(formats.setting(members[0].settings.get("seed", target)))}</a>'
        for target, members in targets.items()
    ]
    return f"{name}, seeds {' '.join(seeds)}"


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
    statistics = groups.summarise(records)
    return [
        f'<span class="key {context.css(records[0])}">{text(sampler)}</span>',
        text(title),
        _counts(records),
        formats.number(statistics.llc_mean, ".5g"),
        badge(statistics.status) if statistics.status and statistics.llc_mean is not None else formats.DASH,
        formats.number(statistics.llc_mcse, ".2g"),
        formats.number(statistics.llc_scatter, ".2g"),
        _gap([record for record in records if record.verdict != "bad"] or records),
    ]


def _counts(records):
    """How many there are of each status."""
    counts = Counter(record.word for record in records)
    return " ".join(f"{badge(word)}&thinsp;{counts[word]}" for word in (*groups.VERDICTS, *STATES) if counts[word])


def _gap(records):
    gaps = [gap for record in records if (gap := header.gap_of(record)) is not None]
    return f"{100 * fmean(gaps):+.2g} %" if gaps else formats.DASH


def _truth_text(records):
    """The exact posterior's λ̂ and λ, where they are known."""
    finite, truths = panels.known(records)
    parts = [f"exact λ̂ {' or '.join(f'{value:.5g}' for value in finite)}"] if finite else []
    parts += [f"λ {' or '.join(f'{value:g}' for value in truths)}"] if truths else []
    return f"({', '.join(parts)})" if parts else ""


def _name(records, context, parts=("model", "data", "training", "seed")):
    """A target in a few words: the settings in which targets differ, or its id."""
    keys = [key for key in context.differing if key.partition(".")[0] in parts]
    settings = {key: value for record in records for key, value in record.settings.items()}
    named = [
        formats.setting(settings[key])
        if key in KINDS.values()
        else f"{key.partition('.')[2] or key} {formats.setting(settings[key])}"
        for key in keys
        if key in settings and key not in ("training.kind", "data.kind")
    ]
    return ", ".join(named) or records[0].target_id


def _legend(context):
    keys = [f'<span class="key s{i % 8}">{text(name)}</span>' for i, name in enumerate(context.samplers)]
    finite, truths = panels.known(context.records)
    keys += ['<span class="key exact">exact λ̂ at this n, β, γ</span>'] if finite else []
    keys += ['<span class="key truth">λ (n → ∞)</span>'] if truths else []
    return "".join(keys)


# --- along training ---------------------------------------------------------------------------------------------------


def _curves(records, context):
    """A section for each network that is sampled at several steps of its training."""
    for number, group in enumerate(curve.along_training(records), 1):
        made = curve.figures(group, context).items()
        drawings = "".join(context.figure(caption, [plot], f"training_{number}") for caption, plot in made)
        seeds = len({record.settings.get("seed") for record in group})
        steps = sorted({step for record in group if (step := curve.step_of(record)) is not None})
        about = (
            f"{len(group)} runs at {len(steps)} steps from {steps[0]} to {steps[-1]}, {seeds} seed{'s' * (seeds > 1)}"
        )
        yield (
            f'<section id="c{number}"><h2>Along training</h2><p class="note">{text(about)}; step 0 is drawn at the left end. '
            f'w0 is no minimum before the end: λ̂ may be negative there.</p><div class="figures">{drawings}</div></section>'
        )


# --- small multiples --------------------------------------------------------------------------------------------------


def _multiples(context):
    """A small figure of λ̂ for each network and its data, where there is more than one thing that is estimated."""
    if not context.multiples:
        if len(context.records) > sweeps.MOST_LINKED:
            yield f'<section id="runs"><h2>All runs</h2><p>{data_link("runs", *_data(context))}</p></section>'
        return
    drawings = []
    for members, parts in context.parts:
        shown = [(title, [r for r in part if r.summary and r.summary.llc_mean is not None]) for title, part in parts]
        if shown := [(title, part) for title, part in shown if part]:
            link = _targets_links(members, context)
            name = f"{members[0].target_id}_networks"
            drawings.append((link, panels.multiple(shown, context), name))
    left = len(drawings) - MOST_MULTIPLES
    note = "Each mark is a run with its 95 % interval. Hollow: warn. Cross: bad; one outside the axes stands at their edge."
    note += f" {left} more are in the table above alone." if left > 0 else ""
    if drawings:
        made = (context.figure("", [plot], name, link=link) for link, plot, name in drawings[:MOST_MULTIPLES])
        figures = f'<div class="figures">{"".join(made)}</div>'
        link = data_link("networks", *_data(context))
        yield f'<section id="runs"><h2>λ̂ of each network</h2><p class="note">{note} {link}</p>{figures}</section>'


def _data(context):
    """Of all runs: what tells them apart, λ̂ with its interval, and the status."""
    header, lines = tidy([record for record in context.records if record.run_id])
    wanted = ("target_id", "run_id", "seed", "sampler", "sampler_seed", "status", "n", "beta", "gamma", "ess", "rhat")
    wanted += ("llc_mean", "llc_mcse", "llc_low95", "llc_high95", "truth", "truth_finite")
    wanted += ("relative_distance", "stein_residual")
    kept = [i for i, name in enumerate(header) if name in wanted or "." in name]
    return [header[i] for i in kept], [[line[i] for i in kept] for line in lines]


# --- a target ---------------------------------------------------------------------------------------------------------


def _target(number, records, context):
    records = sorted(records, key=lambda record: context.samplers.index(record.sampler) if record.sampler else -1)
    keys = [key for key in groups.varying(records) if key != "sampler.name"]
    about = overview.describe_target(records, [key for key in context.differing if key not in keys])
    directory = records[0].directory.parent if records[0].run_id else records[0].directory
    done = [record for record in records if record.summary and record.summary.llc_mean is not None]
    chosen = [record for record in done if record.name in context.chosen]
    draws = {record.name: read for record in chosen if (read := context.draws(record)) is not None}
    sampled = [record for record in chosen if record.name in draws and record.summary.llc_mcse is not None]
    summary = f"{text(_name(records, context))} {_counts(records)}"
    name = text(records[0].target_id)
    is_open = " open" * (len(context.number) <= MOST_OPEN)
    parts = [
        f'<details class="target"{is_open}><summary>{summary}</summary><section id="t{number}" data-target="{name}">',
        f'<p class="note">{context.link(directory, records[0].target_id)} {text(about)}</p>',
        _runs_table(records, keys, context),
    ]
    if len(chosen) < len(done):
        parts.append(
            f'<p class="note">Draws of {len(chosen)} of {len(done)} runs are shown, the most doubtful of each sampler.</p>'
        )
    for title, members in _parts(done, context):
        names = {record.name for record in members}
        parts.append(f"<h3>{text(title)}</h3>" if title else "")
        parts.append(_figures(members, [record for record in sampled if record.name in names], draws, keys, context))
    return "\n".join(
        [*parts, _chains(sampled, draws, keys, context), _provenance(records, context), "</section></details>"]
    )


def _figures(done, sampled, draws, keys, context):
    figures, target = [], done[0].target_id
    if not context.multiples:
        drawn = [panels.forest(done, keys, context)]
        figures.append(
            context.figure("λ̂ by sampler, with its 95 % interval", drawn, f"{target}_runs", panels.legend(done))
        )
    if sampled:
        drawn = [panels.convergence(sampled, draws, name, label, context) for name, label in _AXES]
        caption = "Running mean of every run's draws, against gradients and against time"
        figures.append(context.figure(caption, drawn, f"{target}_running_mean"))
        drawn = panels.work(sampled, context)
        figures.append(
            context.figure("Work-normalised variance: MCSE² × work, less is better", drawn, f"{target}_work")
        )
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
    return table([header[i] for i in shown], [[line[i] for i in shown] for line in lines], left=2)


def _run_line(record, keys, context):
    summary = record.summary
    mean, error, ess, rhat = record.current
    gap = header.gap_of(record)
    return [
        f'<span class="key {context.css(record)}">{text(record.sampler)}</span>' if record.sampler else "",
        f'<span title="{text("; ".join(record.notes))}">{badge(record.word)}</span>',
        *(text(formats.setting(record.settings.get(key))) for key in keys),
        formats.estimate(mean, error),
        formats.interval(*summary.llc_interval95) if summary else formats.DASH,
        formats.number(summary.llc_raw if summary else None, ".5g"),
        formats.DASH if gap is None else f"{100 * gap:+.2f} %",
        formats.number(ess, ".0f"),
        formats.number(rhat, ".4f"),
        formats.number(summary.total_fges if summary else None, ".0f"),
        formats.duration(summary.walltime_sec if summary else None),
        *(formats.short(error**2 * work) if summary and error else formats.DASH for work in panels.spent(record)),
        context.link(record.directory, record.run_id or record.target_id),
    ]


# --- chains -----------------------------------------------------------------------------------------------------------


def _chains(records, draws, keys, context):
    """Trace and ranks of the most doubtful run of each sampler, and links to the figures of all."""
    parts = []
    for sampler in context.samplers:
        runs = [record for record in records if record.sampler == sampler]
        worst = next((record for record in runs if record.name in context.traced), None)
        if worst is None:
            continue
        which = "" if len(runs) == 1 else f", the most doubtful of {len(runs)}"
        name = panels.label(worst, keys)
        drawn = panels.trace(worst, draws[worst.name])
        note = "" if drawn else "No draw is finite."
        file = f"{worst.target_id}_{worst.run_id}"
        parts.append(context.figure(f"{name}{which}: trace", [drawn] if drawn else [], f"{file}_trace", note))
        drawn = [panels.ranks(draws[worst.name])]
        parts.append(context.figure(f"{name}: ranks by chain, flat where chains agree", drawn, f"{file}_ranks"))
    if not parts:
        return ""
    drawn = [record for record in records if (record.directory / "diagnostics").is_dir()]
    links = [context.link(record.directory / "diagnostics", panels.label(record, keys)) for record in drawn]
    note = f'<p class="note">Figures of every run: {" · ".join(links)}</p>' if links else ""
    return (
        f'<details open><summary>Traces and ranks</summary><div class="figures">{"".join(parts)}</div>{note}</details>'
    )


def _differing(record, context):
    return [(key, record.settings[key]) for key in context.differing if key in record.settings]


# --- behind the fold --------------------------------------------------------------------------------------------------


def _provenance(records, context):
    """All settings of a target's runs and where they come from; of many targets, just the settings that are not shared by all."""
    values: dict[str, dict[str, None]] = {}
    for record in records:
        for key, value in _differing(record, context) if context.is_large else record.settings.items():
            values.setdefault(key, {})[formats.setting(value)] = None
    lines = [(key, ", ".join(each)) for key, each in values.items()]
    lines += [] if context.is_large else _sources(records)
    return f"<details><summary>Configuration and provenance</summary>{definitions(lines)}</details>"


def _sources(records):
    """The code, packages and machines that made the results, and when."""
    sources: dict[str, dict[str, None]] = {}
    for record in records:
        provenance = record.summary.provenance if record.summary else None
        for key, value in vars(provenance).items() if provenance else ():
            if key != "log" and value is not None:
                shown = (
                    ", ".join(f"{name} {each}" for name, each in value.items())
                    if isinstance(value, dict)
                    else str(value)
                )
                sources.setdefault(key, {})[shown] = None
    lines = [(key, " | ".join(each)) for key, each in sources.items()]
    made = sorted(
        record.summary.created_at for record in records if record.summary and record.summary.created_at is not None
    )
    return lines + ([("made", f"{formats.time(made[0])} to {formats.time(made[-1])}")] if made else [])
