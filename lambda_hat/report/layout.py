"""What a figure over swept settings looks like, whoever draws it: where values lie, how series differ, what its note says."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lambda_hat.analysis import summary
from lambda_hat.inspect import formats, series
from lambda_hat.inspect.records import STATES
from lambda_hat.inspect.series import Panel, Row, in_order, is_geometric, is_log, is_number, short_name, value_of

SPREAD = 0.3
"""Part of the gap between two values on the x axis over which series stand beside each other."""

CALIBRATED = {
    "llc_mean": "λ̂",
    "relative_distance": "rms |w − w0| / |w0|",
    "stein_residual": "Stein identity / exact − 1",
}
"""Columns of the calibration page, beside the status."""


@dataclass
class Shown:
    """What is in a figure.

    Attributes:
        rows: the runs that are drawn.
        columns: of the settings and values that it shows, for a table beside it.
        sentences: what it shows, where something can be said.
    """

    rows: list[Row]
    columns: list[str]
    sentences: list[str]

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and lines of the data behind the figure, a line for each run."""
        header = list(
            dict.fromkeys([*self.columns, "status", "seed", "sampler", "sampler_seed", "target_id", "run_id"])
        )
        return header, [[row.get(name) for name in header] for row in self.rows]


class Places:
    """Where values lie on the x axis: numbers linearly or by their logarithm, other values side by side.

    Arguments:
        values: all that are drawn.

    Attributes:
        values: the different ones, in order.
        gap: the least distance of two.
    """

    def __init__(self, values: Sequence[Any]):
        self.values = in_order(values)
        self.numbers = all(is_number(value) for value in self.values)
        self.log = self.numbers and (is_log(self.values) or is_geometric(self.values))
        self._least = min((value for value in self.values if value > 0), default=1.0) if self.numbers else 1.0
        at = [self._at(value) for value in self.values]
        self.gap = min((b - a for a, b in itertools.pairwise(at)), default=1.0)

    def _at(self, value):
        if not self.numbers:
            return self.values.index(value)
        if not self.log:
            return value
        return math.log10(value) if value > 0 else math.log10(self._least) - 0.5  # zero stands left of the others

    def __call__(self, value: Any, shift: float = 0.0) -> float:
        """The place of a value, shifted by a part of the gap between values."""
        return self._at(value) + shift * self.gap

    def ticks(self) -> list[tuple[float, str]] | None:
        """(place, text) of ticks at values, eight at most; None where the axis is one of numbers that tells its own."""
        if self.numbers and not self.log:
            few = all(float(value).is_integer() for value in self.values) and len(self.values) <= 8
            return [(value, f"{value:g}") for value in self.values] if few else None
        values = self.values if len(self.values) <= 8 else self.values[:: math.ceil(len(self.values) / 8)]
        return [(self(value), tick(value) if self.numbers else formats.cell(value)) for value in values]


def tick(value: float) -> str:
    """A value of a setting in few letters."""
    return f"{float(f'{value:.4g}'):g}" if 1e-4 < abs(value) < 1e6 or value == 0 else f"{value:.3g}"


class Styles:
    """How series look: their first value has the colour, the others together have marker and dashes.

    Arguments:
        panels: all of the figure.
    """

    def __init__(self, panels: Sequence[Panel]):
        everything = [each.values for panel in panels for each in panel.series]
        self.names = list(dict.fromkeys(name for values in everything for name in values))
        self.firsts = in_order(next(iter(values.values()), None) for values in everything)
        self.rests = list(dict.fromkeys(_rest(values) for values in everything))

    def numbers(self, values: Mapping[str, Any]) -> tuple[int, int]:
        """Number of the colour, and of the marker and dashes, of the series with these values."""
        return self.firsts.index(next(iter(values.values()), None)), self.rests.index(_rest(values))


def _rest(values):
    return series.labelled(dict(list(values.items())[1:]))


def limits(rows: Sequence[Row], y: str) -> tuple[tuple[float, float], bool]:
    """Ends of the y axis, wide enough for all runs that are not bad; and whether it is logarithmic."""
    good = [row for row in rows if row.get("status") != "bad"]
    values = [value for row in good for value in (value_of(row, y), *series.interval_of(row, y)) if value is not None]
    values += [value for row in rows for value in known_values(row, y) if value is not None]
    middle = [value for row in good if (value := value_of(row, y)) is not None]
    if not middle:
        values = middle = [value for row in rows if (value := value_of(row, y)) is not None]
    logarithmic = is_log(values) and min(values) > 0
    low, high = min(values), max(values)
    inside = max(high - low, 0.1 * abs(high), 1e-12)
    near = [value for row in rows if (value := value_of(row, y)) is not None and low - inside <= value <= high + inside]
    low, high = min([low, *near]), max([high, *near])
    if logarithmic and low > 0:
        return (low / 1.2, high * 1.2), True
    margin = 0.06 * ((high - low) or abs(high) or 1.0)
    return (low - margin, high + margin), False


def known_values(row: Row, y: str) -> tuple[float | None, float | None]:
    """The exact λ̂ and λ of a run, where λ̂ is drawn and they are known."""
    return (value_of(row, "truth_finite"), value_of(row, "truth")) if y == series.VALUE else (None, None)


class Notes:
    """What the note under a figure says: how many runs there are, and what of them is not in the axes."""

    def __init__(self, rows: Sequence[Row], x: str):
        self._rows = rows
        self.statuses = {row.get("status") for row in rows if row.get(x) is not None}
        self.outside: list[str] = []
        self.without = 0
        self.exact = self.truth = False
        self._unfinished = [
            f"{count} {state}" for state in STATES if (count := sum(row.get("status") == state for row in rows))
        ]
        self._means = len({(row.get("seed"), row.get("sampler_seed")) for row in rows}) > 1

    def sentences(self, y: str) -> list[str]:
        """A line each."""
        line = "Each mark is a run"
        line += ", with its 95 % interval" if interval_columns(y, self._rows) else ""
        line += "; lines join the means of runs that are not bad." if self._means else "."
        line += " Hollow: warn." if "warn" in self.statuses else ""
        line += " Cross: bad." if "bad" in self.statuses else ""
        made = [line]
        if self.exact or self.truth:
            marks = ["dashes: exact λ̂ at this n, β, γ"] * self.exact + ["dots: λ (n → ∞)"] * self.truth
            made.append(f"In the colour of the axes: {', '.join(marks)}.")
        if self.outside:
            values = list(dict.fromkeys(self.outside))
            shown = ", ".join(values[:4]) + (f" and {len(values) - 4} other values" if len(values) > 4 else "")
            made.append(f"Outside the axes, at their edge: {shown}.")
        left = [f"{self.without} bad without a value"] * bool(self.without) + self._unfinished
        return [*made, *([f"Not drawn: {', '.join(left)}."] if left else [])]


def interval_columns(y: str, rows: Sequence[Row]) -> list[str]:
    """Columns that the error of a column of results is told from; none where no run has one."""
    if y == series.VALUE:
        return ["llc_mcse", "llc_low95", "llc_high95"]
    name = series.ERRORS.get(y, f"{y}_mcse")
    return [name] if any(row.get(name) is not None for row in rows) else []


def title_of(name: str) -> str:
    """A column's name for people."""
    known = {column.name: column for column in summary.COLUMNS}
    if name not in known:
        return {
            "relative_distance": CALIBRATED["relative_distance"],
            "stein_residual": CALIBRATED["stein_residual"],
        }.get(name, short_name(name))
    unit = known[name].unit
    return f"{known[name].label} ({unit})" if unit else known[name].label
