"""Pieces of HTML that all parts of the report share; what came out of a file is escaped here."""

import base64
import io
import itertools
import re
from collections.abc import Iterable, Sequence
from html import unescape
from typing import Any

from lambda_hat.inspect.table import write_csv
from lambda_hat.system.notebook import text


def badge(word: str) -> str:
    """A status."""
    return f'<span class="badge {text(word)}">{text(word)}</span>'


def figure(title: str, drawing: str) -> str:
    """A drawing with a caption."""
    return f"<figure><figcaption>{text(title)}</figcaption>{drawing}</figure>"


def data_link(name: str, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A link that saves a table as the file `name`.csv; the page holds it."""
    file = io.StringIO()
    write_csv(list(header), list(map(list, lines)), file)
    data = base64.b64encode(file.getvalue().encode()).decode()
    return f'<a download="{text(name)}.csv" href="data:text/csv;base64,{data}">Its data as CSV</a>'


def plots_of(page: str) -> dict[str, str]:
    """The plots of a page as SVG files of their own, by names made of their target and caption; they are light."""
    style = re.sub(
        r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", page[page.index("<style>") + 7 : page.index("</style>")]
    )
    start = '<svg xmlns="http://www.w3.org/2000/svg" class="plot"'
    made: dict[str, str] = {}
    target = ""
    for found in re.finditer(
        r'data-target="(\w+)"|<figure><figcaption>(.*?)</figcaption>(.*?)</figure>', page, re.DOTALL
    ):
        if found[1]:
            target = f"{found[1]}_"
            continue
        words = target + re.sub(r"\W+", "_", unescape(re.sub(r"<[^>]*>", "", found[2])))[:40].strip("_")
        for plot in re.findall(r'<svg class="plot".*?</svg>.*?</svg>', found[3], re.DOTALL):  # an svg within each
            name = next(f"{words}_{i}" for i in itertools.count(1) if f"{words}_{i}" not in made)
            opened, closed, rest = plot.partition(">")
            opened = opened.replace('<svg class="plot"', start) + ' style="background: white; font-family: sans-serif"'
            made[name] = f"{opened}{closed}<style>{style}</style>{rest}\n"
    return made


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and what they are."""
    return "<dl>" + "".join(f"<dt>{text(a)}</dt><dd>{text(b)}</dd>" for a, b in pairs) + "</dl>"


def table(header: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> str:
    """A table whose cells are HTML; the first `left` columns are text, and a line of one cell is a heading within it."""
    side = lambda i: ' class="w"' if i < left else ""
    head = "".join(f"<th{side(i)}>{text(name)}</th>" for i, name in enumerate(header))
    body = "".join(
        f'<tr><td class="w group" colspan="{len(header)}"><div>{line[0]}</div></td></tr>'
        if len(line) == 1
        else "<tr>" + "".join(f"<td{side(i)}>{cell}</td>" for i, cell in enumerate(line)) + "</tr>"
        for line in lines
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
