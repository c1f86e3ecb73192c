"""Runs as a figure shows them: panels of series of points over a swept setting, grids over two, and plateaus of λ̂.

What λ̂ estimates is never mixed: the runs of a series differ only in the setting on the axis, in seeds and in how they were sampled.
"""

import difflib
import itertools
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from lambda_hat.inspect import table
from lambda_hat.inspect.filters import ALIASES, resolve, setting_names
from lambda_hat.inspect.formats import cell, setting
from lambda_hat.inspect.groups import ESTIMAND_COLUMNS, RESOLVED
from lambda_hat.inspect.records import Record
from lambda_hat.system.errors import StoreError, UserError

Row = Mapping[str, Any]
"""A run of the tidy table: column → value."""

VALUE = "llc_mean"
"""What is drawn unless something else is asked for."""

RESOLVED_COLUMNS = {"posterior.beta": "beta", "posterior.nbeta": "nbeta", "posterior.gamma": "gamma"}
"""The column that has a setting as it came out, whether or not it was given."""

ERRORS = {
    "stein_llc": "stein_mcse",
    "stein_mean": "stein_identity_mcse",
    "llc_variance_estimator": "llc_variance_mcse",
}
"""The column of the standard error, where it is not the value's name with `_mcse`."""

NORMAL = 1.96
"""Standard errors in half of a 95 % interval."""

TARGET_GROUPS = ("model.", "data.", "training.", "posterior.")
"""Settings of these groups are part of what λ̂ estimates."""

LOG_RATIO = 20
"""Positive values that span more than this factor are drawn on a logarithmic axis."""


# --- rows -------------------------------------------------------------------------------------------------------------


