"""bin/report.py: a study as one HTML file that needs nothing else. What is bad comes first, then tables, then figures."""

import math
import os
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from lambda_hat import store
from lambda_hat.commands import status
from lambda_hat.inspect import choose, files, tell
from lambda_hat.inspect.row import STATES, duration, flat, show
from lambda_hat.report import draws as traces
from lambda_hat.report import panels
from lambda_hat.system.errors import StoreError

PAGE = Path(__file__).with_name("page.html")

ORDER = ("hmc", "sgld", "mclmc", "laplace")
"""Samplers in the order of their colours; others come after them."""

MOST_LISTED = 12
"""Complaints that are shown before the rest is folded away."""


def main(doc):
    """Entry point of bin/report.py."""
    parser = tell.parser(doc)
    tell.add_words(parser)
    status.add_sweep(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write it; <root>/report.html unless given")
    tell.run(_act, parser)


def _act(arguments):
    root, rows = status.gather(arguments.words, arguments.sweep)
    if not rows:
        raise StoreError(f"{root}: nothing there fits, so there is nothing to report.")
    path = Path(arguments.output or root / "report.html")
    text = page(rows, root, path)
    files.replace(path, lambda hidden: hidden.write_text(text, encoding="utf-8"))
    if arguments.json:
        tell.write_json({"report": path, "bytes": path.stat().st_size, "runs": len(rows)})
    else:
        tell.write(f"{path}: {status.counted(rows)}, {tell.size(path.stat().st_size)}")


def page(rows, root, path):
    """The whole page.

    Arguments:
        rows: what it is about.
        root: where they are from.
        path: where the page will be, which its links are relative to.
    """
    context = _Context(rows, path)
    targets = status.by_target(rows)
    sections = [
        _target(number, mine, context) for number, mine in enumerate(targets.values(), 1)
    ]  # finds what is damaged
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=escape(f"Study: {Path(root).resolve().name}"),
        counted=escape(status.counted(rows)),
        when=escape(store.now()),
        complaints=_complaints(context),
        overview=_overview(targets, context),
        legend=_legend(context.samplers),
        sections="\n".join(sections),
        shared=_definitions(line.split(maxsplit=1) for line in _joined(status.shared(rows, context.differing))),
    )


class _Context:
    """What all parts of a page need to know."""

    def __init__(self, rows, path):
        found = {row.sampler for row in rows if row.sampler}
        self.samplers = [name for name in ORDER if name in found] + sorted(found.difference(ORDER))
        self.differing = choose.varying(rows)
        self.folder = Path(os.path.abspath(path)).parent
        self.rows, self.damaged = rows, {}

    def css(self, row):
        """The class that gives a run's sampler its colour."""
        return f"s{self.samplers.index(row.sampler) % 8}"

    def link(self, directory, text):
        """A link to something in the store."""
        address = os.path.relpath(directory, self.folder).replace(os.sep, "/")
        return f'<a href="{escape(_quoted(address), True)}">{escape(text)}</a>'

    def draws(self, row):
        """The draws of a run; None where its trace is damaged, which is then complained of."""
        try:
            return traces.read(row)
        except StoreError as error:
            self.damaged[row.name] = str(error)
            return None


def _quoted(address):
    from urllib.parse import quote

    return quote(address)


def _joined(lines):
    """Wrapped lines put together again."""
    found = []
    for line in lines:
        if line.startswith(" "):
            found[-1] += " " + line.strip()
        else:
            found.append(line)
    return found


# --- what is bad, and the whole at a glance ---------------------------------------------------------------------------


def _complaints(context):
    """What is bad, missing or doubtful, the worst first."""
    ranks = ("damaged", "failed", "bad", "stale", "missing", "warn", "running", "queued")
    listed = [
        (ranks.index(row.word), _complaint(row, row.word, "; ".join(row.notes), context))
        for row in context.rows
        if row.word in ranks
    ]
    by_name = {row.name: row for row in context.rows}
    listed += [(0, _complaint(by_name[name], "damaged", said, context)) for name, said in context.damaged.items()]
    if not listed:
        return '<p class="fine">Nothing is bad, missing or doubtful.</p>'
    items = [item for _, item in sorted(listed, key=lambda pair: pair[0])]
    first, rest = items[:MOST_LISTED], items[MOST_LISTED:]
    folded = f"<details><summary>{len(rest)} more</summary><ul>{''.join(rest)}</ul></details>" if rest else ""
    return f"<ul>{''.join(first)}</ul>{folded}"


def _complaint(row, word, said, context):
    name = context.link(row.directory, row.short) if row.directory.is_dir() else escape(row.short)
    return f"<li>{_badge(word)} {name} {escape(said)}</li>"


