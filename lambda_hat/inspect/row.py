"""One run, or a target without any, as the study's commands see it, and how its settings are written."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

STATES = ("done", "damaged", "running", "queued", "failed", "stale", "missing")
"""In the order in which they are counted; a finished run's verdict (ok, warn, bad) is told beside `done`."""

TARGET, RUN = re.compile(r"tgt_[0-9a-f]{12}"), re.compile(r"run_([a-z]+)_[0-9a-f]{8}")


@dataclass
class Row:
    """One run, or a target that has none.

    Attributes:
        state: one of STATES.
        stage: `target` or `run`.
        target_id, run_id: its names.
        directory: where its result is or would be.
        settings: dotted key → value, as far as they are known.
        meta: the target's meta.json; empty where it is not finished.
        result: the run's analysis.json; empty where it is not finished.
        work: of work under way: owner.json, progress.json and submitted.json, put together; of failed work its record.
        notes: what is to be said about it, in words.
    """

    state: str
    stage: str
    target_id: str
    run_id: str | None
    directory: Path
    settings: dict = field(default_factory=dict)
    meta: dict = field(default_factory=dict)
    result: dict = field(default_factory=dict)
    work: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)

    @property
    def name(self):
        """As in work/ and failures/."""
        return self.target_id if self.stage == "target" else f"{self.target_id}.{self.run_id}"

    @property
    def short(self):
        """The directory as seen from <root>/targets/."""
        return self.name.replace(".", "/")

    @property
    def sampler(self):
        """The sampler's name; None for a target."""
        return RUN.fullmatch(self.run_id)[1] if self.run_id else None

    @property
    def verdict(self):
        """ok, warn or bad; None where there is no result."""
        return self.result.get("status")

    @property
    def word(self):
        """The state in one word, a result's verdict in its place."""
        return self.verdict if self.state == "done" and self.verdict else self.state

    def values(self, key):
        """What a filter on a key is compared with."""
        if key in ("status", "state", "verdict"):
            return [self.state, self.verdict]
        named = {"target_id": self.target_id, "run_id": self.run_id, "sampler.name": self.sampler, "stage": self.stage}
        return [named[key] if key in named else self.settings.get(key)]


def flat(groups):
    """Nested settings as dotted key → value; what is null is left out."""
    settings = {}
    for group, values in groups.items():
        if isinstance(values, dict):
            settings |= {f"{group}.{key}": value for key, value in values.items() if value is not None}
        elif values is not None:
            settings[group] = values
    return settings


def show(value):
    """A setting as one writes it on a command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(show, value))}]"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def duration(seconds):
    """Seconds, minutes or hours, whichever reads best."""
    if seconds is None:
        return "–"
    for unit, size, most in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, math.inf)):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}"
