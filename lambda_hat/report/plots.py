"""Figures over swept settings, by matplotlib: λ̂ or any statistic over one setting, a heat map over two, and the calibration page.

`lambda_hat.plot` and bin/plot.py draw them; what is in them is decided in `lambda_hat.inspect.series`.
"""

import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_hat.inspect import formats, series
from lambda_hat.inspect.filters import select
from lambda_hat.inspect.scan import scan
from lambda_hat.inspect.series import Grid, Panel, Row, is_log, is_number, short_name, value_of
from lambda_hat.inspect.table import replace_file, writer
from lambda_hat.report import layout
from lambda_hat.report.layout import (
    CALIBRATED,
    SPREAD,
    Notes,
    Places,
    interval_columns,
    known_values,
    limits,
    tick,
    title_of,
)
from lambda_hat.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SAMPLERS = ("hmc", "sgld", "mclmc", "laplace", "amclmc", "nuts", "mala")
"""Samplers in the order of their colours, as in the report."""

COLOURS = ("#1f6fd1", "#c2600b", "#17803d", "#8b3fc4", "#b5306e", "#0b7f8a", "#7a6a00", "#5b6470")

INK = "#1c2128"
"""Of text and axes, which a page in which the figure is embedded replaces by its own."""

SCALE = 1.15
"""Pixels of a page for a point of a figure in it, whose smallest letters have 8 points."""

MOST_NAMED = 30
"""Most lines of a legend."""

ACROSS = 3
"""Most panels beside each other."""

MOST_PANELS = 24
MOST_CALIBRATIONS = 12
"""Beyond which a figure is no help: filters choose."""

VERDICT_COLOURS = {"ok": "#2e8540", "warn": "#d9a520", "bad": "#c4231c"}


@dataclass
class Drawing(layout.Shown):
    """A figure with what is in it.

    Attributes:
        figure: of matplotlib.
    """

    figure: "Figure"


def plot(
    results: "str | os.PathLike | pd.DataFrame" = "runs",
    x: str | None = None,
    y: str = series.VALUE,
    hue: str | None = None,
    col: str | None = None,
    heat: str | None = None,
    **filters: Any,
) -> "Figure":
    """Draw a statistic of all runs over a swept setting, each run with its 95 % interval; or as a heat map over two settings.

    Runs that estimate different things are different series: they are never averaged. Bad runs are crosses and are in no mean.

    Arguments:
        results: a root, or the DataFrame of `load_results` or part of it.
        x: the setting on the x axis, in full or in short: `posterior.gamma`, `n_data`.
        y: a column of the results.
        hue: the setting that has the colours; the sampler unless given.
        col: the setting that makes panels.
        heat: the setting on the y axis of a heat map, whose colours are `y`.
        filters: of a root's runs, as `load_results` takes them.

    Returns:
        a matplotlib figure.

    Raises:
        UserError: where there is nothing to draw.
        StoreError: for a setting that no run has.

    Example:
        lambda_hat.plot("runs", x="posterior.gamma", col="model.widths")
    """
    import matplotlib.pyplot  # noqa: F401  a notebook shows figures once this is there

    if isinstance(results, (str, os.PathLike)):
        chosen = [(key, value if isinstance(value, (list, tuple)) else [value]) for key, value in filters.items()]
        records = select(scan(results), [(key, [formats.setting(each) for each in values]) for key, values in chosen])
        rows = series.rows_of(records, [name for name in (x, hue, col, heat) if name])
    elif filters:
        raise UserError(f"filters such as {next(iter(filters))}= are for a root; choose rows of the DataFrame instead.")
    else:
        rows = [{str(key): _plain(value) for key, value in row.items()} for row in results.to_dict("records")]
    return draw(rows, x=x, y=y, hue=hue, col=col, heat=heat).figure


def _plain(value):
    """A cell of a DataFrame: None for a number that is not there."""
    return None if value is None or value != value else value.item() if hasattr(value, "item") else value


