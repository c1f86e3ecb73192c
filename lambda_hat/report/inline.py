"""Figures over swept settings as the report's own SVG, in milliseconds: those that a page has without being asked.

What they show and where it lies is decided in `series` and `layout`, as for those that matplotlib draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lambda_hat.inspect import formats, series
from lambda_hat.inspect.series import Grid, Row, is_log, is_number, short_name, value_of
from lambda_hat.report import svg
from lambda_hat.report.layout import (
    CALIBRATED,
    SPREAD,
    Notes,
    Places,
    Shown,
    Styles,
    interval_columns,
    known_values,
    limits,
    tick,
    title_of,
)
from lambda_hat.report.markup import text

GLYPHS = {"dot": "●", "square": "■", "up": "▲", "diamond": "◆", "down": "▼", "right": "▶", "left": "◀", "bar": "▮"}
"""Marks of series that share a colour, as letters of a legend."""

COLOURS, STEPS = 8, 12
"""How many colours samplers have by turns (classes s0 …), and how many lie along the scale of numbers (k0 …)."""

SCALE = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725")
AROUND = ("#2166ac", "#67a9cf", "#d1e5f0", "#f7f7f7", "#fddbc7", "#ef8a62", "#b2182b")
"""Colours of cells: viridis, and one around a centre."""

STATUSES = {"ok": "#2e8540", "warn": "#9a6a00", "bad": "#c4231c"}


@dataclass
class Drawn(Shown):
    """A figure with what is in it.

    Attributes:
        parts: its panels, each with a title, in parts that belong together; each part has a title too, empty for one alone.
        legend: HTML.
    """

    parts: list[tuple[str, list[tuple[str, svg.Plot]]]]
    legend: str


# --- one setting ------------------------------------------------------------------------------------------------------


def lines(rows: Sequence[Row], x: str, samplers: Sequence[str], y: str = series.VALUE, col: str | None = None) -> Drawn:
    """A statistic of all runs over one setting, each with its 95 % interval.

    Arguments:
        rows: of the tidy table.
        x, y, col: columns: of the x axis, of the values and of panels.
        samplers: of the page, in the order of their colours.
    """
    panels = series.panels(series.drawn(rows, y), x, None, col)
    shown = [row for panel in panels for row in panel.rows()]
    place, styles, (ends, is_y_log) = Places([row[x] for row in shown]), Styles(panels), limits(shown, y)
    notes = Notes(rows, x)
    colours = _colours(styles, samplers)
    margin = 0.5 * place.gap
    span = (place(place.values[0]) - margin, place(place.values[-1]) + margin)
    made = []
    for panel in panels:
        plot = svg.Plot(
            span,
            ends,
            xlabel=short_name(x),
            ylabel=title_of(y),
            xnames=place.ticks(),
            ylog=is_y_log,
            label=f"{title_of(y)} of {len(panel.rows())} runs over {short_name(x)}",
        )
        _known(plot, panel.rows(), x, y, place, margin, notes)
        for i, each in enumerate(panel.series):
            colour, shape = styles.numbers(each.values)
            shift = SPREAD * (i / max(1, len(panel.series) - 1) - 0.5) if len(panel.series) > 1 else 0.0
            where = lambda value, shift=shift: place(value, shift)
            _series(plot, each, x, y, where, (colours[colour], list(GLYPHS)[shape % len(GLYPHS)]), ends, notes)
        made.append((panel.label(), plot))
    columns = [x, y, *interval_columns(y, rows), *([col] if col else [])]
    columns += [name for panel in panels for each in panel.series for name in each.values]
    return Drawn(shown, columns, notes.sentences(y), [("", made)], _legend(styles, colours))


def _series(plot, each, x, y, where, look, ends, notes):
    css, shape = look
    means = each.means(x, y)
    if len(means) > 1:
        plot.line([where(value) for value, _, _ in means], [mean for _, mean, _ in means], f"thin {css}")
    marks: dict[str, list[tuple[float, float]]] = {}
    bars: list[tuple[float, float, float]] = []
    for row in each.rows:
        value, status = value_of(row, y), str(row.get("status"))
        if value is None:
            notes.without += status == "bad"
            continue
        low, high = series.interval_of(row, y)
        inside = min(max(value, ends[0]), ends[1])
        if inside != value:
            notes.outside.append(f"{value:.4g} ({status})")
        elif low is not None and high is not None:
            bars.append((where(row[x]), max(low, ends[0]), min(high, ends[1])))
        marks.setdefault(status, []).append((where(row[x]), inside))
    if bars:
        plot.errors(bars, css)
    for status, places in marks.items():
        plot.points(places, "cross" if status == "bad" else shape, f"{css} {status}")


def _known(plot, rows, x, y, place, margin, notes):
    """Exact values, once at each value of x."""
    for exact, truth, value in {(*known_values(row, y), row[x]): None for row in rows}:
        middle = place(value)
        if exact is not None:
            notes.exact = True
            plot.interval(middle - 0.6 * margin, middle + 0.6 * margin, exact, "ink")
        if truth is not None:
            notes.truth = True
            plot.points([(middle, truth)], "small", "ink")


def _colours(styles, samplers):
    """A class for each colour: a sampler's own, along a scale for numbers and for many, and by turns otherwise."""
    values = styles.firsts
    if styles.names[:1] == ["sampler"]:
        return [f"s{samplers.index(name) % COLOURS}" if name in samplers else "s7" for name in values]
    if len(values) > COLOURS or (len(values) > 2 and all(is_number(value) for value in values)):
        return [f"k{round((STEPS - 1) * i / (len(values) - 1))}" for i in range(len(values))]
    return [f"s{i}" for i in range(len(values))]


