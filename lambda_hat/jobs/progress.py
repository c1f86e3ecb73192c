"""What is seen of a run while it works: a bar that renews itself on a terminal, a line every half minute in a log."""

import contextlib
import logging
import math
import os
import sys
import time

from lambda_hat.analysis import verdict
from lambda_hat.jobs import loggers
from lambda_hat.system import terminal

EVERY = 30.0
"""Seconds between two lines in a log."""

log = logging.getLogger(__name__)


@contextlib.contextmanager
def shown(job, lease):
    """While in this context, what is reported to a job's lease is shown, and given to the experiment logger that was chosen.

    Arguments:
        job: `pipeline.Job`.
        lease: `lease.Lease`.
    """
    config = job.config
    lease.report(settings=job.settings)
    if job.stage != "run":
        yield
        return
    with contextlib.ExitStack() as stack:
        if config.runtime.progress:
            lease.watchers.append(stack.enter_context(Line(config.sampler)))
        if config.logger is not None:
            lease.watchers.append(stack.enter_context(loggers.open_for(job)))
        yield


class Line:
    """Shows each report of how far a run is."""

    def __init__(self, sampler):
        self._sampler, self._pace = sampler, Pace(sampler)
        self._said, self._consoles = time.monotonic(), []
        self._bar = _Bar() if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else None

    def __enter__(self):
        if self._bar:
            self._consoles = [h for h in logging.getLogger().handlers if type(h) is logging.StreamHandler]
        for handler in self._consoles:
            handler.addFilter(self._make_way)
        return self

    def __exit__(self, *_):
        for handler in self._consoles:
            handler.removeFilter(self._make_way)
        if self._bar:
            self._bar.hide()

    def __call__(self, report):
        """Show a report, which is what progress.json says."""
        left = self._pace(report)
        if self._bar:
            is_drawing = report.get("phase") == "sample" and report.get("draw") is not None
            share = report["draw"] / max(1.0, self._pace.needed(report)) if is_drawing else None
            self._bar.show(share, left, describe(self._sampler.name, report, None))
        if report.get("phase") == "sample" and time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            self._log(describe(self._sampler.name, report, left))

    def _log(self, text):
        record = log.makeRecord(log.name, logging.INFO, __file__, 0, "  %s", (text,), None)
        for handler in logging.getLogger().handlers:
            if handler not in self._consoles:
                handler.handle(record)

    def _make_way(self, record):
        if self._bar:
            self._bar.hide()
        return True


class _Bar:
    """A line of rich.progress, drawn at each report and gone while a line of the log is written; it needs no thread."""

    WIDTH = 16

    def __init__(self):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self._progress = Progress(
            BarColumn(self.WIDTH, table_column=Column(min_width=self.WIDTH)),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=Console(highlight=False),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=None)
        self._visible = False

    def show(self, share, left, text):
        """Draw it.

        Arguments:
            share: of the draws that the error asked for takes; None before drawing.
            left: seconds, or None.
            text: what else is known.
        """
        if share is not None and left is not None:
            text = f"{_clock(left)} left  {text}"
        total, done = (None, 0.0) if share is None else (1.0, min(share, 1.0))
        self._progress.update(self._task, total=total, completed=done, description=terminal.shown(text))
        if self._visible:
            self._progress.refresh()
            return
        self._progress.start()
        self._progress.console.show_cursor(True)  # a process that is killed cannot give it back
        self._visible = True

    def hide(self):
        """Take it away."""
        if self._visible:
            self._progress.stop()
            self._visible = False


def _clock(seconds):
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class Pace:
    """Seconds that drawing still takes, from the draws so far and the error that they have."""

    def __init__(self, sampler):
        self._sampler, self._first = sampler, None

    def __call__(self, report):
        """Seconds left; None where nothing can be said yet."""
        draw, now = report.get("draw"), time.monotonic()
        if draw is None:
            return None
        if self._first is None:
            self._first = draw, now
        begun, began = self._first
        if draw <= begun:
            return None
        return (self.needed(report) - draw) * (now - began) / (draw - begun)

    def needed(self, report):
        """Draws that will have been made when drawing stops, where the error goes on falling with their square root."""
        draw, most, target = report["draw"], report["draws"], getattr(self._sampler, "mcse_target", None)
        llc, mcse, ess = (report.get(key) or math.nan for key in ("llc", "mcse", "ess"))
        wanted = (report.get("ess_wanted") or verdict.ESS) / ess
        enough = draw * max((mcse / (target * abs(llc))) ** 2, wanted) if target else math.nan
        return min(most, max(draw, enough)) if math.isfinite(enough) else most


NUMBERS = (
    ("llc", "λ̂ = {:.5g}"),
    ("mcse", "± {:.2g}"),
    ("ess", " ESS {:.0f}"),
    ("rhat", " R-hat {:.4f}"),
    ("acceptance", " acceptance {:.2f}"),
)


def describe(name, report, left):
    """A report in a line.

    Arguments:
        name: of the sampler.
        report: what progress.json says.
        left: seconds left, or None.
    """
    if report.get("phase") != "sample":
        return f"{name}: {report.get('phase')} …"
    words = [f"{name}: {report['draw']}/{report['draws']} draws"]
    for key, pattern in NUMBERS:
        value = report.get(key)
        if value is not None and math.isfinite(value):
            words.append(pattern.format(value))
    if left is not None:
        words.append(f" {left:.0f} s left")
    return " ".join(words)