def draw(
    rows: Sequence[Row],
    x: str | None,
    y: str = series.VALUE,
    hue: str | None = None,
    col: str | None = None,
    heat: str | None = None,
) -> Drawing:
    """The figure that `plot` shows, from rows of the tidy table.

    Raises:
        UserError: where there is nothing to draw.
        StoreError: for a setting that no row has.
    """
    if not rows:
        raise UserError("there is no run to draw; make some, or choose others by filters.")
    if x is None:
        raise UserError(
            f"x= is missing, the setting on the x axis; these vary here: {', '.join(series.swept(rows)) or 'none'}."
        )
    if heat is not None and hue is not None:
        raise UserError("heat= and hue= do not go together: a heat map's colours are its values; use col= for panels.")
    x, y = series.column(x, rows), series.column(y, rows)
    hue, col, heat = (series.column(name, rows) if name else None for name in (hue, col, heat))
    series.ensure_numbers(rows, y)
    if heat is not None:
        return _heat_maps(rows, x, heat, y, col)
    return _lines(rows, x, y, hue, col)


# --- one setting ------------------------------------------------------------------------------------------------------


def _lines(rows, x, y, hue, col):
    panels = series.panels(series.drawn(rows, y), x, hue, col)
    if len(panels) > MOST_PANELS:
        raise UserError(f"col={col} makes {len(panels)} panels, more than {MOST_PANELS}; choose fewer by a filter.")
    if not any(panel.series for panel in panels):
        raise UserError(f"no run has a value of {x}; draw over another setting.")
    figure, axes = _figure_of(len(panels))
    place = Places([row[x] for panel in panels for row in panel.rows()])
    styles = _Styles(panels)
    ends, is_y_log = limits([row for panel in panels for row in panel.rows()], y)
    notes = Notes(rows, x)
    for panel, ax in zip(panels, axes, strict=True):
        _panel(ax, panel, x, y, place, styles, ends, notes)
        ax.set_title(panel.label(), fontsize=10)
        ax.set_xlabel(short_name(x))
        if (ticks := place.ticks()) is not None:
            turned = {"rotation": 30, "ha": "right"} if sum(len(text) for _, text in ticks) > 44 else {}
            ax.set_xticks([at for at, _ in ticks], [text for _, text in ticks], **turned)
        if is_y_log:
            ax.set_yscale("log")
        ax.set_ylim(ends)
    for ax in axes[:: min(ACROSS, len(panels))]:
        ax.set_ylabel(title_of(y))
    styles.legend(figure)
    figure.supxlabel("\n".join(notes.sentences(y)), fontsize=8, color=INK, x=0.01, ha="left")
    columns = [x, y, *interval_columns(y, rows), *([hue] if hue else []), *([col] if col else [])]
    columns += [name for panel in panels for each in panel.series for name in each.values]
    return Drawing([row for panel in panels for row in panel.rows()], columns, notes.sentences(y), figure)


def _figure_of(count, height=3.1, across=ACROSS):
    """A figure with this many axes, of which a panel is 4 inches wide."""
    from matplotlib.figure import Figure

    columns = min(across, count)
    lines = math.ceil(count / columns)
    wide, narrow = (4.0, 5.8)
    figure = Figure(figsize=(narrow + wide * (columns - 1) + 0.6, height * lines + 0.7), layout="constrained", dpi=120)
    axes = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[:count]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, lw=0.6)
    return figure, axes[:count]


class _Styles(layout.Styles):
    """How series look, for matplotlib.

    Arguments:
        panels: all of the figure.
    """

    MARKERS = ("o", "s", "^", "D", "v", "P", "*", "h")
    DASHES = ("-", "--", ":", "-.")

    def __init__(self, panels: Sequence[Panel]):
        super().__init__(panels)
        self.colours = dict(zip(self.firsts, _palette(self.names[:1], self.firsts), strict=True))

    def of(self, values: Mapping[str, Any]) -> tuple[str, str, str]:
        """Colour, marker and dashes of the series with these values."""
        colour, i = self.numbers(values)
        return self.colours[self.firsts[colour]], self.MARKERS[i % len(self.MARKERS)], self.DASHES[i % len(self.DASHES)]

    def legend(self, figure: "Figure") -> None:
        """What each colour and marker stands for, right of the axes."""
        from matplotlib.lines import Line2D

        handles = []
        if len(self.colours) > 1:
            for value, colour in self.colours.items():
                label = series.labelled({self.names[0]: value})
                handles.append(Line2D([], [], color=colour, marker="o", ms=4.5, lw=1.2, label=label))
        if len(self.rests) > 1:
            for i, label in enumerate(self.rests):
                marker, dashes = self.MARKERS[i % len(self.MARKERS)], self.DASHES[i % len(self.DASHES)]
                handles.append(Line2D([], [], color=INK, marker=marker, ls=dashes, ms=4.5, lw=1.2, label=label))
        if handles:
            figure.legend(handles=handles[:MOST_NAMED], loc="outside right upper", fontsize=8, frameon=False)