def _legend(styles, colours):
    keys = []
    if len(styles.firsts) > 1:
        for value, css in zip(styles.firsts, colours, strict=True):
            keys.append(f'<span class="key {css}">{text(series.labelled({styles.names[0]: value}))}</span>')
    if len(styles.rests) > 1:
        glyphs = list(GLYPHS.values())
        keys += [f"<span>{glyphs[i % len(glyphs)]} {text(label)}</span>" for i, label in enumerate(styles.rests)]
    return f'<div class="keys">{"".join(keys)}</div>' if keys else ""


# --- γ and nβ ---------------------------------------------------------------------------------------------------------


def calibration(grids: Sequence[Grid]) -> Drawn:
    """λ̂ over γ × nβ of each grid, with |w−w0|/|w0|, the Stein identity's residual and the status; and each plateau."""
    parts, sentences = [], []
    for grid in grids:
        said = series.sentence(grid)
        sentences.append(f"{grid.label()}: {said}" if grid.label() else said)
        made = []
        for name, title in CALIBRATED.items():
            values = {place: grid.mean(place, name) for place in grid.cells}
            if any(value is not None for value in values.values()):
                made.append((title, _heat_map(grid, values, title, name == "stein_residual")))
        parts.append((sentences[-1], [*made, ("status", _statuses(grid))]))
    rows = [row for grid in grids for runs in grid.cells.values() for row in runs]
    names = [name for grid in grids for name in grid.values]
    columns = ["gamma", "nbeta", *names, "llc_mean", "llc_mcse", *list(CALIBRATED)[1:]]
    return Drawn(rows, columns, sentences, parts, "")


def _plot(grid, label):
    """An empty grid, and the values along both of its axes."""
    xs, ys = grid.axis(0), grid.axis(1)
    names = [[(i + 0.5, tick(v) if is_number(v) else formats.cell(v)) for i, v in enumerate(each)] for each in (xs, ys)]
    plot = svg.Plot(
        (0, len(xs)),
        (0, len(ys)),
        xlabel=short_name(grid.x),
        ylabel=short_name(grid.y),
        height=50 + 24 * max(3, len(ys)),
        left=24 + svg.LETTER * max(len(name) for _, name in names[1]),
        xnames=names[0],
        names=names[1],
        label=label,
    )
    return plot, xs, ys


def _heat_map(grid, values, title, is_centred):
    """Cells in colours, logarithmic where values span decades, or around 0; a cross where all runs are bad."""
    plot, xs, ys = _plot(grid, f"{title} over {short_name(grid.x)} and {short_name(grid.y)}")
    known = [value for value in values.values() if value is not None and math.isfinite(value)]
    is_scale_log = not is_centred and min(known, default=0) > 0 and is_log(known)
    scaled = math.log if is_scale_log else float
    low, high = scaled(min(known, default=0)), scaled(max(known, default=1))
    if is_centred:
        high = max(map(abs, known), default=1.0)
        low = -high
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            value = values.get((x, y))
            if value is not None and math.isfinite(value):
                share = (scaled(value) - low) / ((high - low) or 1.0)
                fill, css = _colour(share, AROUND if is_centred else SCALE)
                plot.cell(j, j + 1, i, i + 1, fill, _short(value), css)
            elif (x, y) in grid.cells:
                plot.points([(j + 0.5, i + 0.5)], "cross", "wrong")
    return plot


def _short(value):
    return f"{float(f'{value:.3g}'):g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.0e}"


def _colour(share, scale):
    """The colour at a share of a scale, and the class of a text that can be read on it."""
    at = min(max(share, 0.0), 1.0) * (len(scale) - 1)
    i = min(int(at), len(scale) - 2)
    first, second = ([int(colour[k : k + 2], 16) for k in (1, 3, 5)] for colour in scale[i : i + 2])
    rgb = [round(a + (at - i) * (b - a)) for a, b in zip(first, second, strict=True)]
    light = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2] > 128
    return "#{:02x}{:02x}{:02x}".format(*rgb), "onlight" if light else "ondark"


def _statuses(grid):
    """The worst status in each cell, with how many of its runs are ok."""
    plot, xs, ys = _plot(grid, f"status over {short_name(grid.x)} and {short_name(grid.y)}")
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            words = [str(row.get("status")) for row in grid.cells.get((x, y), [])]
            worst = next((word for word in ("bad", "warn", "ok") if word in words), None)
            if worst is not None:
                said = worst if len(words) == 1 else f"{words.count('ok')}/{len(words)} ok"
                plot.cell(j, j + 1, i, i + 1, STATUSES[worst], said, "ondark")
    return plot