def rows_of(records: Sequence[Record], keys: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The tidy table's rows, with a column for each of the settings `keys` even where they do not vary."""
    runs = [record for record in records if record.run_id]
    header, lines = table.tidy(runs)
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    known = setting_names(runs)
    for key in keys:
        if key in header or key in RESOLVED_COLUMNS or not runs:
            continue
        try:
            full = resolve(key, known)
        except StoreError:  # `column` says what is wrong, and knows statistics too
            continue
        for row, run in zip(rows, runs, strict=True):
            value = run.values(full)[0]
            row.setdefault(full, setting(value) if isinstance(value, (list, tuple)) else value)
    return rows


def column(key: str, rows: Sequence[Row]) -> str:
    """The column that a setting, in full or in short, or a statistic has in these rows.

    Raises:
        StoreError: where there is none, or there are several.
    """
    known = dict.fromkeys(name for row in rows for name in row)
    key = RESOLVED_COLUMNS.get(key, key)
    for name in (key, ALIASES.get(key, key)):
        if name in known:
            return name
    matches = [name for name in known if name.rpartition(".")[2] == key]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise StoreError(f"{key} may mean {' or '.join(sorted(matches))}: write one of them in full.")
    close = difflib.get_close_matches(key, [*known, *(name.rpartition(".")[2] for name in known)], 1)
    hint = f"did you mean {close[0]}?" if close else f"these settings vary: {', '.join(swept(rows)) or 'none'}."
    raise StoreError(f"{key}: these runs have no such setting or column; {hint}")


def swept(rows: Sequence[Row]) -> list[str]:
    """Columns of settings that differ between these rows, the target's id and seeds left out."""
    names = ("model", "n_data", "sampler", "nbeta", "gamma")
    keys = [name for row in rows[:1] for name in row if name in names or "." in name]
    keys = [key for key in keys if key not in RESOLVED_COLUMNS and not key.endswith("seed")]
    return [key for key in keys if len({cell(row.get(key)) for row in rows}) > 1]


def _telling(rows: Sequence[Row]) -> list[str]:
    """Columns in which what λ̂ estimates may differ."""
    names = [*ESTIMAND_COLUMNS, "model", *(key for row in rows[:1] for key in row if key.startswith(TARGET_GROUPS))]
    return [name for name in names if name not in RESOLVED]


def is_log(values: Iterable[float | None]) -> bool:
    """Whether an axis of these values is logarithmic; zero has a place of its own at its left end."""
    known = [value for value in values if value is not None]
    positive = [value for value in known if value > 0]
    return len(positive) > 1 and min(known) >= 0 and max(positive) >= LOG_RATIO * min(positive)


def is_geometric(values: Sequence[float]) -> bool:
    """Whether values, in order, are spaced more evenly by their ratios than by their differences: 10, 38, 150."""
    if len(values) < 3 or values[0] <= 0:
        return False
    differences = [b - a for a, b in itertools.pairwise(values)]
    ratios = [math.log(b / a) for a, b in itertools.pairwise(values)]
    return max(ratios) / min(ratios) < max(differences) / min(differences)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value has a place on an axis of numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def in_order(values: Iterable[Any]) -> list[Any]:
    """Distinct values: numbers by size, texts by the numbers in them."""
    return sorted(dict.fromkeys(values), key=_rank)


def _rank(value):
    if is_number(value):
        return 1, value, ()
    parts = re.split(r"(\d+(?:\.\d+)?)", "" if value is None else str(value))
    return (0, 0, ()) if value is None else (2, 0, [(i % 2, float(p) if i % 2 else 0, p) for i, p in enumerate(parts)])


def value_of(row: Row, name: str) -> float | None:
    """A number of a row; None where there is none."""
    value = row.get(name)
    return float(value) if is_number(value) else None


def interval_of(row: Row, name: str) -> tuple[float | None, float | None]:
    """The 95 % interval of a value: of λ̂ its own, of others by their standard errors."""
    if name == VALUE:
        return value_of(row, "llc_low95"), value_of(row, "llc_high95")
    value, error = value_of(row, name), value_of(row, ERRORS.get(name, f"{name}_mcse"))
    if value is None or error is None:
        return None, None
    return value - NORMAL * error, value + NORMAL * error


# --- series -----------------------------------------------------------------------------------------------------------


@dataclass
class Series:
    """Runs that share a colour and a line.

    Attributes:
        values: column → value that all of them have and other series do not.
        rows: the runs.
    """

    values: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def label(self) -> str:
        """What tells it from others."""
        return labelled(self.values)

    def means(self, x: str, y: str) -> list[tuple[Any, float, int]]:
        """(x, mean of y, number of runs) in order of x, over runs that are not bad."""
        by_x: dict[Any, list[float]] = {}
        for row in self.rows:
            if (value := value_of(row, y)) is not None and row.get("status") != "bad" and row.get(x) is not None:
                by_x.setdefault(row[x], []).append(value)
        return [(each, statistics.fmean(by_x[each]), len(by_x[each])) for each in in_order(by_x)]


@dataclass
class Panel:
    """One axes of a figure.

    Attributes:
        values: column → value that all of its runs have and other panels do not.
        series: its runs.
    """

    values: dict[str, Any]
    series: list[Series] = field(default_factory=list)

    def label(self) -> str:
        """Its title."""
        return labelled(self.values)

    def rows(self) -> list[Row]:
        """All of its runs."""
        return [row for each in self.series for row in each.rows]


SHORT = {"beta": "β", "gamma": "γ", "nbeta": "nβ", "noise_scale": "σ", "n_data": "n"}


def labelled(values: Mapping[str, Any]) -> str:
    """Values with their names, those of samplers and models without."""
    return ", ".join(
        cell(value) if name in ("sampler", "model") else f"{short_name(name)} = {cell(rounded(value))}"
        for name, value in values.items()
    )


def short_name(name: str) -> str:
    """A column's name without its group, or its symbol."""
    return SHORT.get(name, name.rpartition(".")[2])


def rounded(value: Any) -> Any:
    """A number to four digits."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def drawn(rows: Sequence[Row], y: str) -> list[Row]:
    """The rows that have a number, and those that are bad and have none."""
    return [row for row in rows if value_of(row, y) is not None or row.get("status") == "bad"]


def panels(rows: Sequence[Row], x: str, hue: str | None = None, col: str | None = None) -> list[Panel]:
    """The runs that have a value on the x axis, by panel and series; series are split where runs estimate something else.

    Arguments:
        rows: of the tidy table.
        x, hue, col: columns; without `hue` samplers have the colours, where there are several.
    """
    rows = [row for row in rows if row.get(x) is not None]
    if hue is None and "sampler" not in (x, col):
        hue = "sampler"
    hues = [hue] if hue is not None else []
    hues += _split(rows, [name for name in (x, hue, col) if name])
    varied = [name for name in hues if len({cell(row.get(name)) for row in rows}) > 1]
    made = []
    for title in in_order(row.get(col) for row in rows) if col else [None]:
        inside = [row for row in rows if not col or row.get(col) == title]
        series: dict[tuple, Series] = {}
        for row in inside:
            key = tuple(row.get(name) for name in varied)
            series.setdefault(key, Series(dict(zip(varied, key, strict=True)))).rows.append(row)
        ordered = [series[key] for key in sorted(series, key=lambda key: [_rank(value) for value in key])]
        made.append(Panel({col: title} if col else {}, ordered))
    return made


def _split(rows, keys):
    """Columns that tell apart what runs with the same values of `keys` estimate."""
    cells: dict[tuple, list[Row]] = {}
    for row in rows:
        cells.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    telling = [name for name in _telling(rows) if name not in keys]
    differ = lambda name: any(len({_known(row.get(name)) for row in each} - {None}) > 1 for each in cells.values())
    return [name for name in telling if differ(name)]


def _known(value):
    return float(f"{value:.9g}") if isinstance(value, float) else setting(value) if value is not None else None


# --- grids ------------------------------------------------------------------------------------------------------------


@dataclass
class Grid:
    """Runs over two settings, for a heat map.

    Attributes:
        values: column → value that all of its runs have and other grids do not.
        x, y: the columns.
        cells: (x, y) → the runs there.
    """

    values: dict[str, Any]
    x: str
    y: str
    cells: dict[tuple[Any, Any], list[Row]] = field(default_factory=dict)

    def label(self) -> str:
        """Its title."""
        return labelled(self.values)

    def axis(self, i: int) -> list[Any]:
        """Values along x (0) or y (1)."""
        return in_order(key[i] for key in self.cells)

    def mean(self, place: tuple[Any, Any], name: str) -> float | None:
        """Mean of a column over the runs of a cell that are not bad."""
        rows = [row for row in self.cells.get(place, []) if row.get("status") != "bad"]
        values = [value for row in rows if (value := value_of(row, name)) is not None]
        return statistics.fmean(values) if values else None

    def error(self, place: tuple[Any, Any]) -> float:
        """Standard error of the mean of λ̂ in a cell, from its runs' own."""
        rows = [row for row in self.cells.get(place, []) if row.get("status") != "bad"]
        errors = [error for row in rows if (error := value_of(row, "llc_mcse")) is not None]
        return math.sqrt(sum(error**2 for error in errors)) / len(errors) if errors else 0.0


def grids(rows: Sequence[Row], x: str, y: str, col: str | None = None) -> list[Grid]:
    """A grid for each value of `col`, each sampler, and each thing that is estimated."""
    rows = [row for row in rows if row.get(x) is not None and row.get(y) is not None]
    keys = [name for name in (col, "sampler") if name and name not in (x, y)]
    keys = list(dict.fromkeys(keys))
    keys += _split(rows, [x, y, *keys])
    varied = [name for name in keys if len({cell(row.get(name)) for row in rows}) > 1]
    found: dict[tuple, Grid] = {}
    for row in rows:
        key = tuple(row.get(name) for name in varied)
        grid = found.setdefault(key, Grid(dict(zip(varied, key, strict=True)), x, y))
        grid.cells.setdefault((row[x], row[y]), []).append(row)
    return [found[key] for key in sorted(found, key=lambda key: [_rank(value) for value in key])]


# --- plateaus ---------------------------------------------------------------------------------------------------------

PLATEAU_SPREAD = 0.1
"""λ̂ on a plateau differs by no more than this part of itself, beside the samplers' errors."""

PLATEAU_FACTOR = 10
"""A plateau spans at least this factor of γ or of nβ."""

PLATEAU_CELLS = 3
"""Fewest cells of a plateau."""


@dataclass(frozen=True)
class Plateau:
    """A rectangle of a grid over γ and nβ where λ̂ hardly changes.

    Attributes:
        x, y: its ends along each axis.
        low, high: the least and the largest λ̂ in it.
        cells: how many there are.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    low: float
    high: float
    cells: int


def plateau(grid: Grid) -> Plateau | None:
    """The widest rectangle of neighbouring cells on which λ̂ stays within PLATEAU_SPREAD; None where there is none.

    Widest is by the sum of both axes' logarithmic lengths. A cell whose runs are all bad, or that is empty, ends a rectangle.
    """
    xs, ys = ([value for value in grid.axis(i) if is_number(value)] for i in (0, 1))
    value = {place: mean for place in grid.cells if (mean := grid.mean(place, VALUE)) is not None}
    best, widest = None, 0.0
    for (x0, x1), (y0, y1) in ((a, b) for a in _spans(xs) for b in _spans(ys)):
        places = [(x, y) for x in xs if x0 <= x <= x1 for y in ys if y0 <= y <= y1]
        wide = [_length(x0, x1), _length(y0, y1)]
        if len(places) < PLATEAU_CELLS or max(wide) < math.log(PLATEAU_FACTOR) - 1e-9 or sum(wide) <= widest + 1e-9:
            continue
        if not all(place in value for place in places):
            continue
        values = [value[place] for place in places]
        noise = 2 * math.sqrt(statistics.fmean(grid.error(place) ** 2 for place in places))
        if max(values) - min(values) - noise <= PLATEAU_SPREAD * abs(statistics.median(values)):
            best, widest = Plateau((x0, x1), (y0, y1), min(values), max(values), len(places)), sum(wide)
    return best


def _spans(values: Sequence[float]) -> Iterator[tuple[float, float]]:
    for i, low in enumerate(values):
        for high in values[i:]:
            yield low, high


def _length(low, high):
    return math.log(high / low) if low > 0 else 0.0


def sentence(grid: Grid) -> str:
    """What a calibration shows: the plateau, or that there is none."""
    found, names = plateau(grid), (short_name(grid.x), short_name(grid.y))
    if found is None:
        usable = sum(grid.mean(place, VALUE) is not None for place in grid.cells)
        if usable < PLATEAU_CELLS:
            return f"No plateau can be told from {usable} settings with a usable run."
        return (
            f"No plateau: nowhere does λ̂ stay within {100 * PLATEAU_SPREAD:g} % over a factor of {PLATEAU_FACTOR} "
            f"in {names[0]} or {names[1]}."
        )
    spans = [_span(name, ends) for name, ends in zip(names, (found.x, found.y), strict=True)]
    return f"Plateau: λ̂ is {found.low:.4g} to {found.high:.4g} for {' and '.join(spans)} ({found.cells} settings)."


def _span(name, ends):
    low, high = (cell(rounded(end)) for end in ends)
    return f"{name} = {low}" if low == high else f"{name} from {low} to {high}"


def ensure_numbers(rows: Sequence[Row], name: str) -> None:
    """Refuse a column that has no number.

    Raises:
        UserError: where no row has one.
    """
    if not any(value_of(row, name) is not None for row in rows):
        got = next((row.get(name) for row in rows if row.get(name) is not None), None)
        what = "is not known of any of these runs" if got is None else f"holds no number, such as {cell(got)}"
        raise UserError(f"{name} {what}; draw a statistic, such as y=llc_mean or y=ess.")