def _palette(names: Sequence[str], values: Sequence[Any]) -> list[str]:
    """A colour for each value: a sampler's own, along a scale for numbers and for many, and by turns otherwise."""
    import matplotlib

    if names == ["sampler"]:
        free = iter(COLOURS[len(SAMPLERS) :] * len(values))
        return [COLOURS[SAMPLERS.index(name)] if name in SAMPLERS else next(free) for name in values]
    if len(values) > 2 and all(is_number(value) for value in values):
        scale = matplotlib.colormaps["viridis"]
        return [_hex(scale(0.88 * i / (len(values) - 1))) for i in range(len(values))]
    if len(values) > len(COLOURS):
        scale = matplotlib.colormaps["turbo"]
        return [_hex(scale(0.05 + 0.9 * i / (len(values) - 1))) for i in range(len(values))]
    return list(COLOURS[: len(values)])


def _hex(colour):
    from matplotlib.colors import to_hex

    return to_hex(colour)


def _panel(ax, panel, x, y, place, styles, ends, notes):
    low_end, high_end = ends
    for i, each in enumerate(panel.series):
        colour, marker, dashes = styles.of(each.values)
        shift = SPREAD * (i / max(1, len(panel.series) - 1) - 0.5) if len(panel.series) > 1 else 0.0
        means = each.means(x, y)
        if len(means) > 1:
            ax.plot(
                [place(value, shift) for value, _, _ in means],
                [m for _, m, _ in means],
                color=colour,
                ls=dashes,
                lw=1.2,
                alpha=0.75,
            )
        marks: dict[tuple, list[tuple[float, float]]] = {}
        bars: dict[float, list[tuple[float, float, float]]] = {}
        for row in each.rows:
            value, at = value_of(row, y), place(row[x], shift)
            if value is None:
                notes.without += row.get("status") == "bad"
                continue
            low, high = series.interval_of(row, y)
            inside = min(max(value, low_end), high_end)
            is_bad = row.get("status") == "bad"
            if inside != value:
                notes.outside.append(f"{value:.4g} ({row.get('status')})")
            elif low is not None and high is not None:
                bars.setdefault(0.35 if is_bad else 0.8, []).append((at, max(low, low_end), min(high, high_end)))
            fill = "none" if row.get("status") == "warn" else colour
            shape, size = ("x", 6) if is_bad else (marker, 4.5)
            marks.setdefault((shape, size, fill), []).append((at, inside))
        for alpha, ends in bars.items():
            ax.vlines(*zip(*ends, strict=True), color=colour, lw=0.9, alpha=alpha)
        for (shape, size, fill), places in marks.items():
            ax.plot(*zip(*places, strict=True), shape, ms=size, mec=colour, mfc=fill, mew=1.1, clip_on=False, zorder=3)
    if y == series.VALUE:
        for exact, truth, value in sorted(
            {(*known_values(row, y), row[x]) for row in panel.rows()}, key=lambda known: str(known)
        ):
            if exact is not None:
                notes.exact = True
                ax.plot(place(value), exact, "_", ms=16, mew=1.4, color=INK, zorder=4)
            if truth is not None:
                notes.truth = True
                ax.plot(place(value), truth, ".", ms=4, color=INK, zorder=4)


# --- two settings -----------------------------------------------------------------------------------------------------


