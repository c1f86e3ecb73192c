"""Work that is not finished: running, queued, failed or stale, told from work/ and failures/ and, once for all, from SLURM."""

import os
import re
import shlex
import shutil
import subprocess
import time

from lambda_hat import store
from lambda_hat.inspect.row import RUN, TARGET, Row, duration, flat
from lambda_hat.store import lease as leases

UNHEARD = 2 * leases.DEAD_AFTER
"""Seconds without a heartbeat after which an owner on another machine is taken for dead; clocks may differ a little."""


def add(root, rows, targets):
    """Rows of what is in work/ and failures/."""
    found = {name: _left(root, name) for name in _work_names(root)}
    queued = queue(left["slurm_job"] for left in found.values() if "submitted" in left)
    for name, left in found.items():
        target_id, _, run_id = name.partition(".")
        done = rows.get(name) if run_id else targets.get(name)
        state, notes = _state(left, queued)
        if done is not None:
            if state == "running":
                done.notes.append("it is being redone")
            continue
        if state is None:
            continue
        target = targets.get(target_id)
        directory = store.Paths(root, target_id, run_id or None)
        rows[name] = row = Row(
            state,
            "run" if run_id else "target",
            target_id,
            run_id or None,
            directory.run if run_id else directory.target,
            work=left,
            notes=notes,
        )
        if target is not None:
            row.settings, row.meta = dict(target.settings), target.meta
        row.settings |= flat(left.get("settings") or {})
        if run_id:
            row.settings.setdefault("sampler.name", row.sampler)


def _work_names(root):
    names = []
    for directory, suffix in ((root / "work", ""), (root / "failures", ".json")):
        try:
            with os.scandir(directory) as entries:
                names += [entry.name.removesuffix(suffix) for entry in entries if entry.name.endswith(suffix)]
        except (FileNotFoundError, NotADirectoryError):
            continue
    fits = re.compile(rf"{TARGET.pattern}(\.{RUN.pattern})?")
    return sorted({name for name in names if fits.fullmatch(name)})


def _left(root, name):
    """What is known of unfinished work; the parts that are there say so under their own names."""
    directory = root / "work" / name
    parts = {
        "failed": store.read_note(root / "failures" / f"{name}.json"),
        "submitted": store.read_note(directory / "submitted.json"),
        "owner": store.read_note(directory / "owner.json"),
        "progress": store.read_note(directory / "progress.json"),
    }
    left = {}
    for part, values in parts.items():
        if values:
            left |= {key: value for key, value in values.items() if value is not None} | {part: True}
    left["owner_is_alive"] = leases.is_alive(parts["owner"]) if parts["owner"] else False
    left["has_directory"] = directory.is_dir()
    left["has_checkpoint"] = store.is_done(directory / "checkpoint")
    try:
        left["silent_sec"] = max(0.0, time.time() - (directory / "progress.json").stat().st_mtime)
    except OSError:
        left["silent_sec"] = None
    left.setdefault("slurm_job", None)
    return left


def _state(left, queued):
    """The state of unfinished work and what is to be said of it; None where nothing is left of it."""
    job = left["slurm_job"]
    in_queue = None if queued is None or job is None else queued.get(str(job))
    silent = left["silent_sec"]
    alive = left["owner_is_alive"]
    if alive is None:
        alive = in_queue == "RUNNING" or (silent is not None and silent < UNHEARD)
    if alive:
        notes = [_progress_words(left)]
        if silent is not None and silent > leases.DEAD_AFTER:
            notes.append(f"no heartbeat for {duration(silent)}")
        return "running", notes
    if in_queue is not None:
        return "queued", [f"SLURM job {job}: {in_queue.lower()}"]
    if "submitted" in left and queued is None and "failed" not in left and "owner" not in left:
        return "queued", [f"SLURM job {job}, whose state squeue does not tell here"]
    if "failed" in left:
        return "failed", [_failure_words(left)] + ["it goes on from its checkpoint"] * left["has_checkpoint"]
    if left["has_directory"]:
        kept = "goes on from its checkpoint" if left["has_checkpoint"] else "begins anew"
        gone = f"SLURM job {job} is gone" if job else "its process is gone" if "owner" in left else "it was stopped"
        return "stale", [f"{gone}; the same command {kept}"]
    return None, []


def is_running(root, name):
    """Whether somebody works at this now, as far as files tell."""
    return _state(_left(root, name), {})[0] == "running"


def _progress_words(left):
    words = [str(left.get("phase") or "starting")]
    draw, draws = left.get("draw"), left.get("draws")
    if draw is not None and draws:
        words.append(f"{draw}/{draws} draws ({100 * draw / draws:.0f} %)")
    where = f"SLURM job {left['slurm_job']}" if left["slurm_job"] else f"process {left.get('pid')}"
    return f"{' '.join(words)}, {where} on {left.get('host')}"


def _failure_words(left):
    first = str(left.get("error", "")).split("\n")[0]
    command = left.get("command") or []
    retry = f"; again: {words(['python', *command])}" if command else ""
    return f"{left.get('kind', 'Error')}: {first}; log: {left.get('log') or 'none'}{retry}"


def words(command):
    """A command line as a shell takes it."""
    return shlex.join(map(str, command))


def queue(jobs):
    """SLURM's state (PENDING, RUNNING, …) of those of these jobs that it has; None where it cannot be asked here."""
    jobs = sorted({str(job) for job in jobs if job})
    if not jobs or shutil.which("squeue") is None:
        return {} if not jobs else None
    arrays = ",".join(sorted({job.partition("_")[0] for job in jobs}))
    argv = ["squeue", "--noheader", "--array", "--format=%i|%T", f"--jobs={arrays}"]
    try:
        asked = subprocess.run(argv, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode and "Invalid job id" not in asked.stderr:
        return None
    lines = (line.strip().partition("|") for line in asked.stdout.splitlines())
    return {job: state for job, _, state in lines if state}
