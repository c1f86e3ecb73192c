"""Pieces of HTML that all parts of the report share; what came out of a file is escaped here."""

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Any

from lambda_hat.inspect.table import write_csv
from lambda_hat.system.notebook import text


def badge(word: str) -> str:
    """A status."""
    return f'<span class="badge {text(word)}">{text(word)}</span>'


def data_link(name: str, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A link that saves a table as the file `name`.csv; the page holds it."""
    file = io.StringIO()
    write_csv(list(header), list(map(list, lines)), file)
    data = base64.b64encode(file.getvalue().encode()).decode()
    return f'<a download="{text(name)}.csv" href="data:text/csv;base64,{data}">Its data as CSV</a>'


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
