"""Pieces of HTML that all parts of the report share; what came out of a file is escaped here."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from lambda_hat.system.terminal import printable


def text(value: Any) -> str:
    """Text for HTML; what came out of a file may hold anything."""
    return escape(printable(value), True)


def badge(word: str) -> str:
    """A status."""
    return f'<span class="badge {text(word)}">{text(word)}</span>'


def figure(title: str, drawing: str) -> str:
    """A drawing with a caption."""
    return f"<figure><figcaption>{text(title)}</figcaption>{drawing}</figure>"


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