def _badge(word):
    return f'<span class="badge {escape(word)}">{escape(word)}</span>'


def _overview(targets, context):
    """For each target a line with its name and what is known of it, and one for each sampler."""
    lines = []
    for number, mine in enumerate(targets.values(), 1):
        lines.append([f'<a href="#t{number}">{escape(_name(mine, context))}</a> {escape(_truth_words(mine))}'])
        for sampler in context.samplers:
            if runs := [row for row in mine if row.sampler == sampler]:
                lines.append(_sampler_line(sampler, runs, context))
    header = ["sampler", "runs", "λ̂, mean", "MCSE of one", "between runs"]
    return _table(header, lines, left=2) + '<p class="note">Means are over runs that are not bad.</p>'


def _sampler_line(sampler, rows, context):
    used = [row.result for row in rows if row.result and row.verdict != "bad" and row.result["llc_mean"] is not None]
    means, errors = [one["llc_mean"] for one in used], [one["llc_mcse"] for one in used]
    counts = ((word, sum(row.word == word for row in rows)) for word in _WORDS)
    return [
        f'<span class="key {context.css(rows[0])}">{escape(sampler)}</span>',
        " ".join(f"{_badge(word)}&thinsp;{count}" for word, count in counts if count),
        f"{np.mean(means):.5g}" if means else "–",
        f"{math.sqrt(np.mean(np.square(errors))):.2g}" if means and None not in errors else "–",
        f"{np.std(means, ddof=1):.2g}" if len(means) > 1 else "–",
    ]


_WORDS = ("ok", "warn", "bad", *STATES[1:])


def _truth_words(rows):
    """The exact posterior's λ̂ and λ, where they are known."""
    finite, truths = panels.known(rows)
    words = [f"exact λ̂ {' or '.join(f'{value:.5g}' for value in finite)}"] if finite else []
    words += [f"λ {' or '.join(f'{value:g}' for value in truths)}"] if truths else []
    return f"({', '.join(words)})" if words else ""


def _name(rows, context):
    """A target in a few words: the settings in which targets differ, or its id."""
    keys = choose.varying(context.rows, ("model", "data", "training", "seed"))
    settings = {key: value for row in rows for key, value in row.settings.items()}
    words = [
        show(settings[key]) if key in choose.KINDS.values() else f"{key.partition('.')[2] or key} {show(settings[key])}"
        for key in keys
        if key in settings and key not in ("training.kind", "data.kind")
    ]
    return ", ".join(words) or rows[0].target_id


def _legend(samplers):
    keys = [f'<span class="key s{i % 8}">{escape(name)}</span>' for i, name in enumerate(samplers)]
    keys += ['<span class="key exact">exact λ̂ at this n, β, γ</span>', '<span class="key truth">λ (n → ∞)</span>']
    return "".join(keys)


