"""The report's small figures as files of their own: SVG with its style in it, PNG by matplotlib, and what is drawn as CSV."""

import io
import re
from collections.abc import Mapping
from pathlib import Path

from lambda_hat.inspect.table import replace_file, writer
from lambda_hat.report import svg
from lambda_hat.report.page import PAGE

DOTS = 200
"""Per inch of a PNG; a unit of a figure is a point."""

MARKERS = {
    "dot": "o",
    "small": ".",
    "square": "s",
    "up": "^",
    "diamond": "D",
    "down": "v",
    "right": ">",
    "left": "<",
    "bar": "|",
    "cross": "x",
}
"""matplotlib's letters of `svg.SHAPES`."""

WIDTHS = {"line": 1.5, "interval": 2.2, "error": 1.0, "across": 1.0, "down": 1.0}
"""Of lines, in units."""


def save(plots: Mapping[str, svg.Plot], folder: Path) -> None:
    """Write each figure as <name>.svg, .png and .csv."""
    rules, colours = _style()
    for name, plot in plots.items():
        content = {".svg": alone(plot, rules).encode(), ".png": png(plot, colours)}
        for suffix, data in content.items():
            replace_file(folder / f"{name}{suffix}", lambda hidden, data=data: hidden.write_bytes(data))
        replace_file(folder / f"{name}.csv", lambda hidden, plot=plot: writer("a.csv")(hidden, *plot.table()))


def _style():
    """The rules of a light page, and the colour that each name of its palette has."""
    page = PAGE.read_text(encoding="utf-8")
    rules = page[page.index("<style>") + 7 : page.index("</style>")]
    rules = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", rules)
    return rules, dict(re.findall(r"--([\w-]+): (#\w+);", rules))


def alone(plot: svg.Plot, rules: str) -> str:
    """A figure as an SVG file, light, with the page's rules in it."""
    opened, closed, rest = plot.svg().partition(">")
    opened = opened.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f'{opened} style="background: white; font-family: sans-serif"{closed}<style>{rules}</style>{rest}\n'


# --- as pixels --------------------------------------------------------------------------------------------------------


def png(plot: svg.Plot, colours: Mapping[str, str]) -> bytes:
    """A figure as the bytes of a PNG file.

    Arguments:
        plot: the figure.
        colours: by the names of the page's palette: s0, text, soft, rule, exact.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    high = plot.height + svg.TOP + svg.BOTTOM
    figure = Figure(figsize=(svg.WIDTH / 72, high / 72), dpi=DOTS)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set(xlim=(0, svg.WIDTH), ylim=(high, 0))
    ax.axis("off")
    pen = _Pen(plot, ax, colours)
    pen.axes()
    for mark in plot.marks:
        pen.draw(mark)
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()


class _Pen:
    """Draws a figure in its units.

    Arguments:
        plot: the figure.
        ax: axes as large as it, whose y points down.
        colours: of the palette.
    """

    def __init__(self, plot, ax, colours):
        self._plot, self._ax, self._colours = plot, ax, colours
        self._left, self._bottom = plot.left, svg.TOP + plot.height
        box = (self._left, svg.TOP), plot.width, plot.height
        self._inside = _rectangle(*box, transform=ax.transData)

    def axes(self):
        plot, ax, grid = self._plot, self._ax, {"color": self._colours["rule"], "lw": 0.7, "zorder": 0}
        small = {"fontsize": 10, "color": self._colours["soft"], "parse_math": False}
        right = self._left + plot.width
        for value, name in plot.xticks():
            x = self._left + plot.x(value)
            ax.plot([x, x], [svg.TOP, self._bottom], **grid)
            ax.text(svg.middle(x, name), self._bottom + 13, name, ha="center", **small)
        for value, name in plot.ticks():
            y = self._bottom - plot.y(value)
            if plot.names is None:
                ax.plot([self._left, right], [y, y], **grid)
            ax.text(self._left - 5, y + 3.5, name, ha="right", **small)
        ends = [self._left, self._left, right], [svg.TOP, self._bottom, self._bottom]
        ax.plot(*ends, color=self._colours["soft"], lw=0.8, zorder=5)
        label = small | {"color": self._colours["text"], "ha": "center"}
        ax.text(self._left + plot.width / 2, self._bottom + svg.BOTTOM - 5, plot.xlabel, **label)
        if plot.ylabel:
            ax.text(11, svg.TOP + plot.height / 2, plot.ylabel, rotation=90, va="center", **label)

    def draw(self, mark):
        words, at = mark.css.split(), [self._place(mark.kind, each) for each in mark.at]
        colour = self._colour(words)
        if mark.kind in ("box", "cell"):
            for (x0, y0), (x1, y1) in at:
                patch = _rectangle((x0, y1), x1 - x0, y0 - y1, color=mark.fill or colour, lw=0, zorder=1)
                patch.set_alpha(1.0 if mark.fill else 0.75)
                self._ax.add_patch(patch)
            if mark.text:
                (x0, y0), (x1, y1) = at[0]
                ink = "#ffffff" if "ondark" in words else "#111111"
                middle = (x0 + x1) / 2, (y0 + y1) / 2 + 3.5
                self._ax.text(*middle, mark.text, fontsize=10, ha="center", color=ink, zorder=3)
        elif mark.kind in WIDTHS:
            lines = [at] if mark.kind == "line" else at
            width = 0.7 if "thin" in words else WIDTHS[mark.kind]
            dashes = (0, (4, 3)) if {"dashed", "truth", "expected"} & set(words) else "-"
            for line in lines:
                if line:
                    xs, ys = zip(*line, strict=True)
                    (drawn,) = self._ax.plot(xs, ys, color=colour, lw=width, ls=dashes, zorder=2)
                    drawn.set_clip_path(self._inside)
        else:
            filled = self._colours["ground"] if "warn" in words else colour
            size = 3.0 if mark.kind == "small" else 6.0
            style = {"ms": size, "mec": colour, "mfc": filled, "mew": 1.4, "zorder": 4, "ls": "none"}
            self._ax.plot(*zip(*at, strict=True), marker=MARKERS[mark.kind], **style)

    def _place(self, kind, at):
        """Units of a point, or of both ends of what has two."""
        plot = self._plot
        unit = lambda x, y: (self._left + plot.x(x), self._bottom - plot.y(y))
        if kind in ("box", "cell"):
            return unit(at[0], at[2]), unit(at[1], at[3])
        if kind == "across":
            return [(x, self._bottom - plot.y(at[1])) for x in (self._left, self._left + plot.width)]
        if kind == "down":
            return [(self._left + plot.x(at[0]), y) for y in (svg.TOP, self._bottom)]
        if kind == "interval":
            return [unit(at[0], at[1]), unit(at[2], at[1])]
        if kind == "error":
            return [unit(at[0], at[1]), unit(at[0], at[2])]
        return unit(*at)

    def _colour(self, words):
        for word in words:
            if word in ("exact", "truth"):
                return self._colours["exact"]
            if word[0] in "sc" and word[1:].isdigit():
                return self._colours[f"s{int(word[1:]) % 8}"]
        return self._colours["soft" if "expected" in words else "text"]


def _rectangle(*place, **style):
    from matplotlib.patches import Rectangle

    return Rectangle(*place, **style)
