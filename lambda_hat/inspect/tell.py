"""What the study's commands have in common: their command lines, their tables, how they end."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

from lambda_hat import store
from lambda_hat.inspect import completion
from lambda_hat.system import terminal
from lambda_hat.system.errors import UserError

RUNS = Path("runs")
"""Where results are unless said otherwise."""

COLOURS = {
    "ok": "green",
    "warn": "yellow",
    "bad": "red",
    "damaged": "bold red",
    "failed": "red",
    "running": "cyan",
    "queued": "blue",
    "stale": "magenta",
    "missing": "dim",
}
"""Of a status, on a terminal."""


class Table(NamedTuple):
    """A table of words.

    Attributes:
        header: the columns' names.
        rows: lists of words, as many as there are columns.
        left: names of the columns that are not aligned to the right.
    """

    header: list
    rows: list
    left: tuple = ()


def parser(doc, **options):
    """A command's argument parser: where to look, filters, `--json`. `doc` may name the program as %(prog)s."""
    head, _, rest = doc.partition("\n\n")
    made = argparse.ArgumentParser(
        prog=terminal.program(),
        description=head,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **options,
    )
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def add_words(parser, also=""):
    """Take the root and filters, in any order."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="root | key=value[,value]",
        help=f"where to look (runs unless given), and what to keep: status=bad sampler=hmc data.n_data=500 …{also}",
    )


def split(words, default=RUNS):
    """The root (`default` where none is given) and the filters among a command line's words.

    Raises:
        UserError: where there are two roots.
    """
    roots = [word for word in words if "=" not in word]
    filters = [word.partition("=") for word in words if "=" in word]
    roots += [value for key, _, value in filters if key in ("root", "store.root")]
    if len(roots) > 1:
        raise UserError(f"{' and '.join(roots)}: one root at a time; filters are written key=value.")
    chosen = [(key, _values(value)) for key, _, value in filters if key not in ("root", "store.root")]
    return Path(roots[0]) if roots else default, chosen


def _values(text):
    """The values that commas part, but for commas in brackets: `a,[1,2]` are two."""
    values, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    return values


def run(act, parser, argv=None):
    """Do what a command line asks and end the process: 0, 1 where `act` says so or a user can mend it, 2 for a wrong command line.

    Arguments:
        act: called with the parsed arguments; returns the exit code (None is 0).
    """

    def command():
        try:
            if sys.argv[1:] == completion.ASKED:
                completion.print_choices(parser, RUNS)
                return 0
            return act(parser.parse_intermixed_args(argv))
        except UserError as error:
            sys.exit(str(error))
        except KeyboardInterrupt:
            return 130

    terminal.run(command)


def write_json(value):
    """Print JSON; what is not finite is null."""
    print(json.dumps(store.finite(value), indent=2, ensure_ascii=False))


def write(*blocks):
    """Print strings and `Table`s: drawn by rich on a terminal, plain lines elsewhere."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        _write_rich(blocks)
    else:
        print("\n".join(_plain(block) if isinstance(block, Table) else block for block in blocks))


def _plain(table):
    """Aligned columns; the last is not padded."""
    lines = [[terminal.shown(word) for word in line] for line in (table.header, *table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]
    padded = (
        "  ".join(
            word.ljust(width) if name in table.left else word.rjust(width)
            for name, word, width in zip(table.header, line, widths, strict=True)
        )
        for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def _write_rich(blocks):
    from rich import box
    from rich.console import Console
    from rich.table import Table as Drawn
    from rich.text import Text

    console = Console(highlight=False)
    for block in blocks:
        if not isinstance(block, Table):
            console.print(Text(block))
            continue
        drawn = Drawn(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for name in block.header:
            drawn.add_column(Text(name), justify="left" if name in block.left else "right", overflow="fold")
        for line in block.rows:
            drawn.add_row(*(Text(word, style=COLOURS.get(word, "")) for word in line))
        console.print(drawn)


def estimate(mean, error):
    """λ̂ ± its error, to two digits of the error; `?` where that is not known."""
    if mean is None:
        return "–"
    if not error:
        return f"{mean:.5g} ± ?"
    digits = max(0, 1 - int(f"{error:e}".partition("e")[2]))
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def interval(low, high):
    """An interval in brackets; a dash where there is none."""
    return "–" if low is None or high is None else f"[{low:.5g}, {high:.5g}]"


def number(value, pattern):
    """A number, or a dash for none."""
    return "–" if value is None else format(value, pattern)


def short(value):
    """A number to three digits, without an exponent below a million."""
    return f"{float(f'{value:.3g}'):g}"


def size(count):
    """Bytes as one reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
