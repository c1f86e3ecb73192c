"""Upkeep of a store: verifying, indexing, measuring, trash and restore, pruning leftovers, stopping work.

Nothing outside the root is read, moved or removed, whatever links there are in it, and no process is signalled unless it is
shown to be one of ours.
"""

import contextlib
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from lambda_hat import store
from lambda_hat.inspect.records import Attempt, Record
from lambda_hat.inspect.scan import entries, existing, scan
from lambda_hat.inspect.states import is_running
from lambda_hat.launch import slurm
from lambda_hat.store import lease
from lambda_hat.system.errors import StoreError, UserError

# --- verify -----------------------------------------------------------------------------------------------------------


def published(root: Path) -> Iterator[Path]:
    """Every published directory under a root: targets, each followed by its runs."""
    for target in entries(root / "targets", store.TARGET_ID):
        yield root / "targets" / target
        for run in entries(root / "targets" / target, store.RUN_ID):
            yield root / "targets" / target / run


def trajectories(root: Path) -> Iterator[Path]:
    """Every trajectory under a root."""
    if not (root / "trajectories").is_symlink():
        for name, is_directory in entries(root / "trajectories", store.TRAJECTORY_ID).items():
            if is_directory:
                yield root / "trajectories" / name


class Verification(NamedTuple):
    """What reading every file again showed: directories read, their bytes, and sentences on those that are damaged."""

    directories: int
    size: int
    damaged: dict[Path, list[str]]


def verify(root: Path, records: Sequence[Record] | None = None) -> Verification:
    """Read every file of a root, or of some records, again.

    Raises:
        StoreError: where nothing is published under the root.
    """
    chosen = None if records is None else {record.directory for record in records}
    there = [*published(existing(root)), *trajectories(root)]
    if not there:
        raise StoreError(
            f"{root}: nothing is published there, so there is nothing to verify; name the directory that holds targets/."
        )
    damaged, count, size = {}, 0, 0
    for directory in there:
        if chosen is None or directory in chosen:
            count, size = count + 1, size + own_size(directory)
            if wrong := list(store.damages(directory)):
                damaged[directory] = wrong
    return Verification(count, size, damaged)


# --- indexes ----------------------------------------------------------------------------------------------------------


def reindex(root: Path, targets: Iterable[str] | None = None) -> list[Record]:
    """Rebuild the indexes from the directories, each in one step; damaged directories are left out and returned.

    A line that a run appends at this very moment may be lost from the index, which is never the truth.

    Arguments:
        targets: ids of those whose index of runs is rebuilt; None for all of them and the catalog.
    """
    records = scan(root)
    catalog = {
        record.target_id: record.directory.parent if record.run_id else record.directory
        for record in records
        if record.meta
    }
    for target_id in catalog if targets is None else targets:
        runs = [record for record in records if record.target_id == target_id and record.summary]
        path = store.Paths(root, target_id).runs
        if path.parent.is_dir() and not path.parent.is_symlink():
            store.write_lines(path, [store.run_line(record.directory) for record in runs])
    if targets is None and (root / "targets").is_dir():
        lines = [store.target_line(root / "targets" / target_id) for target_id in catalog]
        store.write_lines(store.Paths(root, "").catalog, lines)
    return [record for record in records if record.state == "damaged"]


# --- sizes ------------------------------------------------------------------------------------------------------------


def used(path: str | os.PathLike) -> int:
    """Bytes that a file, or all below a directory, take; no link is followed."""
    with contextlib.suppress(FileNotFoundError):
        if not os.path.isdir(path) or os.path.islink(path):
            return os.lstat(path).st_size
        with os.scandir(path) as listed:
            return sum(used(entry.path) if entry.is_dir(follow_symlinks=False) else _size(entry) for entry in listed)
    return 0


def _size(entry):
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def own_size(directory: Path) -> int:
    """Bytes of a published directory; of a target without its runs."""
    return used(directory) - sum(used(directory / run) for run in entries(directory, store.RUN_ID))


