"""The report's figures over swept settings: the one that is asked for, or else one for each setting and the calibration page."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from lambda_hat.inspect import series
from lambda_hat.inspect.records import Record
from lambda_hat.report import inline, plots
from lambda_hat.report.markup import data_link
from lambda_hat.system.notebook import text

OPTIONS = ("x", "y", "hue", "col", "heat")
"""Words of a command line that say what is drawn."""

MOST_SERIES, MOST_PANELS, MOST_FIGURES, MOST_GRIDS = 12, 6, 3, 12
"""Of what is drawn without being asked for: a figure with more is no help."""

MOST_OPEN = 2
"""Parts of a figure that are not folded away."""

MOST_LINKED = 500
"""Runs of a figure whose data a page holds beside it; of more, the table of all runs alone."""


class Figure(NamedTuple):
    """A figure of the report.

    Attributes:
        title: of its section.
        name: of its files, without a suffix.
        shown: its data and what it shows, with what the page shows of it.
        drawing: makes the figure that files hold.
    """

    title: str
    name: str
    shown: inline.Drawn | plots.Drawing
    drawing: Callable[[], plots.Drawing]


def figures(records: Sequence[Record], options: Mapping[str, str], samplers: Sequence[str]) -> Iterator[Figure]:
    """The figure that `options` ask for, or one for each swept setting and the calibration page.

    Arguments:
        records: of the report.
        options: words of the command line.
        samplers: in the order of their colours.

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
        yield Figure(f"{options.get('y', 'λ̂')} over {over}", plots.file_name(options), drawing, lambda: drawing)
        return
    rows = series.drawn(rows, series.VALUE)
    if not rows:
        return
    swept = without_repeats(rows, [name for name in series.swept(rows) if name not in ("sampler", "model")])
    for name in swept[:MOST_FIGURES]:
        if (panels := _panels_of(rows, name, swept)) is not None:
            chosen = {"x": name, **panels}
            yield Figure(
                f"λ̂ over {series.short_name(name)}",
                plots.file_name(chosen),
                inline.lines(rows, name, samplers, **panels),
                lambda chosen=chosen: plots.draw(rows, **chosen),
            )
    grids = [grid for grid in series.grids(rows, "gamma", "nbeta") if min(len(grid.axis(0)), len(grid.axis(1))) > 1]
    if grids:
        shown = inline.calibration(grids[:MOST_GRIDS])
        if len(grids) > MOST_GRIDS:
            shown.sentences.append(
                f"Drawn are {MOST_GRIDS} of {len(grids)}; plot.py --calibration and filters draw others."
            )
        yield Figure("λ̂ over γ and nβ", "calibration", shown, lambda: plots.calibration(shown.rows))


def without_repeats(rows, names):
    """The settings but those that change together with one before them, whose figures would be the same."""
    kept = {}
    for name in names:
        first: dict[str, int] = {}
        kept.setdefault(tuple(first.setdefault(repr(row.get(name)), len(first)) for row in rows), name)
    return list(kept.values())


def _panels_of(rows, x, swept):
    """How panels over x each have few series: by no setting where a single panel has, by one, or None where none helps."""
    if not any(row.get(x) is not None for row in rows):
        return None
    for col in ({}, *({"col": name} for name in swept if name != x)):
        panels = series.panels(rows, x, **col)
        if len(panels) <= MOST_PANELS and max(len(panel.series) for panel in panels) <= MOST_SERIES:
            return col
    return None


def _part(number, title, plots):
    """Panels that belong together; where there are several such parts, those after the second are folded away."""
    figures = "".join(
        f"<figure>{f'<figcaption>{text(caption)}</figcaption>' if caption else ''}{plot.svg()}</figure>"
        for caption, plot in plots
    )
    if not title:
        return f'<div class="figures">{figures}</div>'
    is_open = " open" * (number < MOST_OPEN)
    return f'<details{is_open}><summary>{text(title)}</summary><div class="figures">{figures}</div></details>'


def section(number: int, figure: Figure) -> str:
    """The figure as a section of the page, with a link to its data; what matplotlib drew cannot be drawn again after that."""
    title, name, shown, _ = figure
    few = len(shown.rows) <= MOST_LINKED
    link = data_link(name, *shown.table()) if few else 'Its data are in <a href="#runs">the table of all runs</a>.'
    notes = shown.sentences
    if isinstance(shown, inline.Drawn):
        notes = notes[sum(bool(part) for part, _ in shown.parts) :]  # the others are the parts' titles
        drawn = shown.legend + "".join(_part(i, *part) for i, part in enumerate(shown.parts))
    else:
        shown.figure.supxlabel("")  # the note is below as text
        drawn = f'<div class="wide drawn">{plots.embedded(shown.figure, f"f{number}")}</div>'
    note = "<br>".join([*map(text, notes), link])
    return f'<section><h2>{text(title)}</h2>{drawn}<p class="note">{note}</p></section>'
