"""Shared by the commands that read a store: command lines, tables, exit codes."""

import argparse
import gc
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from lambda_hat import store
from lambda_hat.commands import completion
from lambda_hat.inspect import formats
from lambda_hat.inspect.filters import Filter, select
from lambda_hat.inspect.records import Record
from lambda_hat.inspect.scan import scan
from lambda_hat.inspect.states import JobStates, slurm_states
from lambda_hat.system import terminal
from lambda_hat.system.errors import UserError

RUNS = Path("runs")
"""Where results are by default."""

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
    "old": "magenta",
}
"""Of a status, on a terminal."""


class Table(NamedTuple):
    """A table of text.

    Attributes:
        header: the columns' names.
        rows: as many cells as there are columns.
        left: names of the columns that are aligned to the left.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[str] = ()


def parser(doc: str) -> argparse.ArgumentParser:
    """A command's argument parser: where to look, filters, `--json`. `doc` may name the program as %(prog)s."""
    head, _, rest = doc.partition("\n\n")
    made = argparse.ArgumentParser(
        prog=terminal.program(),
        description=head,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def add_words(parser: argparse.ArgumentParser, also: str = "") -> None:
    """Take the root and filters, in any order."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="root | key=value[,value]",
        help=f"where to look (runs unless given), and what to keep: status=bad sampler=hmc data.n_data=500 …{also}",
    )
    parser.add_argument(
        "--root", metavar="DIR", help="where to look, for paths that contain = or spaces; also root=DIR"
    )


_FILTER = re.compile(r"[A-Za-z_][\w.]*=")
"""How a filter begins; anything else is a path, such as /data/a=b or ./a=b."""

_ROOT_KEYS = ("root", "store.root")


def split(arguments: argparse.Namespace) -> tuple[Path, list[Filter]]:
    """The root and the filters of a command line.

    Raises:
        UserError: where there are two roots, or one is empty.
    """
    root, filters = given(arguments)
    return root or RUNS, filters


def given(arguments: argparse.Namespace) -> tuple[Path | None, list[Filter]]:
    """The root, None where the command line names none, and the filters.

    Raises:
        UserError: where there are two roots, or one is empty, or a word may be a filter or a root.
    """
    for word in arguments.words:
        if _FILTER.match(word) and os.path.isdir(os.path.join(word, "targets")):
            raise UserError(f"{word} is a directory and reads like a filter: write ./{word} for the directory.")
    chosen = [word.partition("=") for word in arguments.words if _FILTER.match(word)]
    roots = [word for word in arguments.words if not _FILTER.match(word)]
    roots += [_unquoted(value) for key, _, value in chosen if key in _ROOT_KEYS]
    roots += [arguments.root] if arguments.root is not None else []
    if len(roots) > 1:
        raise UserError(f"{' and '.join(roots)}: one root at a time; filters are written key=value.")
    if roots and not roots[0].strip():
        raise UserError("the root is empty: name the directory that holds targets/.")
    kept: list[Filter] = [(key, _values(value)) for key, _, value in chosen if key not in _ROOT_KEYS]
    return Path(roots[0]).expanduser() if roots else None, kept


def filters(words: Sequence[str]) -> list[Filter]:
    """The filters that words say.

    Raises:
        UserError: for a word that is none.
    """
    if not words or (wrong := [word for word in words if not _FILTER.match(word)]):
        got = wrong[0] if words else "nothing"
        raise UserError(f"expected filters such as model.widths=[4] sampler=hmc, parted by spaces; got {got}.")
    return [(key, _values(value)) for key, _, value in (word.partition("=") for word in words)]


def options(words: Sequence[Filter], names: Sequence[str]) -> tuple[dict[str, Sequence[str]], list[Filter]]:
    """Words that are options of a command, such as `groupby=sampler`, by their names; and the filters that are left.

    Raises:
        UserError: for an option that is given twice, or has no value.
    """
    found = {name: values for name, values in words if name in names}
    for name, values in found.items():
        if sum(name == each for each, _ in words) > 1:
            raise UserError(f"{name}= is given twice: give it once.")
        if not all(value.strip() for value in values):
            raise UserError(f"{name}= has no value; give one, or leave it out.")
    return found, [(name, values) for name, values in words if name not in names]


def single(options: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Options that take one value each.

    Raises:
        UserError: where one has several.
    """
    for name, values in options.items():
        if len(values) > 1:
            raise UserError(f"{name}={','.join(values)}: {name}= takes one setting or column.")
    return {name: values[0] for name, values in options.items()}


def _unquoted(text):
    """Without the quotes that the same words need on sample's command line."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


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


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Take a sweep's overrides."""
    parser.add_argument(
        "-m",
        "--sweep",
        nargs="+",
        metavar="override",
        help="a sweep's overrides, as for sampling: shows each combination, whether or not it has been begun",
    )


def gather(arguments: argparse.Namespace) -> tuple[Path, list[Record]]:
    """The root and the records that a command line asks for; with a sweep those of its combinations, begun or not."""
    root, look = looking(arguments)
    return root, look()


def looking(
    arguments: argparse.Namespace, job_states: Callable[[Iterable[str]], JobStates] = slurm_states
) -> tuple[Path, Callable[[], list[Record]]]:
    """The root, and what reads the records that a command line asks for, as often as it is called.

    Arguments:
        job_states: asked for the states of SLURM jobs.
    """
    root, filters = split(arguments)
    if not arguments.sweep:
        return root, lambda: select(scan(root, job_states), filters)
    from lambda_hat.commands import sweep

    root, combinations = sweep.records(arguments.sweep, given(arguments)[0])

    def look():
        known = {record.name: record for record in scan(root, job_states)} if root.is_dir() else {}
        return select([known.get(record.name, record) for record in combinations], filters)

    return root, look


def run(act: Callable[[argparse.Namespace], int | None], parser: argparse.ArgumentParser) -> NoReturn:
    """Do what the command line asks and end the process: exit code 0, 1 for a user's mistake, 2 for a wrong command line.

    Arguments:
        act: called with the parsed arguments; returns the exit code (None is 0).
    """

    # Thousands of records are no garbage, and looking through them takes a tenth of the time.
    gc.set_threshold(200_000, 50, 100)

    def command():
        try:
            if sys.argv[1:] == completion.QUERY:
                completion.print_choices(parser, RUNS)
                return 0
            return act(parser.parse_intermixed_args())
        except UserError as error:
            sys.exit(terminal.printable(str(error)))
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            sys.exit(
                f"{where}{error.strerror or error}. Finished work is kept; check the permissions and free space "
                "there, and run the command again."
            )
        except KeyboardInterrupt:
            return 130

    terminal.run(command)


def write_json(value: Any) -> None:
    """Print JSON; numbers that are not finite become null."""
    text = json.dumps(store.finite(value), indent=2, ensure_ascii=False)
    print(re.sub(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text))


def write(*blocks: str | Table) -> None:
    """Print text and `Table`s: drawn by rich on a terminal, plain lines elsewhere."""
    blocks = tuple(_printable(block) for block in blocks)
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        _write_rich(blocks)
    else:
        print("\n".join(_plain(block) if isinstance(block, Table) else block for block in blocks))


def _printable(block):
    if isinstance(block, str):
        return terminal.printable(block)
    lines = [[terminal.printable(cell).replace("\n", " ") for cell in line] for line in (block.header, *block.rows)]
    return Table(lines[0], lines[1:], block.left)


def _plain(table):
    """Aligned columns; the last is not padded."""
    lines = [[terminal.shown(word) for word in line] for line in (table.header, *table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]
    padded = (
        "  ".join(
            cell.ljust(width) if name in table.left else cell.rjust(width)
            for name, cell, width in zip(table.header, line, widths, strict=True)
        )
        for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def _narrowest(table):
    """The columns of a terminal that a table takes where no word is broken."""
    columns = zip(table.header, *table.rows, strict=True)
    return sum(2 + max(len(word) for cell in column for word in ["", *cell.split()]) for column in columns) - 2


def _listed(table, width):
    """A table for a terminal that is too narrow: a paragraph for each row, with the names of all that is known of it."""
    from rich.text import Text

    for row in table.rows:
        paragraph, used = Text(), 0
        for name, cell in zip(table.header, row, strict=True):
            if cell in ("", formats.DASH):
                continue
            piece = Text.assemble((f"{name} ", "dim"), (cell, COLOURS.get(cell, "")))
            if used and used + 2 + piece.cell_len > width:
                paragraph.append("\n  ")
                used = 2
            elif used:
                paragraph.append("  ")
                used += 2
            paragraph.append_text(piece)
            used += piece.cell_len
        yield paragraph


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
        if _narrowest(block) > console.width:
            console.print(*_listed(block, console.width), sep="\n")
            continue
        drawn = Drawn(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for name in block.header:
            drawn.add_column(Text(name), justify="left" if name in block.left else "right", overflow="fold")
        for line in block.rows:
            drawn.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in line))
        console.print(drawn)
