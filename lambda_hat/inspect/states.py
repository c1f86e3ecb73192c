"""Work that is not finished: running, queued, failed or stale, from work/, failures/ and what SLURM says of all jobs at once."""

import logging
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lambda_hat import store
from lambda_hat.inspect.formats import duration
from lambda_hat.inspect.records import Attempt, Record, RunRecord, TargetRecord, flat
from lambda_hat.launch import slurm
from lambda_hat.store import lease
from lambda_hat.system.errors import StoreError
from lambda_hat.system.terminal import printable

log = logging.getLogger(__name__)

UNHEARD = 2 * lease.DEAD_AFTER
"""Seconds without a heartbeat after which an owner on another machine is taken for dead; clocks may differ a little."""

NAME = re.compile(rf"{store.TARGET_ID.pattern}(\.{store.RUN_ID.pattern})?")
"""Names in work/ and failures/."""

JobStates = Mapping[str, slurm.JobState] | None
"""What SLURM says of each job that it knows; None where it cannot be asked."""


@dataclass
class Leftover:
    """What work/ and failures/ hold under one name.

    Attributes:
        attempt: what the files say, put together.
        has_owner, is_submitted, has_failed: which of them there are; the failure of an attempt before the submission is none.
        owner_is_alive: None where only its heartbeat can tell.
        silent_sec: seconds since the last heartbeat; None where there is none.
        has_directory, has_checkpoint: what there is to resume from.
    """

    attempt: Attempt
    has_owner: bool
    is_submitted: bool
    has_failed: bool
    owner_is_alive: bool | None
    silent_sec: float | None
    has_directory: bool
    has_checkpoint: bool

    @property
    def job(self) -> str | None:
        """The SLURM job that makes it."""
        return self.attempt.slurm_job

    def state(self, jobs: JobStates) -> tuple[str | None, list[str]]:
        """The state and notes on it; None where nothing is left."""
        entry = None if jobs is None or self.job is None else jobs.get(self.job)
        alive = self.owner_is_alive
        if alive is None:
            alive = (entry is not None and entry.state == "RUNNING") or (
                self.silent_sec is not None and self.silent_sec < UNHEARD
            )
        if alive:
            notes = [self._progress_text()]
            if self.silent_sec is not None and self.silent_sec > lease.DEAD_AFTER:
                notes.append(f"no heartbeat for {duration(self.silent_sec)}")
            return "running", notes
        if entry is not None and not entry.is_over:
            why = entry.stuck or ("" if entry.reason in ("", "None") else entry.reason)
            text = f"SLURM job {self.job}: {entry.state.lower()}{f' ({why})' if why and not entry.runs else ''}"
            return "running" if entry.runs else "queued", [text]
        if self.is_submitted and jobs is None and not self.has_failed and not self.has_owner:
            return "queued", [f"SLURM job {self.job}; its state is not known here: squeue cannot be asked"]
        if self.has_failed:
            return "failed", [self._failure_text()] + [
                "the same command resumes from its checkpoint"
            ] * self.has_checkpoint
        if self.has_directory:
            gone = (
                f"SLURM job {self.job} {entry.ending if entry else 'is gone'}"
                if self.job
                else "its process is gone"
                if self.has_owner
                else "interrupted"
            )
            kept = "resumes from its checkpoint" if self.has_checkpoint else "starts from the beginning"
            return "stale", [f"{gone}; the same command {kept}"]
        return None, []

    def _progress_text(self):
        attempt = self.attempt
        text = attempt.phase or "starting"
        if attempt.draw is not None and attempt.draws:
            text += f" {attempt.draw}/{attempt.draws} draws ({100 * attempt.draw / attempt.draws:.0f} %)"
        return f"{text}, {f'SLURM job {self.job}' if self.job else f'process {attempt.pid}'} on {attempt.host}"

    def _failure_text(self):
        attempt = self.attempt
        first = (attempt.error or "").split("\n")[0]
        retry = f"; to retry: {shlex.join(['python', *attempt.command])}" if attempt.command else ""
        return f"{attempt.kind or 'Error'}: {first}; log: {attempt.log or 'none'}{retry}"


def slurm_states(jobs: Iterable[str]) -> JobStates:
    """What SLURM says of those of these jobs that it knows, asked once for all of them; of ended ones from accounting."""
    jobs = set(jobs)
    if not jobs or shutil.which("squeue") is None:
        return {} if not jobs else None
    try:
        return slurm.states(jobs, attempts=1)
    except slurm.SlurmError:
        return None