def disk_usage(root: Path, records: Sequence[Record] | None = None) -> Counter:
    """Bytes by what takes them: by record where there are some, else by kind."""
    sizes: Counter = Counter()
    if records is not None:
        there = [record for record in records if not record.directory.parent.is_symlink()]
        return Counter({record.short: used(record.directory) for record in there if record.directory.is_dir()})
    for directory in published(existing(root)):
        run = store.RUN_ID.fullmatch(directory.name)
        sizes[f"runs, {run[1]}" if run else "targets"] += own_size(directory)
    for name in sorted(os.listdir(root)):
        if name != "targets":
            sizes[name] = used(root / name)
    return sizes


# --- trash and restore -------------------------------------------------------------------------------------------------


class Trashed(NamedTuple):
    """What was moved to the trash: the original paths, the trash directory, and bytes."""

    moved: list[Path]
    trash: Path
    size: int


def move_to_trash(root: Path, records: Sequence[Record], targets: bool = False) -> Trashed:
    """Move finished and damaged runs, or with `targets` whole targets, into <root>/trash/.

    Raises:
        UserError: where a run of such a target is in progress.
    """
    if targets:
        chosen = sorted({record.target_id for record in records})
        moves = [path for name in chosen if os.path.lexists(path := root / "targets" / name)]
        busy = [record.short for record in scan(root) if record.state == "running" and record.target_id in chosen]
        if busy:
            raise UserError(f"{', '.join(busy)}: in progress; stop that first, with status --cancel.")
    else:
        moves = [record.directory for record in records if record.run_id and record.state in ("done", "old", "damaged")]
        moves = [path for path in moves if os.path.lexists(path) and not path.parent.is_symlink()]
    trash = _inside(root, "trash") / datetime.now(UTC).strftime("%Y%m%dT%H%M%S_%f")
    size = sum(map(used, moves))
    for directory in moves:
        to = trash / directory.relative_to(root / "targets")
        to.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another was first
            os.rename(directory, to)
    if moves:
        reindex(root, None if targets else {path.parent.name for path in moves})
    return Trashed(moves, trash, size)


def _inside(root, name):
    """A directory of a root, which may not be there."""
    if (root / name).is_symlink():
        raise StoreError(f"{root / name} is a symbolic link, which is not followed; put the directory itself there.")
    return root / name


def restore(trash: Path) -> tuple[list[Path], list[str]]:
    """Restore what `move_to_trash` moved to a directory of <root>/trash/.

    Returns:
        the directories that are back, and sentences on those that are not.

    Raises:
        UserError: where it is no such directory.
    """
    if trash.parent.name != "trash" or trash.is_symlink() or trash.parent.is_symlink() or not trash.is_dir():
        raise UserError(f"{trash}: give a directory of <root>/trash/, and no filter: all of it is restored.")
    root = trash.parent.parent
    moves, left = [], []
    for name in entries(trash, store.TARGET_ID):
        if os.path.lexists(trash / name / store.SUMS):
            moves.append(trash / name)
        else:
            moves += [trash / name / run for run in entries(trash / name, store.RUN_ID)]
    targets = _inside(root, "targets")
    restored = []
    for path in moves:
        to = targets / path.relative_to(trash)
        if os.path.lexists(to) and store.is_done(to):
            left.append(f"{path} stays: {to} has been made again meanwhile")
        elif to.parent != targets and not store.is_done(to.parent):
            left.append(f"{path} stays: its target is gone; restore that first, or make it with build_target")
        else:
            targets.mkdir(exist_ok=True)
            os.rename(path, to)
            restored.append(to)
    for path in (*(trash / name for name in entries(trash, store.TARGET_ID)), trash):
        with contextlib.suppress(OSError):
            path.rmdir()
    reindex(root)
    return restored, left


# --- leftovers --------------------------------------------------------------------------------------------------------


def leftovers(root: Path, records: Sequence[Record], everything: bool) -> dict[Path, int]:
    """What stopped and failed work has left, and its bytes.

    Arguments:
        everything: whether to include replaced directories, the trash, and trajectories that no target is left of.
    """
    paths = _left_of_trajectories(root) if everything else []
    for record in records:
        unpublished = record.state == "damaged" and not os.path.lexists(record.directory)
        if record.state in ("stale", "failed", "missing") or unpublished:
            paths.append(root / "work" / record.name)
            paths += [root / "failures" / f"{record.name}.{kind}" for kind in ("json", "npz")]
    paths = [path for path in paths if not path.parent.is_symlink()]
    if everything:
        for directory in (root / "replaced", root / "trash"):
            if directory.is_dir() and not directory.is_symlink():
                paths += sorted(directory.iterdir())
    return {path: used(path) for path in paths if os.path.lexists(path)}


