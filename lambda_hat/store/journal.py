"""Work that stopped is resumed where it was, bit by bit the same: a journal of what has been computed, in order.

Work is deterministic, so to resume is to do it again with every step that the journal has taken from there in place of computed. A
step's result is a dictionary of arrays; part of it may be a state that only the next step needs, of which the last one is kept.

    <directory>/identity.json       what the work was; a journal of anything else is not used
    <directory>/00007.npz           the result of step 7, and the hashes of step 6 and of its own state
    <directory>/00007.state.npz     its state, until that of a later step is there
    <directory>/../aside/           the last journal that could not be used
"""

import contextlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lambda_hat.store.files import (
    parse_object,
    read_bytes,
    read_sealed_arrays,
    replace_file,
    seal_of,
    write_sealed_arrays,
)
from lambda_hat.system import stopping
from lambda_hat.system.errors import Deposed, StoreError

log = logging.getLogger(__name__)

WORTH_KEEPING = 5.0
"""Seconds of work below which a failure leaves no checkpoint."""

MISFITS = (TypeError, KeyError, IndexError, AttributeError, ValueError)
"""What work raises that is given steps of other work than its own."""

Result = TypeVar("Result")
Arrays = dict[str, np.ndarray]


class JournalError(StoreError):
    """A journal cannot be used."""