def _table(header, lines, left):
    """An HTML table; the first `left` columns are words, and a line of one cell is a heading within it."""
    side = lambda i: ' class="w"' if i < left else ""
    head = "".join(f"<th{side(i)}>{escape(name)}</th>" for i, name in enumerate(header))
    body = "".join(
        f'<tr><td class="w group" colspan="{len(header)}"><div>{line[0]}</div></td></tr>'
        if len(line) == 1
        else "<tr>" + "".join(f"<td{side(i)}>{cell}</td>" for i, cell in enumerate(line)) + "</tr>"
        for line in lines
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _definitions(pairs):
    return "<dl>" + "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in pairs) + "</dl>"


# --- a target ---------------------------------------------------------------------------------------------------------


def _target(number, rows, context):
    rows = sorted(rows, key=lambda row: context.samplers.index(row.sampler) if row.sampler else -1)
    done = [row for row in rows if row.result and row.result["llc_mean"] is not None]
    found = {row.name: context.draws(row) for row in done}
    drawn = [row for row in done if found[row.name] is not None]
    sampled = [row for row in drawn if row.result["llc_mcse"] is not None]
    own = [key for key in choose.varying(rows) if key != "sampler.name"]
    words = status.describe_target(rows, [key for key in context.differing if key not in own])
    figures = []
    if done:
        figures.append(_figure("λ̂ by sampler, with its 95 % interval", panels.forest(done, own, context)))
    if sampled:
        drawings = (panels.convergence(sampled, found, name, label, context) for name, label in _AXES)
        figures.append(_figure("Running λ̂ of every run, against gradients and against time", "".join(drawings)))
        figures.append(_figure("Work-normalised variance: MCSE² × work, less is better", panels.work(sampled, context)))
    directory = rows[0].directory if not rows[0].run_id else rows[0].directory.parent
    title = context.link(directory, rows[0].target_id) if directory.is_dir() else escape(rows[0].target_id)
    return "\n".join(
        [
            f'<section id="t{number}"><h2>{escape(_name(rows, context))}</h2><p class="note">{title} {escape(words)}</p>',
            _runs_table(rows, own, context),
            f'<div class="figures">{"".join(figures)}</div>',
            _chains(sampled, found, own, context),
            _provenance(rows),
            "</section>",
        ]
    )


_AXES = (
    ("gradients", "full-data gradients, all chains, warm-up included"),
    ("seconds", "seconds of adapting and drawing, compilation included"),
)


def _runs_table(rows, own, context):
    header = ["sampler", "status", *(key.partition(".")[2] or key for key in own), "λ̂ ± MCSE", "95 %", "off by"]
    header += ["ESS", "R-hat", "gradients", "time", "MCSE²·gradients", "MCSE²·s", "directory"]
    lines = []
    for row in rows:
        found = row.result or (row.work if row.state == "running" else {})
        mean, error = found.get("llc_mean", found.get("llc")), found.get("llc_mcse", found.get("mcse"))
        finite = (row.result.get("truth") or {}).get("finite")
        name = row.run_id or row.target_id
        lines.append(
            [
                f'<span class="key {context.css(row)}">{escape(row.sampler)}</span>' if row.sampler else "",
                f'<span title="{escape("; ".join(row.notes), True)}">{_badge(row.word)}</span>',
                *(escape(show(row.settings.get(key))) for key in own),
                tell.estimate(mean, error),
                tell.interval(*row.result["llc_interval95"]) if row.result else "–",
                f"{100 * (mean / finite - 1):+.2f} %" if finite and mean is not None else "–",
                tell.number(found.get("ess"), ".0f"),
                tell.number(found.get("rhat"), ".4f"),
                tell.number(row.result.get("total_fges"), ".0f"),
                duration(row.result.get("walltime_sec")),
                *(tell.short(error**2 * work) if row.result and error else "–" for work in panels.spent(row)),
                context.link(row.directory, name) if row.directory.is_dir() else escape(name),
            ]
        )
    shown = [i for i in range(len(header)) if any(line[i] != "–" for line in lines)]
    return _table([header[i] for i in shown], [[line[i] for i in shown] for line in lines], left=2)


def _figure(title, drawing):
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}</figure>"


# --- chains -----------------------------------------------------------------------------------------------------------


def _chains(rows, found, own, context):
    """Trace and ranks of the most doubtful run of each sampler, and links to the figures of all."""
    parts = []
    for sampler in context.samplers:
        mine = [row for row in rows if row.sampler == sampler]
        if not mine:
            continue
        row = max(mine, key=lambda row: (("ok", "warn", "bad").index(row.verdict), row.result["rhat"] or math.inf))
        which = "" if len(mine) == 1 else f", the most doubtful of {len(mine)}"
        parts.append(_figure(f"{panels.label(row, own)}{which}: trace", panels.trace(row, found[row.name])))
        parts.append(
            _figure(f"{panels.label(row, own)}: ranks by chain, flat where chains agree", panels.ranks(found[row.name]))
        )
    links = [
        context.link(row.directory / "diagnostics", f"{panels.label(row, own)}")
        for row in rows
        if (row.directory / "diagnostics").is_dir()
    ]
    if not parts:
        return ""
    all_of_them = f'<p class="note">Figures of every run: {" · ".join(links)}</p>' if links else ""
    return f'<details open><summary>Traces and ranks</summary><div class="figures">{"".join(parts)}</div>{all_of_them}</details>'


# --- behind the fold --------------------------------------------------------------------------------------------------


def _provenance(rows):
    settings = {}
    for row in rows:
        for key, value in row.settings.items():
            settings.setdefault(key, dict.fromkeys([])).setdefault(show(value))
    lines = [(key, ", ".join(values)) for key, values in settings.items()]
    sources = {}
    for row in rows:
        for key, value in flat({"": row.result.get("provenance") or {}}).items():
            if key != ".log":
                text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else show(value)
                sources.setdefault(key.lstrip("."), dict.fromkeys([])).setdefault(text)
    made = sorted(row.result["created_at"] for row in rows if row.result)
    lines += [(key, " | ".join(values)) for key, values in sources.items()]
    lines += [("made", f"{made[0]} to {made[-1]}")] if made else []
    return f"<details><summary>Configuration and provenance</summary>{_definitions(lines)}</details>"
