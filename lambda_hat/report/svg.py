"""Figures as SVG text: axes with round ticks, lines, points, bars. Colours are CSS classes, so that a page may be light or dark."""

import math
from html import escape

WIDTH = 400
"""Units that every figure is wide, narrow enough for its text to be read on a telephone."""

RIGHT, TOP, BOTTOM = 10, 8, 36


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


class Plot:
    """A figure under construction.

    Arguments:
        x, y: pairs (low, high).
        xlabel, ylabel: what the axes are.
        height: units of the whole figure.
        left: units left of the axes, for ticks or names.
        xlog: whether x is logarithmic.
        names: in place of y's ticks: pairs (value, text).
    """

    def __init__(self, x, y, *, xlabel, ylabel="", height=230, left=50, xlog=False, names=None):
        self._width, self._height = WIDTH - left - RIGHT, height - TOP - BOTTOM
        self._left, self._labels, self._names = left, (xlabel, ylabel), names
        (left_end, right_end), (lower, upper) = x, y
        self.x, self.y = Axis(left_end, right_end, self._width, xlog), Axis(lower, upper, self._height)
        self._marks = []

    def _at(self, x, y):
        return f"{self.x(x):.1f},{self._height - self.y(y):.1f}"

    def line(self, xs, ys, css, title=""):
        """A line through points."""
        points = " ".join(self._at(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y))
        self._marks.append(f'<polyline class="line {css}" points="{points}">{_title(title)}</polyline>')

    def across(self, value, css, title=""):
        """A horizontal line at a value of y."""
        y = f"{self._height - self.y(value):.1f}"
        self._marks.append(f'<line class="{css}" x1="0" x2="{self._width}" y1="{y}" y2="{y}">{_title(title)}</line>')

    def down(self, value, css, title=""):
        """A vertical line at a value of x."""
        x = f"{self.x(value):.1f}"
        self._marks.append(f'<line class="{css}" x1="{x}" x2="{x}" y1="0" y2="{self._height}">{_title(title)}</line>')

    def interval(self, low, high, y, css, title=""):
        """A bar along x."""
        a, b = f"{self.x(low):.1f}", f"{self.x(high):.1f}"
        at = f"{self._height - self.y(y):.1f}"
        self._marks.append(f'<line class="bar {css}" x1="{a}" x2="{b}" y1="{at}" y2="{at}">{_title(title)}</line>')

    def error(self, x, low, high, css, title=""):
        """A thin bar along y."""
        a = f"{self.x(x):.1f}"
        b, c = (f"{self._height - self.y(value):.1f}" for value in (low, high))
        self._marks.append(f'<line class="whisker {css}" x1="{a}" x2="{a}" y1="{b}" y2="{c}">{_title(title)}</line>')

    def point(self, x, y, css, title=""):
        """A dot."""
        a, b = self._at(x, y).split(",")
        self._marks.append(f'<circle class="dot {css}" cx="{a}" cy="{b}" r="3.2">{_title(title)}</circle>')

    def cross(self, x, y, css, title=""):
        """A saltire."""
        a, b = (float(part) for part in self._at(x, y).split(","))
        path = f"M{a - 3:.1f} {b - 3:.1f}l6 6m0 -6l-6 6"
        self._marks.append(f'<path class="cross {css}" d="{path}">{_title(title)}</path>')

    def box(self, x0, x1, y0, y1, css):
        """A filled rectangle."""
        left, top = self.x(x0), self._height - self.y(y1)
        self._marks.append(
            f'<rect class="fill {css}" x="{left:.1f}" y="{top:.1f}" width="{max(0.5, self.x(x1) - left - 0.6):.1f}" '
            f'height="{max(0.0, self.y(y1) - self.y(y0)):.1f}"/>'
        )

    def _ticks(self):
        return [(value, tick_text(value)) for value in self.y.ticks(5)] if self._names is None else self._names

    def svg(self, label):
        """The figure; `label` is its text alternative for screen readers."""
        height = self._height + TOP + BOTTOM
        parts = [f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label, True)}">']
        bottom = TOP + self._height
        for value in self.x.ticks():
            x = self._left + self.x(value)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 13}" text-anchor="middle">{tick_text(value)}</text>')
        for value, name in self._ticks():
            y = bottom - self.y(value)
            if self._names is None:
                parts.append(
                    f'<line class="grid" x1="{self._left}" x2="{self._left + self._width}" y1="{y:.1f}" y2="{y:.1f}"/>'
                )
            parts.append(f'<text x="{self._left - 5}" y="{y + 3.5:.1f}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<svg x="{self._left}" y="{TOP}" width="{self._width}" height="{self._height}">{"".join(self._marks)}</svg>'
        )
        parts.append(f'<path class="axis" d="M{self._left} {TOP}V{bottom}H{self._left + self._width}"/>')
        xlabel, ylabel = self._labels
        middle = self._left + self._width / 2
        parts.append(
            f'<text class="label" x="{middle:.0f}" y="{height - 5}" text-anchor="middle">{escape(xlabel)}</text>'
        )
        if ylabel:
            turned = f'x="11" y="{TOP + self._height / 2:.0f}" transform="rotate(-90 11 {TOP + self._height / 2:.0f})"'
            parts.append(f'<text class="label" {turned} text-anchor="middle">{escape(ylabel)}</text>')
        return "".join([*parts, "</svg>"])


def _title(text):
    return f"<title>{escape(text)}</title>" if text else ""
