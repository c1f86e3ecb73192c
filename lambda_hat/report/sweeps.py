"""The report's figures over swept settings: those that are asked for, or else those that a study of moderate size has room for."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from lambda_hat.inspect import series
from lambda_hat.inspect.records import Record
from lambda_hat.report import plots
from lambda_hat.report.markup import data_link
from lambda_hat.system.notebook import text

OPTIONS = ("x", "y", "hue", "col", "heat")
"""Words of a command line that say what is drawn."""

MOST_RUNS, MOST_SERIES, MOST_PANELS, MOST_FIGURES, MOST_GRIDS, MOST_SENTENCES = 500, 12, 6, 3, 1, 12
"""Of what is drawn without being asked for: a figure with more is no help, or takes long."""


class Figure(NamedTuple):
    """A figure of the report.

    Attributes:
        title: of its section.
        name: of its files, without a suffix.
        drawing: the figure, its data and what it shows.
    """

    title: str
    name: str
    drawing: plots.Drawing


def figures(records: Sequence[Record], options: Mapping[str, str]) -> Iterator[Figure]:
    """The figure that `options` ask for, or one for each swept setting and the calibration page.

    Raises:
        UserError: where what is asked for cannot be drawn.
        StoreError: for a setting that no run has.
    """
    rows = series.rows_of(records, [value for name, value in options.items() if name != "y"])
    if options:
        drawing = plots.draw(rows, **{"x": None, **options})
        over = " and ".join(
            series.short_name(series.column(options[name], rows)) for name in ("x", "heat") if name in options
        )
        yield Figure(f"{options.get('y', 'λ̂')} over {over}", plots.file_name(options), drawing)
        return
    rows = series.drawn(rows, series.VALUE)
    if not rows or len(rows) > MOST_RUNS:
        return
    swept = without_repeats(rows, [name for name in series.swept(rows) if name not in ("sampler", "model")])
    for name in swept[:MOST_FIGURES]:
        if (panels := _panels_of(rows, name, swept)) is not None:
            chosen = {"x": name, **panels}
            yield Figure(f"λ̂ over {series.short_name(name)}", plots.file_name(chosen), plots.draw(rows, **chosen))
    grids = [grid for grid in series.grids(rows, "gamma", "nbeta") if min(len(grid.axis(0)), len(grid.axis(1))) > 1]
    if 0 < len(grids) <= MOST_SENTENCES:
        drawing = plots.calibration(
            [row for grid in grids[:MOST_GRIDS] for runs in grid.cells.values() for row in runs]
        )
        drawing.sentences = [f"{grid.label()}: {series.sentence(grid)}".removeprefix(": ") for grid in grids]
        if len(grids) > MOST_GRIDS:
            drawing.sentences.append("Drawn is the first; plot.py --calibration draws all.")
        yield Figure("λ̂ over γ and nβ", "calibration", drawing)


def without_repeats(rows, names):
    """The settings but those that change together with one before them, whose figures would be the same."""
    kept = {}
    for name in names:
        values = [repr(row.get(name)) for row in rows]
        kept.setdefault(tuple(values.index(value) for value in values), name)
    return list(kept.values())


def _panels_of(rows, x, swept):
    """How panels over x each have few series: by no setting where a single panel has, by one, or None where none helps."""
    for col in ({}, *({"col": name} for name in swept if name != x)):
        panels = series.panels(rows, x, **col)
        if len(panels) <= MOST_PANELS and max(len(panel.series) for panel in panels) <= MOST_SERIES:
            return col
    return None


def section(number: int, figure: Figure) -> str:
    """The figure as a section of the page, with a link to its data; it cannot be drawn again after that."""
    title, name, drawing = figure
    link = data_link(name, *drawing.table())
    notes = "<br>".join(text(sentence) for sentence in drawing.sentences)
    drawing.figure.supxlabel("")  # the note is below as text
    shown = f'<div class="wide drawn">{plots.embedded(drawing.figure, f"f{number}")}</div>'
    return f'<section><h2>{text(title)}</h2>{shown}<p class="note">{notes}<br>{link}</p></section>'