def _heat_maps(rows, x, heat, y, col):
    found = series.grids(series.drawn(rows, y), x, heat, col)
    if not found:
        raise UserError(f"no run has both {x} and {heat}; draw over other settings.")
    if len(found) > MOST_PANELS:
        raise UserError(f"that makes {len(found)} heat maps, more than {MOST_PANELS}; choose fewer by a filter.")
    figure, axes = _figure_of(len(found))
    for grid, ax in zip(found, axes, strict=True):
        values = {place: grid.mean(place, y) for place in grid.cells}
        _heat_map(figure, ax, grid, values, title_of(y))
        ax.set_title(grid.label(), fontsize=10)
    note = f"Each cell: mean of {title_of(y)} over its runs that are not bad; ✕: all are bad, or none has a value."
    figure.supxlabel(note, fontsize=8, color=INK, x=0.01, ha="left")
    drawn = [row for grid in found for runs in grid.cells.values() for row in runs]
    return Drawing(drawn, [x, heat, y, *interval_columns(y, drawn), *([col] if col else [])], [note], figure)


def _heat_map(
    figure, ax, grid: Grid, values: Mapping[tuple, float | None], title: str, centre: float | None = None
) -> None:
    """Coloured cells with their values; logarithmic colours where values span decades, or around a centre."""
    from matplotlib.colors import LogNorm, Normalize

    xs, ys = grid.axis(0), grid.axis(1)
    known = [value for value in values.values() if value is not None and math.isfinite(value)]
    norm: Any = Normalize(min(known, default=0), max(known, default=1))
    cmap = "viridis"
    if centre is not None:
        reach = max((abs(value - centre) for value in known), default=1.0) or 1.0
        norm, cmap = Normalize(centre - reach, centre + reach), "RdBu_r"
    elif known and min(known) > 0 and is_log(known):
        norm = LogNorm(min(known), max(known))
    image = [[_nan(values.get((x, y))) for x in xs] for y in ys]
    drawn = ax.imshow(image, norm=norm, cmap=cmap, origin="lower", aspect="auto")
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            value = values.get((x, y))
            if value is None:
                if (x, y) in grid.cells:
                    ax.text(j, i, "✕", ha="center", va="center", color=VERDICT_COLOURS["bad"])
                continue
            red, green, blue, _ = drawn.cmap(norm(value))
            light = 0.3 * red + 0.59 * green + 0.11 * blue > 0.5
            ax.text(j, i, _short(value), ha="center", va="center", fontsize=8, color="#111111" if light else "white")
    _grid_axes(ax, grid)
    figure.colorbar(drawn, ax=ax, label=title, shrink=0.9)


def _short(value):
    return f"{float(f'{value:.3g}'):g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.0e}"


def _nan(value):
    return math.nan if value is None else value


def _grid_axes(ax, grid):
    xs, ys = grid.axis(0), grid.axis(1)
    ax.set_xticks(range(len(xs)), [tick(value) if is_number(value) else formats.cell(value) for value in xs])
    ax.set_yticks(range(len(ys)), [tick(value) if is_number(value) else formats.cell(value) for value in ys])
    ax.set_xlabel(short_name(grid.x))
    ax.set_ylabel(short_name(grid.y))
    ax.grid(False)


# --- calibration ------------------------------------------------------------------------------------------------------


def calibration(rows: Sequence[Row]) -> Drawing:
    """λ̂ over γ × nβ, with |w−w0|/|w0|, the Stein identity's residual and the status on the same grid, and each plateau.

    A line of the figure for each network and sampler, seeds averaged.

    Raises:
        UserError: where no runs differ in γ or nβ, or there are too many networks.
    """
    found = series.grids(series.drawn(rows, series.VALUE), "gamma", "nbeta")
    found = [grid for grid in found if len(grid.cells) > 1]
    if not found:
        raise UserError(
            "no two runs of a network and sampler differ in γ or nβ; sweep them: posterior.gamma=1,10,100 posterior.nbeta=10,100."
        )
    if len(found) > MOST_CALIBRATIONS:
        raise UserError(
            f"there are {len(found)} networks and samplers to calibrate, more than {MOST_CALIBRATIONS}; choose by a filter, "
            "such as sampler=hmc or model.widths=[4]."
        )
    columns = [*CALIBRATED, "status"]
    figure, axes = _figure_of(len(found) * len(columns), 2.9, len(columns))
    sentences = []
    for i, grid in enumerate(found):
        line = axes[i * len(columns) : (i + 1) * len(columns)]
        for name, ax in zip(CALIBRATED, line, strict=False):
            values = {place: grid.mean(place, name) for place in grid.cells}
            _heat_map(figure, ax, grid, values, CALIBRATED[name], 0.0 if name == "stein_residual" else None)
        _statuses(line[-1], grid)
        said = series.sentence(grid)
        sentences.append(f"{grid.label()}: {said}" if grid.label() else said)
        line[0].set_title(sentences[-1], fontsize=9, loc="left")
    drawn = [row for grid in found for runs in grid.cells.values() for row in runs]
    names = [name for grid in found for name in grid.values]
    return Drawing(drawn, ["gamma", "nbeta", *names, "llc_mean", "llc_mcse", *list(CALIBRATED)[1:]], sentences, figure)


