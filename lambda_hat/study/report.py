"""bin/report.py: a study as one HTML file that needs nothing else. What is bad comes first, then tables, then figures."""

import math
import os
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from lambda_hat import store
from lambda_hat.errors import StoreError
from lambda_hat.study import draws as traces
from lambda_hat.study import files, status, svg, tell
from lambda_hat.study import rows as looking
from lambda_hat.study.rows import duration, show

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
        self.differing = looking.varying(rows)
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


_WORDS = ("ok", "warn", "bad", *looking.STATES[1:])


def _truth_words(rows):
    """The exact posterior's λ̂ and λ, where they are known."""
    finite, truths = _known(rows)
    words = [f"exact λ̂ {' or '.join(f'{value:.5g}' for value in finite)}"] if finite else []
    words += [f"λ {' or '.join(f'{value:g}' for value in truths)}"] if truths else []
    return f"({', '.join(words)})" if words else ""


def _name(rows, context):
    """A target in a few words: the settings in which targets differ, or its id."""
    keys = looking.varying(context.rows, ("model", "data", "training", "seed"))
    settings = {key: value for row in rows for key, value in row.settings.items()}
    words = [
        show(settings[key])
        if key in looking.KINDS.values()
        else f"{key.partition('.')[2] or key} {show(settings[key])}"
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
    own = [key for key in looking.varying(rows) if key != "sampler.name"]
    words = status.describe_target(rows, [key for key in context.differing if key not in own])
    figures = []
    if done:
        figures.append(_figure("λ̂ by sampler, with its 95 % interval", _forest(done, own, context)))
    if sampled:
        drawings = (_convergence(sampled, found, name, label, context) for name, label in _AXES)
        figures.append(_figure("Running λ̂ of every run, against gradients and against time", "".join(drawings)))
        figures.append(_figure("Work-normalised variance: MCSE² × work, less is better", _work(sampled, context)))
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
                *(tell.short(error**2 * work) if row.result and error else "–" for work in _spent(row)),
                context.link(row.directory, name) if row.directory.is_dir() else escape(name),
            ]
        )
    shown = [i for i in range(len(header)) if any(line[i] != "–" for line in lines)]
    return _table([header[i] for i in shown], [[line[i] for i in shown] for line in lines], left=2)


def _spent(row):
    """Gradients, and seconds of adapting and drawing."""
    if not row.result:
        return math.nan, math.nan
    laps = row.result["timings_sec"]
    return row.result["total_fges"], laps.get("adapt", 0.0) + laps.get("sample", 0.0)


def _figure(title, drawing):
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}</figure>"


def _label(row, own):
    """A run's name in a figure: its sampler and what it varies in, seeds last and short."""
    words = [f"{key.rpartition('.')[2]} {show(row.settings.get(key))}" for key in own]
    return " ".join([row.sampler, *words])


def _said(row, own):
    found = row.result
    estimate = tell.estimate(found["llc_mean"], found["llc_mcse"])
    return f"{_label(row, own)}: {estimate} {tell.interval(*found['llc_interval95'])} {row.word}"


def _known(rows):
    """Values of the exact posterior's λ̂, and of λ, that figures show as lines."""
    known = [row.result["truth"] for row in rows if row.result.get("truth")]
    return sorted({one["finite"] for one in known} - {None})[:3], sorted({one["lambda"] for one in known})


def _range(values, margin=0.06):
    values = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(values), max(values)
    space = margin * ((high - low) or abs(high) or 1)
    return low - space, high + space


def _forest(rows, own, context):
    finite, truths = _known(rows)
    ends = [end for row in rows for end in row.result["llc_interval95"]]
    names = [(-i, _short(_label(row, own))) for i, row in enumerate(rows)]
    plot = svg.Plot(
        _range([*ends, *finite, *truths, *(row.result["llc_mean"] for row in rows)]),
        (0.6 - len(rows), 0.6),
        xlabel="λ̂",
        height=60 + 17 * len(rows),
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
            plot.interval(low, high, -i, css, _said(row, own))
        plot.point(row.result["llc_mean"], -i, css, _said(row, own))
    note = "" if all(row.verdict == "ok" for row in rows) else '<p class="note">Hollow: warn or bad.</p>'
    return plot.svg("; ".join(_said(row, own) for row in rows)) + note


def _short(text):
    return text if len(text) <= 24 else text[:23] + "…"


def _convergence(rows, found, name, label, context):
    finite, truths = _known(rows)
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
        plot.line(np.maximum(x, 1e-3), mean, context.css(row), _said(row, ()))
    return plot.svg(f"Running mean of λ̂ of {len(rows)} runs")


def _work(rows, context):
    """One dot for each run: gradients on the left, seconds on the right."""
    drawings = []
    for i, label in enumerate(("MCSE² × full-data gradients", "MCSE² × seconds")):
        values = [(row, row.result["llc_mcse"] ** 2 * _spent(row)[i]) for row in rows]
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
            plot.point(value, -names.index(row.sampler), context.css(row), f"{_said(row, ())}: {value:.3g}")
        drawings.append(plot.svg(label))
    return "".join(drawings)


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
        parts.append(_figure(f"{_label(row, own)}{which}: trace", _trace(row, found[row.name])))
        parts.append(_figure(f"{_label(row, own)}: ranks by chain, flat where chains agree", _ranks(found[row.name])))
    links = [
        context.link(row.directory / "diagnostics", f"{_label(row, own)}")
        for row in rows
        if (row.directory / "diagnostics").is_dir()
    ]
    if not parts:
        return ""
    all_of_them = f'<p class="note">Figures of every run: {" · ".join(links)}</p>' if links else ""
    return f'<details open><summary>Traces and ranks</summary><div class="figures">{"".join(parts)}</div>{all_of_them}</details>'


def _trace(row, draws):
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


def _ranks(draws):
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


# --- behind the fold --------------------------------------------------------------------------------------------------


def _provenance(rows):
    settings = {}
    for row in rows:
        for key, value in row.settings.items():
            settings.setdefault(key, dict.fromkeys([])).setdefault(show(value))
    lines = [(key, ", ".join(values)) for key, values in settings.items()]
    sources = {}
    for row in rows:
        for key, value in looking.flat({"": row.result.get("provenance") or {}}).items():
            if key != ".log":
                text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else show(value)
                sources.setdefault(key.lstrip("."), dict.fromkeys([])).setdefault(text)
    made = sorted(row.result["created_at"] for row in rows if row.result)
    lines += [(key, " | ".join(values)) for key, values in sources.items()]
    lines += [("made", f"{made[0]} to {made[-1]}")] if made else []
    return f"<details><summary>Configuration and provenance</summary>{_definitions(lines)}</details>"
