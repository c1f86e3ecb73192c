"""What is seen of a run while it works: a line that renews itself on a terminal, a line every half minute in a log."""

import contextlib
import logging
import math
import shutil
import sys
import time

from lambda_hat.analysis import verdict
from lambda_hat.jobs import loggers

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
        self._sampler, self._pace, self._live = sampler, Pace(sampler), sys.stdout.isatty()
        self._visible, self._said, self._consoles = False, time.monotonic(), []

    def __enter__(self):
        self._consoles = [h for h in logging.getLogger().handlers if type(h) is logging.StreamHandler]
        for handler in self._consoles if self._live else ():
            handler.addFilter(self._make_way)
        return self

    def __exit__(self, *_):
        for handler in self._consoles if self._live else ():
            handler.removeFilter(self._make_way)
        self._erase()

    def __call__(self, report):
        """Show a report, which is what progress.json says."""
        text = describe(self._sampler.name, report, self._pace(report))
        if self._live:
            self._erase()
            sys.stdout.write(text[: shutil.get_terminal_size().columns - 1])
            sys.stdout.flush()
            self._visible = True
        if report.get("phase") == "sample" and time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            self._log(text)

    def _log(self, text):
        record = log.makeRecord(log.name, logging.INFO, __file__, 0, "  %s", (text,), None)
        for handler in logging.getLogger().handlers:
            if not (self._live and handler in self._consoles):
                handler.handle(record)

    def _make_way(self, record):
        self._erase()
        return True

    def _erase(self):
        if self._visible:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()
            self._visible = False


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