class Journal:
    """What has been computed so far. A context: leaving it by a signal, Ctrl-C or an error keeps it.

    Arguments:
        directory: where it is kept; None for nowhere.
        identity: plain data that differs wherever results might.
        minutes: how often it is written.
        say: called with a line where work is resumed from it, or cannot be.
        check: called before each write; raises `Deposed` where another process has taken over.
    """

    def __init__(
        self,
        directory: Path | str | None = None,
        identity: Any = None,
        minutes: float = np.inf,
        say: Callable[[str], Any] = lambda line: None,
        check: Callable[[], None] = lambda: None,
    ):
        self._directory, self._interval = Path(directory) if directory else None, 60 * minutes
        self._identity, self._say, self._check = json.dumps(identity, sort_keys=True), say, check
        self._lock = threading.RLock()  # a thread that ends the process writes too
        self._steps = self._read() if self._directory else []
        self._next, self._written, self._resumed = 0, len(self._steps), len(self._steps)
        self._saved = time.monotonic()
        if self._steps:
            say(f"going on from a checkpoint of {len(self._steps)} steps")

    def __enter__(self):
        self._saving = stopping.saving(self._save)
        self._saving.__enter__()
        return self

    def __exit__(self, kind, error, trace):
        self._saving.__exit__(None, None, None)
        if kind is None:
            return
        if not issubclass(kind, Exception) or time.monotonic() - self._saved > WORTH_KEEPING:
            self._save()

    def _save(self):
        """Write, on the way out: what led there says more than why this may fail."""
        with contextlib.suppress(OSError, Deposed):
            self.write()

    def attempt(self, work: Callable[[], Result]) -> Result:
        """What `work()` gives, which takes its steps from here; from the beginning where it cannot use them."""
        try:
            return work()
        except (JournalError, *MISFITS) as error:
            untouched = self._resumed and len(self._steps) == self._resumed
            if not isinstance(error, JournalError) and not untouched:
                raise
            with self._lock:
                self._set_aside(f"the checkpoint cannot be resumed from ({type(error).__name__}: {error})")
                self._steps, self._next, self._written, self._resumed = [], 0, 0, 0
        return work()

    def has_next(self) -> bool:
        """Whether the next step is there: then what is decided before it was decided to go on."""
        return self._next < len(self._steps)

    def step(self, name: str, compute: Callable[[], dict[str, Any]]) -> Arrays:
        """The result of a step: a dictionary of arrays, as `compute()` gives it unless it is in the journal."""
        return self.passing(name, lambda: ({k: np.asarray(v) for k, v in compute().items()}, {}))[0]

    def passing(
        self, name: str, compute: Callable[[], tuple[dict[str, Any], dict[str, Any]]], follows: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The result and the state of a step, two dictionaries of arrays and numbers, as `compute()` gives them.

        Arguments:
            follows: whether the state takes the place of the step's before, which then is None when it comes from the journal.

        Raises:
            Stopped: where a signal has come; the journal is written first.
            Deposed: where another process has taken over.
            JournalError: where the journal has another step in this one's place.
        """
        if self.has_next():
            step = self._steps[self._next]
            if step.name != name:
                raise JournalError(f"its step {self._next} is {step.name}, expected {name}")
            self._next += 1
            return step.result, step.state
        stopping.check()
        result, state = compute()
        if self._directory:
            with self._lock:
                if follows:
                    self._steps[-1].state = None
                self._steps.append(_Step(name, result, state))
                self._next += 1
            if time.monotonic() - self._saved >= self._interval:
                self.write()
            stopping.check()
        return result, state

    def write(self) -> None:
        """Keep all steps so far on the disk.

        Raises:
            Deposed: where another process has taken over.
        """
        with self._lock:
            if self._directory is None or self._written >= len(self._steps):
                return
            self._check()
            try:
                self._write()
            except FileNotFoundError:
                self._check()  # it was renamed, as happens to a deposed owner's
                if self._written == 0:
                    self._directory.mkdir(parents=True)
                    self._write()
                elif not self._directory.is_dir():
                    log.warning("%s is gone: the work goes on without a checkpoint", self._directory)
                    self._directory = None
                else:
                    raise

    def _write(self):
        replace_file(self._kept_in / "identity.json", lambda file: file.write(self._identity.encode()))
        for number in range(self._written, len(self._steps)):
            step = self._steps[number]
            state = None
            if step.state:
                state = seal_of({name: np.asarray(value) for name, value in step.state.items()})
                replace_file(
                    self._path(number, ".state"), lambda file, step=step: write_sealed_arrays(file, step.state)
                )
            after = self._steps[number - 1].seal if number else None
            header = {"name": step.name, "state": state, "is_superseded": step.state is None, "after": after}
            arrays = {name: np.asarray(value) for name, value in step.result.items()}
            arrays[_HEADER] = np.array(json.dumps(header))
            replace_file(self._path(number), lambda file, arrays=arrays: write_sealed_arrays(file, arrays))
            step.result, step.seal = None, seal_of(arrays)
            self._written = number + 1
        for number, step in enumerate(self._steps):
            if step.state is None:
                self._path(number, ".state").unlink(missing_ok=True)
        self._saved = time.monotonic()

    def _set_aside(self, why):
        """Move the journal away, and say so: nobody's work is deleted for being of no use today."""
        directory = self._kept_in
        aside = directory.with_name("aside")
        with contextlib.suppress(OSError):
            if os.listdir(directory):
                self._check()
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(directory, aside)
                directory.mkdir()
                self._say(f"{why}: it is now in {aside}; starting over")

    def _forget(self, first):
        """Remove what is kept of this step and all after it."""
        for path in self._kept_in.glob("[0-9]*.npz"):
            if path.name[:5].isdecimal() and int(path.name[:5]) < first:
                continue
            try:
                path.unlink(missing_ok=True)
            except OSError:
                shutil.rmtree(path, ignore_errors=True)

    @property
    def _kept_in(self) -> Path:
        assert self._directory is not None, "this journal is kept nowhere"
        return self._directory

    def _path(self, number, part=""):
        return self._kept_in / f"{number:05d}{part}.npz"

    def _read(self):
        """The steps that are there, as far as they lead to one that can be resumed from."""
        if not self._kept_in.is_dir() or not os.listdir(self._kept_in):
            return []
        why = self._difference()
        steps, usable = [], 0
        while why is None and os.path.lexists(self._path(len(steps))):
            number = len(steps)
            try:
                step = self._read_step(number, steps[-1].seal if steps else None)
            except (StoreError, ValueError, KeyError, TypeError, RecursionError) as error:
                self._say(f"{self._path(number)} is damaged: resuming from before it ({error})")
                break
            steps.append(step)
            if step.state is not None:
                usable = len(steps)
        if not usable:
            self._set_aside(why or "the checkpoint is damaged")
        self._forget(usable)
        return steps[:usable]

    def _difference(self):
        """How the journal's identity differs from that of this work; None where it does not."""
        path = self._kept_in / "identity.json"
        try:
            content = read_bytes(path)
            if content == self._identity.encode():
                return None
            found, expected = parse_object(path, content), json.loads(self._identity)
        except StoreError:
            return "the checkpoint does not say what it is of"
        differing = [key for key in {**expected, **found} if found.get(key) != expected.get(key)]
        return f"the checkpoint is of other {', '.join(differing) or 'work'}"

    def _read_step(self, number, after):
        result = read_sealed_arrays(self._path(number))
        seal = seal_of(result)
        header = json.loads(str(result.pop(_HEADER)))
        if header["after"] != after:
            raise ValueError("the step before it is another one")
        if header["is_superseded"]:
            return _Step(header["name"], result, None, seal)
        if header["state"] is None:
            return _Step(header["name"], result, {}, seal)
        path, state = self._path(number, ".state"), None
        if os.path.lexists(path):
            state = read_sealed_arrays(path)
            if seal_of(state) != header["state"]:
                raise ValueError(f"{path} is the state of another step")
        return _Step(header["name"], result, state, seal)


_HEADER = "_"


class _Step:
    """One step: its name, its result, its state (None once a later one has taken its place), and its file's hash."""

    def __init__(self, name, result, state, seal=None):
        self.name, self.result, self.state, self.seal = name, result, state, seal
