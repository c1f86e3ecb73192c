"""How results look in a notebook: tables of HTML, in which whatever a file or a user named is escaped."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from lambda_hat.system.terminal import printable

COLOURS = {"ok": "#1a7f37", "warn": "#9a6700", "bad": "#c4231c", "failed": "#c4231c", "damaged": "#c4231c"}
"""Of statuses, legible on light and dark pages."""


def table(
    rows: Mapping[str, str], status: str | None = None, folded: Mapping[str, Iterable[tuple[str, str]]] | None = None
) -> str:
    """A table of names and values.

    Arguments:
        rows: name → value, text; rows without a value are left out.
        status: ok, warn, bad or a state, which colours the row of that name.
        folded: title → further rows, which are seen once the title is clicked.
    """
    made = f"<table>{''.join(_row(name, value, status) for name, value in rows.items() if value)}</table>"
    for title, more in (folded or {}).items():
        lines = "".join(_row(name, value, None) for name, value in more)
        made += f"<details><summary>{text(title)}</summary><table>{lines}</table></details>" if lines else ""
    return made


def _row(name, value, status):
    colour = COLOURS.get(status) if status and name == "status" else None
    style = "text-align: left" + (f"; color: {colour}; font-weight: 600" if colour else "")
    return f'<tr><th style="text-align: left">{text(name)}</th><td style="{style}">{text(value)}</td></tr>'


def text(value: Any) -> str:
    """Text for HTML; what came out of a file may hold anything."""
    return escape(printable(value), True)
