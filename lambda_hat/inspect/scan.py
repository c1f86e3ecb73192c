"""Everything under a root: a record for each run, and for each target that has none.

A published directory is done, whatever else there is; after that count a living owner, a place in SLURM's queue, a record of a
failure, and leftovers. Every number shown comes out of a file that matches its hash; one that does not makes its record `damaged`.
"""

import gc
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lambda_hat import store
from lambda_hat.inspect.groups import ordered
from lambda_hat.inspect.records import (
    Record,
    RunRecord,
    Summary,
    TargetRecord,
    TargetSummary,
    read_content,
    read_run,
    read_target,
)
from lambda_hat.inspect.states import JobStates, add_unfinished, slurm_states
from lambda_hat.system.errors import StoreError

THREADS, BLOCK = 16, 20
"""Threads that read, and how many directories each takes at a time: a shared file system takes a millisecond for each file."""

QUICK = 3e-4
"""Seconds for a file below which threads cost more than they save."""

A = TypeVar("A")
B = TypeVar("B")


def scan(root: str | os.PathLike, job_states: Callable[[Iterable[str]], JobStates] = slurm_states) -> list[Record]:
    """Every record under a root, sorted by target, sampler and settings.

    Arguments:
        job_states: asked once for the states of all submitted jobs.

    Raises:
        StoreError: where there is no such directory.
    """
    root = existing(root)
    with _without_collection():
        return _records(root, job_states)


@contextmanager
def _without_collection():
    """No search for circular garbage: records are many and none of it, and the search takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _records(root, job_states):
    base = root / "targets"
    targets_there = entries(base, store.TARGET_ID)
    runs_there = dict(
        zip(targets_there, _many(lambda name: entries(base / name, store.RUN_ID), targets_there), strict=True)
    )
    places = [(f"{base}/{target}", TargetSummary.FILE) for target in targets_there]
    places += [(f"{base}/{target}/{run}", Summary.FILE) for target in targets_there for run in runs_there[target]]
    contents = dict(zip(places, _many(lambda place: read_content(*place), places), strict=True))
    records: dict[str, Record] = {}
    targets: dict[str, TargetRecord] = {}
    for name, is_directory in targets_there.items():
        target = read_target(base / name, contents[f"{base}/{name}", TargetSummary.FILE]) if is_directory else None
        target = target or (None if is_directory else _stranger(TargetRecord, base / name, target_id=name))
        if target is None:
            continue
        targets[name] = target
        runs = [
            read_run(target, run, contents[f"{base}/{name}/{run}", Summary.FILE])
            if run_is_directory
            else _stranger(RunRecord, base / name / run, target_id=name, run_id=run)
            for run, run_is_directory in runs_there[name].items()
        ]
        records |= {run.name: run for run in runs if run is not None}
        if not any(runs) or target.state == "damaged":
            records[target.name] = target
    add_unfinished(root, records, targets, job_states)
    return ordered(records.values())


def existing(root: str | os.PathLike) -> Path:
    """A root as a path.

    Raises:
        StoreError: where there is no such directory, or its targets lie elsewhere.
    """
    root = Path(root)
    if not root.is_dir():
        raise StoreError(
            f"{root}: there is no such directory; name the one that holds targets/ (runs unless store.root was set)."
        )
    if (root / "targets").is_symlink():
        raise StoreError(
            f"{root / 'targets'} is a symbolic link, which is not followed; put the directory itself there."
        )
    return root


def entries(directory: Path, pattern) -> dict[str, bool]:
    """Names in a directory that match, sorted, and whether each is a directory; a link is not, wherever it leads."""
    try:
        with os.scandir(directory) as listed:
            fitting = [entry for entry in listed if pattern.fullmatch(entry.name)]
            return {entry.name: entry.is_dir(follow_symlinks=False) for entry in sorted(fitting, key=lambda e: e.name)}
    except OSError:  # none, or not to be listed, which reading its record then says
        return {}


def _stranger(cls, directory, **names):
    what = "symbolic link, which is not followed" if directory.is_symlink() else "file, where a directory was expected"
    return cls(state="damaged", directory=directory, notes=[f"{directory} is a {what}; move it away."], **names)


def _many(act: Callable[[A], B], values: Iterable[A]) -> list[B]:
    """`act` of each value, in their order: one by one while that is quick, as on a local disk, or else by many threads."""
    values, made = list(values), []
    while len(made) < len(values):
        block, began = values[len(made) : len(made) + BLOCK], time.perf_counter()
        made += [act(value) for value in block]
        if time.perf_counter() - began > QUICK * len(block):
            break
    rest = values[len(made) :]
    blocks = [rest[first : first + BLOCK] for first in range(0, len(rest), BLOCK)]
    with ThreadPoolExecutor(THREADS) as pool:
        return made + [
            each for block in pool.map(lambda block: [act(value) for value in block], blocks) for each in block
        ]
