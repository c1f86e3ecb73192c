"""Figures as SVG text: axes with round ticks, lines, points, bars. Colours are CSS classes, so that a page may be light or dark."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple, SupportsFloat

WIDTH = 400
"""Units that every figure is wide, narrow enough for its text to be read on a telephone."""

RIGHT, TOP, BOTTOM = 10, 8, 36

LETTER = 6
"""Units that a letter is wide, about."""

SHAPES = {
    "dot": "m-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z",
    "small": "m-1.7 0a1.7 1.7 0 1 0 3.4 0a1.7 1.7 0 1 0-3.4 0z",
    "square": "m-2.9-2.9h5.8v5.8h-5.8z",
    "up": "m0-3.8l3.6 6.4h-7.2z",
    "diamond": "m0-4.1l3.7 4.1l-3.7 4.1l-3.7-4.1z",
    "down": "m0 3.8l3.6-6.4h-7.2z",
    "right": "m3.8 0l-6.4 3.6v-7.2z",
    "left": "m-3.8 0l6.4 3.6v-7.2z",
    "bar": "m-1.3-3.9h2.6v7.8h-2.6z",
    "cross": "m-3-3l6 6m0-6l-6 6",
}
"""Outlines of marks around their place."""


class Axis:
    """One axis: from values to units, and its ticks.

    Arguments:
        low, high: values at its ends.
        length: units.
        log: whether values are spaced by their logarithm; they must then be positive.
    """

    def __init__(self, low, high, length, log=False):
        self.log, self.length = log, length
        if log:
            low, high = math.log10(low), math.log10(high)
        if not high - low > 1e-9 * max(abs(low), abs(high)):
            low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
        self.low, self.high = low, high

    def __call__(self, value):
        value = math.log10(value) if self.log else value
        return self.length * (value - self.low) / (self.high - self.low)

    def ticks(self, most=6):
        """Round values on the axis."""
        if not self.log:
            return self._steps(self.low, self.high, most)
        return self._decades(most) or [tick for tick in self._steps(10.0**self.low, 10.0**self.high, most) if tick > 0]

    @staticmethod
    def _steps(low, high, most):
        raw = (high - low) / most
        base = 10.0 ** math.floor(math.log10(raw))
        step = next(base * m for m in (1, 2, 5, 10) if base * m >= raw)
        first = math.ceil(low / step - 1e-9)
        return [float(f"{i * step:.12g}") for i in range(first, math.floor(high / step + 1e-9) + 1)]

    def _decades(self, most):
        inside = lambda v: self.low - 1e-9 <= math.log10(v) <= self.high + 1e-9
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            ticks = [f * 10.0**d for d in decades for f in factors if inside(f * 10.0**d)]
            if len(ticks) <= most:
                return ticks
        return ticks[:: math.ceil(len(ticks) / most)]


def tick_text(value: float) -> str:
    """A tick's value in few letters: 0.02, 350, 20k, 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (size > 1e3 and abs(value) >= size):
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def middle(x: float, name: str) -> float:
    """Where the middle of a tick's name is: at the tick, but for the right end, where it would be cut off."""
    return min(x, WIDTH - LETTER * len(name) / 2)


class Mark(NamedTuple):
    """What is drawn in one go, by values.

    Attributes:
        kind: line, across, down, interval, error, cell, box, or one of SHAPES.
        css: its class.
        title: what is said where the pointer is on it.
        at: (x, y) of points; (x, y, x end) of intervals; (x, y, y end) of errors; (x, x end, y, y end) of boxes and cells.
        text, fill: of a cell: what stands in it, and its colour.
    """

    kind: str
    css: str
    title: str
    at: list[tuple[float, ...]]
    text: str = ""
    fill: str = ""