def _statuses(ax, grid):
    """The worst status in each cell, with how many of its runs are ok."""
    xs, ys = grid.axis(0), grid.axis(1)
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            words = [str(row.get("status")) for row in grid.cells.get((x, y), [])]
            worst = next((word for word in ("bad", "warn", "ok") if word in words), None)
            if worst is None:
                continue
            ax.add_patch(_rectangle(j - 0.5, i - 0.5, VERDICT_COLOURS[worst]))
            text = worst if len(words) == 1 else f"{words.count('ok')}/{len(words)} ok"
            ax.text(j, i, text, ha="center", va="center", fontsize=8, color="white")
    ax.set(xlim=(-0.5, len(xs) - 0.5), ylim=(-0.5, len(ys) - 0.5))
    _grid_axes(ax, grid)
    ax.set_title("status", fontsize=9)


def _rectangle(x, y, colour):
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white", lw=1)


# --- files ------------------------------------------------------------------------------------------------------------

SUFFIXES = (".svg", ".png", ".pdf")
"""Of the files that a figure is saved to."""


def image(figure: "Figure", suffix: str) -> bytes:
    """A figure's file; the same figure is the same bytes."""
    file = io.BytesIO()
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "lambda_hat", "svg.fonttype": "none"}):
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix, {})
        figure.savefig(file, format=suffix[1:], metadata=metadata, dpi=150)
    return file.getvalue()


def save(drawing: Drawing, files: Sequence[Path]) -> list[Path]:
    """Write a figure to these files and its data as CSV beside the first; returns all of them."""
    for path in files:
        content = image(drawing.figure, path.suffix)
        replace_file(path, lambda hidden, content=content: hidden.write_bytes(content))
    data = files[0].with_suffix(".csv")
    replace_file(data, lambda path: writer(str(data))(path, *drawing.table()))
    return [*files, data]


def embedded(figure: "Figure", prefix: str = "") -> str:
    """A figure as SVG text within a page: without a background, its ink in the page's colours; the figure is spent.

    Arguments:
        figure: of matplotlib.
        prefix: of the ids in it, which a page's figures must not share.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    for patch in (figure.patch, *(ax.patch for ax in figure.axes)):
        patch.set_alpha(0)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")  # savefig would draw all of it twice
    with matplotlib.rc_context({"svg.hashsalt": "lambda_hat", "svg.fonttype": "none"}):
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    text = re.sub(r"#000000|#1c2128", "currentColor", text[text.index("<svg") :])
    for i, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--s{i}, {colour})")
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)  # a style would be the whole page's
    used = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", text)
    wide, high = (72 * side for side in figure.get_size_inches())
    lines = "stroke-linejoin: round; stroke-linecap: butt"
    start = f'<svg viewBox="0 0 {wide:g} {high:g}" style="width: {SCALE * wide:.0f}px; {lines}" role="img"'
    return re.sub(r"<svg [^>]*", start, text, count=1)


def file_name(options: Mapping[str, str]) -> str:
    """The name of a figure's file, without its suffix, from what it shows: `llc_mean_gamma_sampler`."""
    parts = [options.get("y", series.VALUE), *(options[key] for key in ("x", "heat", "hue", "col") if key in options)]
    return "_".join(re.sub(r"[^\w.-]+", "", part.removeprefix("posterior.")) for part in parts)
