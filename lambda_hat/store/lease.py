"""Work under way: a lease that keeps others from doing the same, a heartbeat, and everything that is not finished.

    <root>/work/<name>/       for each target and each run that is being made or waits to be
        owner.json            the lease: who makes it
        progress.json         how far it is, written anew at every heartbeat
        submitted.json        the SLURM job that is to make it
        checkpoint/<token>/   what its owner, and the next one, resumes from
        checkpoint/stopped.json   what progress.json said when the work was stopped
        build.<token>/        what will be published

The lease is made by a hard link to a file of one's own, which is atomic on NFS too. It saves work, and nothing rests on it:
what two owners make is published by one rename, which one of them wins. An owner on this machine is dead if its process is;
one elsewhere, if its heartbeat stands still for a minute of the watcher's own clock, so that no two clocks are compared.

An owner that was taken for dead may live, and go on: its machine was suspended, or cut off. So every owner has a token, and
directories of its own that are named by it; who takes over gives the checkpoint its own token by one rename, so that the former
owner's next write finds no directory. The former owner also looks for its token before it writes anything, and stops.
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
from errno import ENOENT
from pathlib import Path

from lambda_hat.store.files import finite, read_note, write_note
from lambda_hat.store.times import now
from lambda_hat.system import stopping
from lambda_hat.system.errors import Deposed

BEAT = 10.0
"""Seconds between heartbeats."""

DEAD_AFTER = 60.0
"""Seconds without a heartbeat after which an owner on another machine is taken for dead."""

LONGEST_WAIT = 2.0
"""Most seconds between two looks at a lease that somebody else holds."""

STOPPED = "stopped.json"

PATIENCE = 1.0
"""Seconds for which an owner looks for a lease of its own that is not there: who clears a dead owner's away may, for a moment,
have moved the next one's."""


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


def is_left(directory):
    """Whether a work directory of what is done is there, and no owner who may be about to remove it."""
    owner = read_note(directory / "owner.json")
    return directory.is_dir() and not (owner and is_alive(owner) is not False)


def sweep(directory):
    """Remove the work directory of what is done, unless an owner may be about to."""
    if is_left(directory):
        shutil.rmtree(directory, ignore_errors=True)


class Lease:
    """One owner's hold on a work directory.

    Attributes:
        directory: <root>/work/<name>.
        build: where to make what will be published; of this owner alone.
        is_unindexed: whether what is made is being published and has no line in its index: then the work directory stays, for
            `sweep` to find, where writing the line fails.
        checkpoint: where to keep what work is resumed from; the next owner takes it over.
        log: path of this attempt's log, or None.
        watchers: called with all that is known of the progress, in the reporting thread, at each report.
    """

    def __init__(self, directory, token, log):
        self.directory, self._token, self.log, self.watchers = directory, token, log, []
        self.build = directory / f"build.{token}"
        self.checkpoint = directory / "checkpoint" / token
        self._progress = {"beat": 0, "began": now(), "log": log}
        self.is_unindexed = False
        self._lock, self._ended, self._is_deposed = threading.Lock(), threading.Event(), False
        self._thread = threading.Thread(target=self._beat_on, daemon=True)

    def report(self, **progress):
        """Say how far the work is; what is not named stays as it was. Written at the next heartbeat, or `now=True`.

        Raises:
            Deposed: where a heartbeat has shown that another process has taken over.
        """
        if self._is_deposed:
            self.check()
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
        return self._owner().get("token") == self._token

    def check(self):
        """See that the lease is still held: before anything is written that another owner might be writing.

        Raises:
            Deposed: where another process has taken over.
            FileNotFoundError: where the store is gone.
        """
        give_up = time.monotonic() + PATIENCE
        while not (owner := self._owner()) and self.directory.is_dir() and time.monotonic() < give_up:
            time.sleep(PATIENCE / 20)
        if owner.get("token") == self._token:
            return
        if not self.directory.parent.is_dir():
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), str(self.directory))
        who = f"process {owner.get('pid')} on {owner.get('host')}" if owner else "another process"
        raise Deposed(
            f"{self.directory}: {who} has taken this work over, because this process gave no sign of life for "
            f"{DEAD_AFTER:g} s; this one stops, and nothing is lost: the same command waits for the result."
        )

    def _owner(self):
        return read_note(self.directory / "owner.json")

    def _beat_on(self):
        while not self._ended.wait(BEAT):
            self._beat()

    def _beat(self):
        with self._lock:
            if self._ended.is_set():
                return
            if (owner := self._owner()) and owner.get("token") != self._token:
                self._is_deposed = True
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
        with contextlib.suppress(OSError):  # but for an empty one, it is the next owner's
            self.checkpoint.rmdir()
        if not self.is_held():
            return
        if finished:
            shutil.rmtree(self.directory, ignore_errors=True)
        for name in ("progress.json", "owner.json"):
            (self.directory / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            if checkpoints(self.directory):
                stopped = {name: value for name, value in self._progress.items() if name != "beat"}
                write_note(self.checkpoint.parent / STOPPED, stopped | {"command": sys.argv})
        for emptied in (self.checkpoint.parent, *([] if self.is_unindexed else [self.directory])):
            with contextlib.suppress(OSError):  # a checkpoint or a submission keeps it
                emptied.rmdir()


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

    Raises:
        Deposed: where another process has taken over meanwhile, and that is why something could not be written.
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
    except OSError as error:
        with contextlib.suppress(OSError):  # the store is gone: the first error says what was being done
            try:
                held.check()
            except Deposed as deposed:
                raise deposed from error
        raise
    finally:
        held.end(finished)


def _acquire(directory, done, say, log):
    token, wait, watch = uuid.uuid4().hex[:12], 0.05, None
    while not done():
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "owner.json"
        if _claim(path, token, log):
            held = Lease(directory, token, log)
            for left in directory.glob("build.*"):
                shutil.rmtree(left, ignore_errors=True)
            if done():  # published between the look and the claim
                held.end(True)
                return None
            _take_over_checkpoint(held, say)
            return held
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
        own.write_text(json.dumps(finite(owner)) + "\n")
        os.link(own, path)
        return True
    except (FileExistsError, FileNotFoundError):  # the latter where a former owner has just removed the directory
        return False
    finally:
        own.unlink(missing_ok=True)


def checkpoints(directory):
    """The checkpoints in a work directory, each that of an owner, dead or alive, but for what was set aside; the fullest first."""
    place, sizes = directory / "checkpoint", {}
    if place.is_symlink():
        return []
    with contextlib.suppress(OSError), os.scandir(place) as listed:
        for entry in listed:
            if entry.name != "aside" and entry.is_dir(follow_symlinks=False):
                sizes[Path(entry.path)] = len(os.listdir(entry.path))
    return [path for path in sorted(sizes, key=lambda path: (-sizes[path], path.name)) if sizes[path]]


def _take_over_checkpoint(held, say):
    """Make the former owner's checkpoint this owner's, by one rename; others, of owners deposed before it, are removed.

    Raises:
        OSError: where there can be no checkpoint.
    """
    place = held.checkpoint.parent
    if place.is_symlink() or (os.path.lexists(place) and not place.is_dir()):
        os.replace(place, aside := place.with_name("checkpoint.aside"))
        say(f"{place} is no directory: it is now {aside}")
    for left in checkpoints(held.directory):
        if not held.is_held():  # deposed while coming here: they are another's
            return
        if held.checkpoint.exists():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):  # taken by one who has deposed this owner
                os.rename(left, held.checkpoint)
    held.checkpoint.mkdir(parents=True, exist_ok=True)
    (place / STOPPED).unlink(missing_ok=True)


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
