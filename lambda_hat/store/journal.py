"""Work that stopped goes on from where it was, bit by bit the same: a journal of what has been computed, in order.

Work is deterministic, so to go on is to do it again with every step that the journal has taken from there in place of computed. A
step's result is a dictionary of arrays; part of it may be a state that only the next step needs, of which the last one is kept.

    checkpoint/identity.json       what the work was; a journal of anything else is not used
    checkpoint/00007.npz           the result of step 7
    checkpoint/00007.state.npz     its state, until that of a later step is there
"""

import contextlib
import json
import logging
import shutil
import threading
import time
from pathlib import Path

import numpy as np

from lambda_hat.store.files import read_sealed_arrays, replace_file, write_sealed_arrays
from lambda_hat.system import stopping
from lambda_hat.system.errors import StoreError

log = logging.getLogger(__name__)

WORTH_KEEPING = 5.0
"""Seconds of work below which a failure leaves no checkpoint."""


class Journal:
    """What has been computed so far. A context: leaving it by a signal, Ctrl-C or an error keeps it.

    Arguments:
        directory: where it is kept; None for nowhere.
        identity: plain data that differs wherever results might.
        minutes: how often it is written.
        say: called with a line where work goes on from it, or cannot.
    """

    def __init__(self, directory=None, identity=None, minutes=np.inf, say=lambda line: None):
        self._directory, self._interval = directory and Path(directory), 60 * minutes
        self._identity, self._say = json.dumps(identity, sort_keys=True), say
        self._lock = threading.RLock()  # a thread that ends the process writes too
        self._steps = self._read() if directory else []
        self._next, self._written = 0, len(self._steps)
        self._saved = time.monotonic()
        if self._steps:
            say(f"going on from a checkpoint of {len(self._steps)} steps")

    def __enter__(self):
        self._saving = stopping.saving(self.write)
        self._saving.__enter__()
        return self

    def __exit__(self, kind, error, trace):
        self._saving.__exit__(None, None, None)
        if kind is None:
            return
        if not issubclass(kind, Exception) or time.monotonic() - self._saved > WORTH_KEEPING:
            with contextlib.suppress(OSError):  # the error that is on its way says more
                self.write()

    def has_next(self):
        """Whether the next step is there: then what is decided before it was decided to go on."""
        return self._next < len(self._steps)

    def step(self, name, compute):
        """The result of a step: a dictionary of arrays, as `compute()` gives it unless it is in the journal."""
        return self.passing(name, lambda: ({k: np.asarray(v) for k, v in compute().items()}, {}))[0]

    def passing(self, name, compute, follows=False):
        """The result and the state of a step, two dictionaries of arrays, as `compute()` gives them.

        Arguments:
            follows: whether the state takes the place of the step's before, which then is None when it comes from the journal.

        Raises:
            Stopped: where a signal has come; the journal is written first.
        """
        if self.has_next():
            step = self._steps[self._next]
            if step.name == name:
                self._next += 1
                return step.result, step.state
            log.warning("the checkpoint's step %d is %s and not %s: going on without it", self._next, step.name, name)
            del self._steps[self._next :]
            self._forget(self._next)
            self._written = self._next
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

    def write(self):
        """Keep all steps so far on the disk."""
        with self._lock:
            if self._directory is None or self._written >= len(self._steps):
                return
            self._directory.mkdir(parents=True, exist_ok=True)
            replace_file(self._directory / "identity.json", lambda file: file.write(self._identity.encode()))
            for number in range(self._written, len(self._steps)):
                step = self._steps[number]
                if step.state:
                    replace_file(
                        self._path(number, ".state"),
                        lambda file, step=step: write_sealed_arrays(file, step.state),
                    )
                header = np.array(json.dumps({"name": step.name, "state": step.state != {}}))
                replace_file(
                    self._path(number),
                    lambda file, step=step, header=header: write_sealed_arrays(file, step.result | {"_": header}),
                )
                step.result = None
            for number, step in enumerate(self._steps):
                if step.state is None:
                    self._path(number, ".state").unlink(missing_ok=True)
            self._written, self._saved = len(self._steps), time.monotonic()

    def _forget(self, first):
        """Remove what is kept of this step and all after it."""
        for path in self._directory.glob("[0-9]*.npz"):
            if int(path.name.partition(".")[0]) >= first:
                path.unlink(missing_ok=True)

    def _path(self, number, part=""):
        return self._directory / f"{number:05d}{part}.npz"

    def _read(self):
        """The steps that are there, as far as they lead to one that can be gone on from."""
        if not self._directory.is_dir():
            return []
        try:
            same = (self._directory / "identity.json").read_text() == self._identity
        except (OSError, UnicodeDecodeError):
            same = False
        steps, usable = [], 0
        while same and self._path(len(steps)).exists():
            number = len(steps)
            try:
                result = read_sealed_arrays(self._path(number))
                header = json.loads(str(result.pop("_")))
                state = {} if not header["state"] else None
                if state is None and self._path(number, ".state").exists():
                    state = read_sealed_arrays(self._path(number, ".state"))
            except (StoreError, ValueError, KeyError):
                self._say(f"{self._path(number)} is damaged: going on from before it")
                break
            steps.append(_Step(header["name"], result, state))
            if state is not None:
                usable = len(steps)
        if not usable:
            if any(self._directory.glob("*.npz")):
                self._say("there is a checkpoint of other code, packages or settings, or a damaged one: starting over")
            shutil.rmtree(self._directory, ignore_errors=True)
        self._forget(usable)
        return steps[:usable]


class _Step:
    """One step: its name, its result, and its state (None once a later one has taken its place)."""

    def __init__(self, name, result, state):
        self.name, self.result, self.state = name, result, state
