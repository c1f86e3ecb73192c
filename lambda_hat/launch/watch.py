"""Following submitted work to its end, and saying of each piece that has no result why."""

import contextlib
import logging
import sys
import time
from collections import Counter
from typing import NamedTuple

from lambda_hat import store
from lambda_hat.jobs import pipeline
from lambda_hat.launch import frozen, slurm
from lambda_hat.store import lease as leases
from lambda_hat.system import errors
from lambda_hat.system.errors import UserError

log = logging.getLogger(__name__)

SETTLING = 20.0
"""Seconds after a job's end in which its files, and accounting's word on it, may still arrive."""

MOST_UNANSWERED = 20
"""Looks that SLURM may leave unanswered, one after the other."""

MOST_LINES = 10
"""Most former failures that a new launch tells of."""


class Failure(NamedTuple):
    """Why something has no result."""

    name: str
    what: str
    log: str | None
    command: list[str]

    def text(self):
        """For the terminal, with what to type."""
        lines = [f"failed: {self.name}: {self.what}"]
        lines += [f"        log: {self.log}"] if self.log else []
        lines += [f"        again: python {' '.join(self.command)}"]
        return "\n".join(lines)


def follow(waiting, options):
    """Stay until everything is there, or will not come; show what comes, and say why what does not.

    Arguments:
        waiting: each a `cluster.Submitted`.
        options: `config.launcher.Slurm`.

    Returns:
        the exit code.
    """
    watch, unanswered = _Watch(waiting), 0
    try:
        while watch.open:
            try:
                watch.look()
                unanswered = 0
            except slurm.SlurmError as error:  # the jobs know nothing of it
                unanswered += 1
                if unanswered == MOST_UNANSWERED:
                    raise slurm.SlurmError(f"{error} The jobs go on; the same command follows them again.") from error
                log.warning("  %s Asking again.", error)
            if watch.open:
                time.sleep(options.poll_s)
    except KeyboardInterrupt:
        count = len(watch.open)
        print(f"{count} {'run keeps' if count == 1 else 'runs keep'} running or waiting.", file=sys.stderr)
        print(how_to_go_on(watch.open), file=sys.stderr)
        return 130
    watch.conclude()
    return int(bool(watch.failures) or bool(watch.kept_back) or watch.bad)


def how_to_go_on(submitted):
    """What to type to follow jobs, to cancel them, and to see what has come out."""
    jobs = slurm.arrays_of(one.slurm_job for one in submitted)
    return f"follow: squeue -r -j {','.join(jobs)}   cancel: scancel {' '.join(jobs)}   results: the same command again"


