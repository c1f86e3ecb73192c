"""bin/status.py --watch: one screen that renews itself, of a root where work is in progress."""

import math
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live
from rich.text import Text

from lambda_hat.commands import console
from lambda_hat.inspect import formats, overview
from lambda_hat.inspect.groups import varying
from lambda_hat.inspect.records import Record
from lambda_hat.inspect.states import JobStates, slurm_states
from lambda_hat.system.errors import UserError
from lambda_hat.system.terminal import printable, shown

SHORTEST = 0.2
"""Seconds between two looks, at least."""

ASK_EVERY = 30.0
"""Seconds after which SLURM is asked again: it serves a whole cluster."""

FIRST = ("running", "damaged", "failed", "stale", "queued", "missing", "old", "done")
"""States by what is shown first where the screen has no place for all."""

NARROW = 80
"""Columns below which an estimate is cut to few digits."""

LEAST_NOTE = 16
"""Letters of a note that are worth a column."""


def seconds(text: str) -> float:
    """The number of seconds in the value of --watch.

    Raises:
        UserError: where it is none, or too small.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not SHORTEST <= number < math.inf:
        raise UserError(
            f"--watch {text}: expected seconds, at least {SHORTEST:g}, such as --watch 5; write a root before --watch."
        )
    return number


def watch(title: object, look: Callable[[], Sequence[Record]], every: float) -> int:
    """Show what `look` finds until Ctrl-C; then say how many there are of each status.

    Arguments:
        title: of the screen.
        every: seconds between two looks.

    Returns:
        The exit code.

    Raises:
        UserError: where standard output is no terminal that can be drawn on.
    """
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        raise UserError("--watch draws on a terminal, and standard output is none: leave --watch out.")
    records, code = look(), 0
    screen = Console(highlight=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # by way of what gives the terminal back
    live = Live(console=screen, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    try:
        with live:
            while sys.stdout.isatty() and getattr(sys.stdout, "failure", None) is None:  # else the terminal is gone
                about = f"{title}  {time.strftime('%H:%M:%S')}  every {every:g} s, Ctrl-C ends"
                _draw(live, about, records, until=time.monotonic() + every)
                records = look()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    console.write(f"{title}: {overview.counted(records) or 'nothing matches'}")
    return code


def _draw(live, about, records, until):
    """Have these records on the screen up to a time, whatever size it is given meanwhile."""
    drawn = None
    while (left := until - time.monotonic()) > 0:
        size = live.console.size
        if size != drawn:
            drawn, lines = size, page(about, records, size.width, size.height)
            live.update(Text("\n", no_wrap=True, overflow="crop").join(lines), refresh=True)
        time.sleep(min(left, 0.25))


class Asked:
    """`slurm_states` that asks again only after ASK_EVERY seconds, or about other jobs."""

    def __init__(self) -> None:
        self._jobs: set[str] = set()
        self._known: JobStates = {}
        self._next = 0.0

    def __call__(self, jobs: Iterable[str]) -> JobStates:
        jobs = set(jobs)
        if not jobs <= self._jobs or time.monotonic() >= self._next:
            self._known, self._jobs, self._next = slurm_states(jobs), jobs, time.monotonic() + ASK_EVERY
        return self._known


# --- the page ---------------------------------------------------------------------------------------------------------


def page(about: str, records: Sequence[Record], width: int, height: int) -> list[Text]:
    """What is shown: how many there are of each status, and as many of them as there is place for, those in progress first."""
    counted = textwrap.wrap(shown(overview.counted(records)) or "nothing matches", max(width, 1))
    head = [Text(set_cell_size(shown(printable(about)), width), style="bold"), *map(Text, counted), Text()]
    records = sorted(records, key=lambda record: FIRST.index(record.state) if record.state in FIRST else len(FIRST))
    place = max(height - len(head) - 1, 0)  # but for the table's header
    fitting = records if len(records) <= place else records[: max(place - 1, 0)]
    more = overview.counted(records[len(fitting) :])
    rest = [Text(set_cell_size(shown(f"… and {more}"), width), style="dim")] if more else []
    return [*head, *_table(fitting, width), *rest][:height]


def _table(records, width):
    if not records:
        return []
    keys = [key for key in varying(records) if key != "sampler.name"]
    columns: dict[str, list[str]] = {
        "status": [record.word for record in records],
        "sampler": [record.sampler or "(target)" for record in records],
        **{key: [_setting(record, key) for record in records] for key in keys},
        "done": [_progress(record) for record in records],
        "λ̂ ± MCSE": [_estimate(record.current[0], record.current[1], width) for record in records],
        "ESS": [formats.number(record.current[2], ".0f") for record in records],
        "R-hat": [formats.number(record.current[3], ".4f") for record in records],
    }
    cells = {name: [_cell(text) for text in (name, *column)] for name, column in columns.items() if any(column)}
    widths, left = {}, width + 2
    for name in ("status", "sampler", "λ̂ ± MCSE", "done", *keys, "ESS", "R-hat"):  # the dearest first
        needed = max(map(cell_len, cells.get(name, ())), default=width)
        if needed + 2 <= left:
            widths[name] = needed
            left -= needed + 2
    notes = [_cell(text) for text in ("notes", *("; ".join(record.notes) for record in records))]
    lines = []
    for number, note in enumerate(notes):
        line = Text(no_wrap=True, overflow="crop", style="" if number else "bold")
        for name in (name for name in columns if name in widths):
            cell = cells[name][number]
            blank = " " * (widths[name] - cell_len(cell))
            is_text = name in ("status", "sampler")
            style = console.COLOURS.get(cell, "") if name == "status" else ""
            line.append(f"{'  ' if line else ''}{'' if is_text else blank}")
            line.append(cell, style=style).append(blank if is_text else "")
        if left > LEAST_NOTE:
            line.append(f"  {set_cell_size(note, left - 2)}")
        lines.append(line)
    return lines


def _cell(text):
    return shown(printable(text).replace("\n", " "))


def _setting(record, key):
    return formats.setting(record.settings.get(key)) if record.settings else "?"


def _estimate(mean, error, width):
    """λ̂ ± its error; on a narrow screen to four digits, however small the error is."""
    text = formats.estimate(mean, error)
    return text if width >= NARROW or mean is None or not error or len(text) <= 16 else f"{mean:.4g} ± {error:.1g}"


def _progress(record):
    attempt = record.attempt
    if record.state != "running" or attempt is None:
        return ""
    if attempt.draw is not None and attempt.draws:
        return f"{100 * attempt.draw / attempt.draws:.0f} %"
    return attempt.phase or ""
