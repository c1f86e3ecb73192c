"""Work under way: a lease that keeps others from doing the same, a heartbeat, and everything that is not finished.

    <root>/work/<name>/       for each target and each run that is being made or waits to be
        owner.json            the lease: who makes it
        progress.json         how far it is, written anew at every heartbeat
        submitted.json        the SLURM job that is to make it
        checkpoint/           where it goes on from
        build.<token>/        what will be published

The lease is made by a hard link to a file of one's own, which is atomic on NFS too. It saves work, and nothing rests on it:
what two owners make is published by one rename, which one of them wins. An owner on this machine is dead if its process is;
one elsewhere, if its heartbeat stands still for a minute of the watcher's own clock, so that no two clocks are compared.
"""

import contextlib
import json
import os
import shutil
import socket
import sys
import threading
import time
import uuid
from pathlib import Path

from lambda_hat.store.files import read_note, write_note
from lambda_hat.store.times import now
from lambda_hat.system import stopping

BEAT = 10.0
"""Seconds between heartbeats."""

DEAD_AFTER = 60.0
"""Seconds without a heartbeat after which an owner on another machine is taken for dead."""

LONGEST_WAIT = 2.0
"""Most seconds between two looks at a lease that somebody else holds."""


def this_process():
    """What tells this process from every other, on any machine, dead or alive."""
    return {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_alive(owner):
    """Whether the owner's process lives; None where it is on another machine, so that only its heartbeat can tell."""
    if owner.get("machine") != _machine():
        return None
    return owner.get("started") == _started(owner.get("pid"))


def _machine():
    """This boot of this machine, and the container in it: what a process number belongs to."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid):
    """When a process began, in ticks since boot; None where there is none, and where it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except OSError:
        if Path("/proc/self").exists():
            return None
    try:  # no /proc: macOS
        os.kill(pid, 0)
        return 0
    except (OSError, TypeError):
        return None


def slurm_job():
    """The SLURM job that this process runs in, as squeue shows it (`12_3` in an array); None outside."""
    array, number = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{number}" if array and number else os.environ.get("SLURM_JOB_ID")


def sweep(directory):
    """Remove the work directory of what is done, unless an owner may be about to; whether there was one to remove."""
    owner = read_note(directory / "owner.json")
    if not directory.is_dir() or (owner and is_alive(owner) is not False):
        return False
    shutil.rmtree(directory, ignore_errors=True)
    return True


class Lease:
    """One owner's hold on a work directory.

    Attributes:
        directory: <root>/work/<name>.
        build: where to make what will be published; of this owner alone.
        checkpoint: where to keep what work goes on from; taken over by the next owner.
        log: path of this attempt's log, or None.
        watchers: called with all that is known of the progress, in the reporting thread, at each report.
    """

    def __init__(self, directory, token, log):
        self.directory, self._token, self.log, self.watchers = directory, token, log, []
        self.build = directory / f"build.{token}"
        self.checkpoint = directory / "checkpoint"
        self._progress = {"beat": 0, "began": now(), "log": log}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat_on, daemon=True)

    def report(self, **progress):
        """Say how far the work is; what is not named stays as it was. Written at the next heartbeat, or `now=True`."""
        at_once = progress.pop("now", False)
        with self._lock:
            self._progress |= progress
            known = dict(self._progress)
        if at_once:
            self._beat()
        for watcher in self.watchers:
            watcher(known)

    def is_held(self):
        """Whether nobody has taken this owner for dead."""
        return read_note(self.directory / "owner.json").get("token") == self._token

    def _beat_on(self):
        while not self._ended.wait(BEAT):
            self._beat()

    def _beat(self):
        with self._lock:
            if self._ended.is_set():
                return
            self._progress["beat"] += 1
            self._progress["at"] = now()
            with contextlib.suppress(OSError):  # a full disk stops the work where it matters, not here
                write_note(self.directory / "progress.json", self._progress)

    def begin(self):
        """Start the heart."""
        self._beat()
        self._thread.start()

    def end(self, finished):
        """Let go: of everything if the work is `finished`, else of all but what the next owner goes on from."""
        with self._lock:
            self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=BEAT)
        shutil.rmtree(self.build, ignore_errors=True)
        if not self.is_held():
            return
        if finished:
            shutil.rmtree(self.directory, ignore_errors=True)
        for name in ("progress.json", "owner.json"):
            (self.directory / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a checkpoint or a submission keeps it
            self.directory.rmdir()


@contextlib.contextmanager
def hold(directory, done, say, log=None):
    """Hold the lease on a work directory, waiting while somebody else does.

    Arguments:
        directory: <root>/work/<name>.
        done: whether the work is done meanwhile, so that there is nothing left to hold a lease for.
        say: called with a line where there is a wait.
        log: path of this attempt's log.

    Yields:
        a `Lease`, or None where `done` has come true.
    """
    held = _acquire(Path(directory), done, say, log)
    if held is None:
        yield None
        return
    held.begin()
    finished = False
    try:
        yield held
        finished = True
    finally:
        held.end(finished)


def _acquire(directory, done, say, log):
    token, wait, watch = uuid.uuid4().hex[:12], 0.05, None
    while not done():
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "owner.json"
        if _claim(path, token, log):
            for left in directory.glob("build.*"):
                shutil.rmtree(left, ignore_errors=True)
            if done():  # published between the look and the claim
                Lease(directory, token, log).end(True)
                return None
            return Lease(directory, token, log)
        owner = read_note(path)
        if watch is None or watch.token != owner.get("token"):
            watch = _Watch(directory, owner)
            if owner:
                say(
                    f"{directory.name} is being made by process {owner.get('pid')} on {owner.get('host')}; waiting for it"
                )
        if watch.is_dead():
            say(
                f"process {owner.get('pid')} on {owner.get('host')}, which was making {directory.name}, is gone: taking over"
            )
            _depose(path, owner.get("token"))
            continue
        stopping.wait(wait)
        wait = min(2 * wait, LONGEST_WAIT)
    with contextlib.suppress(OSError):  # where our look into it came after its owner removed it
        directory.rmdir()
    return None


def _claim(path, token, log):
    """Make owner.json ours unless it is there."""
    own = path.with_name(f".owner.{token}")
    owner = this_process() | {
        "token": token,
        "slurm_job": slurm_job(),
        "log": log,
        "command": sys.argv,
        "cwd": os.getcwd(),
        "since": now(),
    }
    try:
        own.write_text(json.dumps(owner) + "\n")
        os.link(own, path)
        return True
    except (FileExistsError, FileNotFoundError):  # the latter where a former owner has just removed the directory
        return False
    finally:
        own.unlink(missing_ok=True)


class _Watch:
    """Whether the owner of a lease lives, looked at again and again."""

    def __init__(self, directory, owner):
        self.token, self._owner, self._directory = owner.get("token"), owner, directory
        self._seen, self._since = None, time.monotonic()

    def is_dead(self):
        alive = is_alive(self._owner) if self._owner else None
        if alive is not None:
            return not alive
        beat = read_note(self._directory / "progress.json").get("beat")
        if beat != self._seen:
            self._seen, self._since = beat, time.monotonic()
        return time.monotonic() - self._since > DEAD_AFTER


def _depose(path, token):
    """Remove a dead owner's lease, and no other that has come in its place meanwhile."""
    aside = path.with_name(f".owner.{uuid.uuid4().hex[:12]}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if read_note(aside).get("token") != token:
        with contextlib.suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)