class _Watch:
    def __init__(self, waiting):
        self.open = list(waiting)
        self.failures, self.kept_back, self.bad = [], [], False
        self._said, self._ended = None, {}
        self._count = {"done": 0, "failed": 0}
        notes = [store.read_note(frozen.submission(one.item.job)) for one in waiting if one.log is None]
        self._users = {note["user"] for note in notes if "user" in note}

    def look(self):
        """One look at everything, for one squeue and at most one sacct."""
        queue = slurm.queue(self._users) if any(one.slurm_job for one in self.open) else {}
        entries = {one.item.name: queue.get(one.slurm_job) for one in self.open}
        over, still = [], []
        for one in self.open:
            entry = entries[one.item.name]
            at_work = entry is None or entry.runs or entry.is_over
            if at_work and self._is_done(one):
                self._tell(one)
            elif at_work and one.log and self._has_failed(one):
                self._fail(one, None)
            elif one.slurm_job is None:
                (still if leases.is_alive(store.read_note(one.item.work / "owner.json")) is not False else over).append(
                    one
                )
            else:
                (over if entry is None or entry.is_over else still).append(one)
        self.open = still
        self._judge(over, queue)
        self._give_up(entries)
        self._progress(entries)

    def _is_done(self, one):
        if one.log is None:
            return not one.item.job.config.force and store.is_done(one.item.job.directory)
        return frozen.is_made(one.item.job, one.since)

    def _has_failed(self, one):
        record = store.read_note(one.item.job.paths.failure(one.item.job.stage))
        return bool(record) and record.get("slurm_job") == one.slurm_job

    def _tell(self, one):
        self._count["done"] += 1
        try:
            self.bad |= pipeline.tell_result(one.item.job)
        except UserError as error:
            log.error(str(error))
            self.bad = True

    def _judge(self, over, queue):
        """Those whose job is over without a result."""
        history = slurm.history({one.slurm_job for one in over if one.slurm_job})
        now = time.monotonic()
        for one in over:
            since = self._ended.setdefault(one.item.name, now)
            entry = history.get(one.slurm_job) or queue.get(one.slurm_job)
            if entry is not None and not entry.is_over:  # accounting is behind
                entry = queue.get(one.slurm_job)
            uncertain = entry is None or entry.state.split()[0] in ("COMPLETED", "PENDING", "RUNNING")
            if uncertain and one.slurm_job and now - since < SETTLING:
                self.open.append(one)
                continue
            self._fail(one, entry)

    def _fail(self, one, entry):
        if one.needs and not store.is_done(one.item.job.paths.target):
            self.kept_back.append(one)
            return
        self._count["failed"] += 1
        failure = explain(one.item, one.slurm_job, entry, one.log)
        self.failures.append(failure)
        log.error("failed: %s: %s", failure.name, failure.what)

    def _give_up(self, entries):
        """Where all that is left will not start by itself, there is nothing to wait for."""
        stuck = {name: entry.stuck for name, entry in entries.items() if entry and entry.stuck}
        if self.open and all(one.item.name in stuck or one.needs in stuck for one in self.open):
            for one in self.open:
                if one.item.name in stuck:
                    what = f"job {one.slurm_job} {stuck[one.item.name]}"
                    log.error("not started: %s: %s", one.item.name, what)
                    self.failures.append(Failure(one.item.name, what, None, frozen.command(one.item, sys.argv[0])))
                else:
                    self.kept_back.append(one)
            self.open = []

    def _progress(self, entries):
        at_work = [entry for one in self.open if (entry := entries[one.item.name]) and entry.runs]
        running = len(at_work) + sum(one.slurm_job is None for one in self.open)
        words = f"{self._count['done']} done, {running} running, {len(self.open) - running} queued"
        words += f", {self._count['failed']} failed" if self._count["failed"] else ""
        if words != self._said:
            self._said = words
            log.info("  %s", words)

    def conclude(self):
        """Every failure once more, together, with what to type."""
        for failure in self.failures:
            log.error(failure.text())
        for name, count in Counter(one.needs for one in self.kept_back).items():
            log.error("not started: %d %s of %s, which was not built", count, "run" if count == 1 else "runs", name)


def explain(item, slurm_job, entry, path):
    """Why an item has no result: its own record where it left one, else what SLURM says of the job."""
    record = store.read_note(item.job.paths.failure(item.job.stage))
    command = frozen.command(item, sys.argv[0])
    path = str(path) if path else record.get("log")
    if record and record.get("slurm_job") == slurm_job:
        what = str(record.get("error") or "no words").splitlines()[0]
        if not hasattr(errors, kind := str(record.get("kind"))):  # ours are whole sentences
            what = f"{kind}: {what}"
        return Failure(item.name, what, path, command)
    if entry is None:
        what = f"job {slurm_job} is gone, and there is no accounting to say why" if slurm_job else "its process is gone"
    else:
        what = f"job {slurm_job} {entry.ending}"
    return Failure(item.name, what, path, command)


def tell_of_former_attempts(found):
    """What became of earlier attempts at what is missing: their own records, and what SLURM says where they left none."""
    items = {item.name: item for item in [*found.targets, *found.missing]}
    failed = {}
    for directory in {item.job.paths.failure(item.job.stage).parent for item in items.values()}:
        with contextlib.suppress(OSError):
            failed |= dict.fromkeys(path.stem for path in directory.glob("*.json"))
    names = [name for name, item in items.items() if name in found.ended or name in failed]
    told = set(names)  # of a target and the runs that waited for it, the target tells all
    names = [name for name in names if name in failed or items[name].job.paths.target_id not in told - {name}]
    history = slurm.history({found.ended[name] for name in names if name in found.ended})
    for name in names[:MOST_LINES]:
        job = found.ended.get(name)
        record = store.read_note(items[name].job.paths.failure(items[name].job.stage))
        failure = explain(items[name], job or record.get("slurm_job"), history.get(job), None)
        path = store.read_note(frozen.submission(items[name].job)).get("log") or failure.log
        log.info("  before: %s: %s%s", name, failure.what, f"  {path}" if path else "")
    if len(names) > MOST_LINES:
        log.info("  before: … and %d more", len(names) - MOST_LINES)