def add_unfinished(
    root: Path,
    records: dict[str, Record],
    targets: Mapping[str, TargetRecord],
    job_states: Callable[[Iterable[str]], JobStates] = slurm_states,
) -> None:
    """Add a record for each target and run in work/ and failures/ that is not published.

    Arguments:
        records: by name; added to.
        targets: published targets by id.
        job_states: asked once for the states of all submitted jobs.
    """
    leftovers: dict[str, Leftover | StoreError] = {}
    for name in _names(root):
        try:
            leftovers[name] = read_leftover(root, name)
        except StoreError as error:
            leftovers[name] = error
    readable = [left for left in leftovers.values() if isinstance(left, Leftover)]
    jobs = job_states(left.job for left in readable if left.is_submitted and left.job)
    for name, left in leftovers.items():
        _add(root, name, left, leftovers, jobs, records, targets)


def _add(root, name, left, leftovers, jobs, records, targets):
    target_id, _, run_id = name.partition(".")
    state, notes = ("damaged", [str(left)]) if isinstance(left, StoreError) else left.state(jobs)
    target = leftovers.get(target_id)
    if run_id and state == "stale" and isinstance(left, Leftover) and left.is_submitted and not left.has_owner:
        if target_id not in targets and isinstance(target, Leftover) and target.has_failed:
            state, notes = "failed", [f"not started: its target failed: {target._failure_text()}"]
    published = records.get(name) if run_id else targets.get(name)
    if published is not None:
        if state == "running":
            published.notes.append("it is being redone")
        return
    if state is None:
        return
    paths = store.Paths(root, target_id, run_id or None)
    common = {"state": state, "target_id": target_id, "notes": notes}
    if run_id:
        record = RunRecord(run_id=run_id, directory=paths.run, **common)
    else:
        record = TargetRecord(directory=paths.target, **common)
    if target := targets.get(target_id):
        record.settings, record.meta = dict(target.settings), target.meta
        record.target_version = target.target_version
    if isinstance(left, Leftover):
        record.attempt, record.owner_is_alive, record.is_submitted = (
            left.attempt,
            left.owner_is_alive,
            left.is_submitted,
        )
        try:
            record.settings |= flat(left.attempt.settings or {})
        except StoreError as error:
            record.state, record.notes = "damaged", [f"{root / 'work' / name}: {error}"]
    if run_id:
        record.settings.setdefault("sampler.name", record.sampler)
    records[name] = record


def _names(root):
    names = set()
    for directory, suffix in ((root / "work", ""), (root / "failures", ".json")):
        try:
            if directory.is_symlink():
                log.warning(
                    "%s",
                    printable(
                        f"{directory} is a symbolic link, which is not followed, so work in progress is not shown; put the "
                        "directory itself there."
                    ),
                )
                continue
            with os.scandir(directory) as entries:
                names |= {entry.name.removesuffix(suffix) for entry in entries if entry.name.endswith(suffix)}
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise StoreError(f"{directory} cannot be listed ({error.strerror}); check its permissions.") from error
    return sorted(name for name in names if NAME.fullmatch(name))


def read_leftover(root: Path, name: str) -> Leftover:
    """What work/ and failures/ hold under one name.

    Raises:
        StoreError: where a file there is damaged.
    """
    directory = root / "work" / name
    has_directory = directory.is_dir() and not directory.is_symlink()
    paths = [root / "failures" / f"{name}.json"]
    paths += [
        directory / f"{part}.json" if has_directory else None
        for part in ("submitted", "checkpoint/stopped", "owner", "progress")
    ]
    failed, submitted, stopped, owner, progress = (Attempt.from_file(path, root) if path else None for path in paths)
    if failed and submitted and failed.slurm_job != submitted.slurm_job and _is_older(paths[0], paths[1]):
        failed = None  # of an attempt before this submission, whose own end is what counts
    attempt = Attempt()
    for part in (failed, submitted, stopped, owner, progress):
        attempt = attempt.merged(part) if part else attempt
    try:
        silent = max(0.0, time.time() - os.lstat(directory / "progress.json").st_mtime)
    except OSError:
        silent = None
    return Leftover(
        attempt=attempt,
        has_owner=owner is not None,
        is_submitted=submitted is not None,
        has_failed=failed is not None,
        owner_is_alive=lease.is_alive({"machine": owner.machine, "started": owner.started, "pid": owner.pid})
        if owner
        else False,
        silent_sec=silent,
        has_directory=has_directory,
        has_checkpoint=has_directory and bool(lease.checkpoints(directory)),
    )


def _is_older(path, other):
    """Whether this file was written before the other; one that has just gone is not."""
    try:
        return os.lstat(path).st_mtime_ns < os.lstat(other).st_mtime_ns
    except OSError:
        return False


def is_running(root: Path, name: str) -> bool:
    """Whether a process works at this now, as far as files tell; a damaged file beside a living owner makes no difference."""
    try:
        return read_leftover(root, name).state({})[0] == "running"
    except StoreError:
        owner = store.read_note(root / "work" / name / "owner.json", root)
        return bool(owner) and isinstance(owner.get("pid"), int) and lease.is_alive(owner) is not False