def _left_of_trajectories(root):
    """Training and imports that were stopped, and trajectories that no target is left of while nothing is in progress."""
    work = root / "work"
    there = [] if work.is_symlink() else [work / name for name in entries(work, store.TRAJECTORY_ID)]
    there += [] if work.is_symlink() else [work / name for name in entries(work, store.IMPORT_ID)]
    records = scan(root)
    if not any(record.state in ("running", "queued") for record in records):
        of_targets = {
            record.meta.trajectory.trajectory_id for record in records if record.meta and record.meta.trajectory
        }
        there += [path for path in trajectories(root) if path.name not in of_targets]
    return [path for path in there if not is_running(root, path.name)]


def prune(root: Path, paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Remove leftovers, except for work that has been resumed since they were listed.

    Returns:
        what was removed, and what has been resumed.
    """
    gone, busy = [], []
    for path in paths:
        if path.parent in (root / "work", root / "trajectories") and is_running(root, path.name):
            busy.append(path)
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        if not os.path.lexists(path):
            gone.append(path)
    return gone, busy


# --- stopping ---------------------------------------------------------------------------------------------------------

SCRIPTS = {"sample.py", "build_target.py", "lambda-hat-sample", "lambda-hat-build-target"}
"""Names of the programs that make targets and runs."""


@dataclass
class Cancellation:
    """What stopping some records would stop.

    Attributes:
        jobs: SLURM job → names of what it makes.
        processes: process number → the attempt that it is, and names of what it makes.
        beyond: sentences on what cannot be stopped from here.
    """

    jobs: dict[str, list[str]] = field(default_factory=dict)
    processes: dict[int, tuple[Attempt, list[str]]] = field(default_factory=dict)
    beyond: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.jobs or self.processes or self.beyond)

    def act(self) -> None:
        """Stop them, and wait until SLURM agrees.

        Raises:
            UserError: where SLURM refuses.
        """
        for job in sorted(slurm.cancel(self.jobs)):
            self.beyond.append(f"SLURM job {job} is not over yet: squeue -j {job}")
        for pid, (attempt, _) in self.processes.items():
            if is_ours(attempt):  # still
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGTERM)


def cancellation(records: Iterable[Record]) -> Cancellation:
    """What would have to be stopped to stop these records."""
    plan = Cancellation()
    for record in records:
        attempt = record.attempt
        if record.state not in ("running", "queued") or attempt is None:
            continue
        if (
            record.owner_is_alive and not record.is_submitted
        ):  # started by hand, perhaps inside an allocation that should live on
            if attempt.pid is not None and is_ours(attempt):
                plan.processes.setdefault(attempt.pid, (attempt, []))[1].append(record.short)
            else:
                plan.beyond.append(
                    f"{record.short}: process {attempt.pid} is not one of lambda_hat's commands as it was recorded; see what it is "
                    "with ps, and stop it by hand"
                )
        elif attempt.slurm_job:
            plan.jobs.setdefault(attempt.slurm_job, []).append(record.short)
        else:
            plan.beyond.append(f"{record.short}: in progress on {attempt.host}; stop process {attempt.pid} there")
    return plan


def is_ours(attempt: Attempt) -> bool:
    """Whether the process that an attempt names is the one that it describes: this user's, of this boot, begun when it says,
    and started by the command that it says, which is one of lambda_hat's."""
    owner = {"machine": attempt.machine, "started": attempt.started, "pid": attempt.pid}
    if not attempt.pid or not attempt.command or lease.is_alive(owner) is not True:
        return False
    try:
        if os.stat(f"/proc/{attempt.pid}").st_uid != os.getuid():
            return False
        with open(f"/proc/{attempt.pid}/cmdline", "rb") as file:
            words = [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except OSError:
        return False
    if "submitit.core._submit" in words:  # records the command that makes the same
        return True
    script, *arguments = attempt.command
    place = len(words) - len(arguments) - 1
    if place < 1 or words[place + 1 :] != arguments or Path(script).name not in SCRIPTS:
        return False
    return words[place] == script or (words[place - 1] == "-m" and words[place].startswith("lambda_hat."))