class Plot:
    """A figure under construction.

    Arguments:
        x, y: pairs (low, high).
        xlabel, ylabel: what the axes are.
        height: units of the whole figure.
        left: units left of the axes, for ticks or names.
        xlog, ylog: whether an axis is logarithmic.
        names, xnames: in place of an axis' ticks: pairs (value, text).
        label: what it shows, for those who do not see it.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        xlabel: str,
        ylabel: str = "",
        height: float = 230,
        left: float = 50,
        xlog: bool = False,
        ylog: bool = False,
        names: Sequence[tuple[float, str]] | None = None,
        xnames: Sequence[tuple[float, str]] | None = None,
        label: str = "",
    ):
        self.width, self.height = WIDTH - left - RIGHT, height - TOP - BOTTOM
        self.left, self.xlabel, self.ylabel, self.label = left, xlabel, ylabel, label
        self.names, self.xnames = names, xnames
        self.x, self.y = Axis(*x, self.width, xlog), Axis(*y, self.height, ylog)
        self.marks: list[Mark] = []

    def _add(self, kind, css, title, *at, **more):
        self.marks.append(Mark(kind, css, title, list(at), **more))

    def line(self, xs: Iterable[SupportsFloat], ys: Iterable[SupportsFloat], css: str, title: str = "") -> None:
        """A line through points."""
        self._add("line", css, title, *((float(x), float(y)) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)))

    def across(self, value: float, css: str, title: str = "") -> None:
        """A horizontal line at a value of y."""
        self._add("across", css, title, (math.nan, value))

    def down(self, value: float, css: str, title: str = "") -> None:
        """A vertical line at a value of x."""
        self._add("down", css, title, (value, math.nan))

    def interval(self, low: float, high: float, y: float, css: str, title: str = "") -> None:
        """A bar along x."""
        self._add("interval", css, title, (low, y, high))

    def error(self, x: float, low: float, high: float, css: str, title: str = "") -> None:
        """A thin bar along y."""
        self._add("error", css, title, (x, low, high))

    def errors(self, at: Iterable[tuple[float, float, float]], css: str) -> None:
        """Many thin bars along y: (x, low, high) of each."""
        self._add("error", css, "", *at)

    def point(self, x: float, y: float, css: str, title: str = "") -> None:
        """A dot."""
        self._add("dot", css, title, (x, y))

    def cross(self, x: float, y: float, css: str, title: str = "") -> None:
        """A saltire."""
        self._add("cross", css, title, (x, y))

    def points(self, at: Iterable[tuple[float, float]], shape: str, css: str) -> None:
        """Many marks of one of SHAPES."""
        self._add(shape, css, "", *at)

    def box(self, x0: float, x1: float, y0: float, y1: float, css: str) -> None:
        """A filled rectangle."""
        self._add("box", css, "", (x0, x1, y0, y1))

    def cell(self, x0: float, x1: float, y0: float, y1: float, fill: str, text: str, css: str) -> None:
        """A rectangle of the colour `fill` with a text in it, whose class is `css`."""
        self._add("cell", css, "", (x0, x1, y0, y1), text=text, fill=fill)

    # --- its data -----------------------------------------------------------------------------------------------------

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and lines of what is drawn, by values; an end is of a bar or a box."""
        lines = []
        for mark in self.marks:
            said = mark.title or mark.text or mark.css
            for at in mark.at:
                if mark.kind in ("box", "cell"):
                    ends = [at[0], at[2], at[1], at[3]]
                elif mark.kind == "interval":
                    ends = [at[0], at[1], at[2], None]
                elif mark.kind == "error":
                    ends = [at[0], at[1], None, at[2]]
                else:
                    ends = [*at, None, None]
                lines.append([mark.kind, said, *(None if v is None or math.isnan(v) else float(v) for v in ends)])
        return ["mark", "what", self.xlabel or "x", self.ylabel or "y", "x_end", "y_end"], lines

    # --- as text ------------------------------------------------------------------------------------------------------

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Units right of and below the upper left corner of the axes."""
        return self.x(x), self.height - self.y(y)

    def ticks(self) -> list[tuple[float, str]]:
        """(value, text) of the ticks along y."""
        return [(v, tick_text(v)) for v in self.y.ticks(5)] if self.names is None else list(self.names)

    def xticks(self) -> list[tuple[float, str]]:
        """(value, text) of the ticks along x; of names, those that have room."""
        if self.xnames is None:
            return [(value, tick_text(value)) for value in self.x.ticks()]
        kept, end = [], -math.inf
        for value, name in self.xnames:
            half = LETTER * (len(name) + 1) / 2
            if self.x(value) - half >= end:
                kept.append((value, name))
                end = self.x(value) + half
        return kept

    def svg(self) -> str:
        """The figure."""
        height = self.height + TOP + BOTTOM
        parts = [
            f'<svg class="plot" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(self.label, True)}">'
        ]
        bottom = TOP + self.height
        for value, name in self.xticks():
            x = self.left + self.x(value)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom:g}"/>')
            parts.append(
                f'<text x="{middle(x, name):.1f}" y="{bottom + 13:g}" text-anchor="middle">{escape(name)}</text>'
            )
        for value, name in self.ticks():
            y = bottom - self.y(value)
            if self.names is None:
                parts.append(
                    f'<line class="grid" x1="{self.left}" x2="{self.left + self.width}" y1="{y:.1f}" y2="{y:.1f}"/>'
                )
            parts.append(f'<text x="{self.left - 5}" y="{y + 3.5:.1f}" text-anchor="end">{escape(name)}</text>')
        drawn = "".join(_DRAWN.get(mark.kind, _shapes)(self, mark) for mark in self.marks)
        parts.append(f'<svg x="{self.left}" y="{TOP}" width="{self.width:g}" height="{self.height:g}">{drawn}</svg>')
        parts.append(f'<path class="axis" d="M{self.left} {TOP}V{bottom:g}H{self.left + self.width:g}"/>')
        half = self.left + self.width / 2
        parts.append(
            f'<text class="label" x="{half:.0f}" y="{height - 5:g}" text-anchor="middle">{escape(self.xlabel)}</text>'
        )
        if self.ylabel:
            turned = f'x="11" y="{TOP + self.height / 2:.0f}" transform="rotate(-90 11 {TOP + self.height / 2:.0f})"'
            parts.append(f'<text class="label" {turned} text-anchor="middle">{escape(self.ylabel)}</text>')
        return "".join([*parts, "</svg>"])


def _title(text):
    return f"<title>{escape(text)}</title>" if text else ""


def _line(plot, mark):
    points = " ".join("{:.1f},{:.1f}".format(*plot.place(*at)) for at in mark.at)
    return f'<polyline class="line {mark.css}" points="{points}">{_title(mark.title)}</polyline>'


def _across(plot, mark):
    y = f"{plot.height - plot.y(mark.at[0][1]):.1f}"
    return f'<line class="{mark.css}" x1="0" x2="{plot.width:g}" y1="{y}" y2="{y}">{_title(mark.title)}</line>'


def _down(plot, mark):
    x = f"{plot.x(mark.at[0][0]):.1f}"
    return f'<line class="{mark.css}" x1="{x}" x2="{x}" y1="0" y2="{plot.height:g}">{_title(mark.title)}</line>'


def _interval(plot, mark):
    low, y, high = mark.at[0]
    a, b, at = f"{plot.x(low):.1f}", f"{plot.x(high):.1f}", f"{plot.height - plot.y(y):.1f}"
    return f'<line class="bar {mark.css}" x1="{a}" x2="{b}" y1="{at}" y2="{at}">{_title(mark.title)}</line>'


def _errors(plot, mark):
    if len(mark.at) > 1:
        ends = ((*plot.place(x, low), plot.height - plot.y(high)) for x, low, high in mark.at)
        return f'<path class="whisker {mark.css}" d="{"".join(f"M{x:.1f} {a:.1f}V{b:.1f}" for x, a, b in ends)}"/>'
    (x, low, high) = mark.at[0]
    a = f"{plot.x(x):.1f}"
    b, c = (f"{plot.height - plot.y(value):.1f}" for value in (low, high))
    return f'<line class="whisker {mark.css}" x1="{a}" x2="{a}" y1="{b}" y2="{c}">{_title(mark.title)}</line>'


def _shapes(plot, mark):
    css = "cross" if mark.kind == "cross" else "dot"
    places = [plot.place(*at) for at in mark.at]
    if len(places) == 1 and mark.kind == "dot":
        x, y = places[0]
        return f'<circle class="dot {mark.css}" cx="{x:.1f}" cy="{y:.1f}" r="3.2">{_title(mark.title)}</circle>'
    path = "".join(f"M{x:.1f} {y:.1f}{SHAPES[mark.kind]}" for x, y in places)
    return f'<path class="{css} {mark.css}" d="{path}">{_title(mark.title)}</path>'


def _box(plot, mark):
    x0, x1, y0, y1 = mark.at[0]
    left, top = plot.place(x0, y1)
    return (
        f'<rect class="fill {mark.css}" x="{left:.1f}" y="{top:.1f}" width="{max(0.5, plot.x(x1) - left - 0.6):.1f}" '
        f'height="{max(0.0, plot.y(y1) - plot.y(y0)):.1f}"/>'
    )


def _cell(plot, mark):
    x0, x1, y0, y1 = mark.at[0]
    (left, top), (right, bottom) = plot.place(x0, y1), plot.place(x1, y0)
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" fill="{mark.fill}"/>'
        f'<text class="{mark.css}" x="{(left + right) / 2:.1f}" y="{(top + bottom) / 2 + 3.5:.1f}" text-anchor="middle">'
        f"{escape(mark.text)}</text>"
    )


_DRAWN = {
    "line": _line,
    "across": _across,
    "down": _down,
    "interval": _interval,
    "error": _errors,
    "box": _box,
    "cell": _cell,
}
