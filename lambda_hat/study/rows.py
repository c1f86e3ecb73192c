"""What is under a root, one `Row` for each run: its state told from the files alone, its settings, its result.

A published directory is done, whatever else there is; then come a living owner, a place in SLURM's queue, a record of a failure,
what is left of work. Every number shown comes out of a file that matches its hash: one that does not makes its row `damaged`.
"""

import difflib
import hashlib
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lambda_hat import store, work
from lambda_hat.errors import StoreError

STATES = ("done", "damaged", "running", "queued", "failed", "stale", "missing")
"""In the order in which they are counted; a finished run's verdict (ok, warn, bad) is told beside `done`."""

META_KEYS = ("target_id", "seed", "model_cfg", "data_cfg", "training_cfg", "dims", "metrics", "truth", "walltime_sec")
RESULT_KEYS = (
    "sampler",
    "sampler_config",
    "posterior_config",
    "llc_mean",
    "llc_std",
    "llc_mcse",
    "llc_interval95",
    "ess",
    "rhat",
    "status",
    "status_reasons",
    "truth",
    "total_fges",
    "walltime_sec",
    "timings_sec",
    "created_at",
)
"""What meta.json and analysis.json must have to be shown."""

TARGET, RUN = re.compile(r"tgt_[0-9a-f]{12}"), re.compile(r"run_([a-z]+)_[0-9a-f]{8}")

UNHEARD = 2 * work.DEAD_AFTER
"""Seconds without a heartbeat after which an owner on another machine is taken for dead; clocks may differ a little."""

ALIASES = {
    "target": "target_id",
    "run": "run_id",
    "verdict": "status",
    "model": "model.kind",
    "data": "data.kind",
    "training": "training.kind",
    "sampler": "sampler.name",
    "target_seed": "seed",
}
"""Short names of settings, as filters and columns take them."""


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


# --- looking ----------------------------------------------------------------------------------------------------------


def scan(root):
    """Every `Row` under a root, sorted by target, sampler and settings.

    Raises:
        StoreError: where there is no such directory.
    """
    root = Path(root)
    if not root.is_dir():
        raise StoreError(
            f"{root}: there is no such directory; name the one that holds targets/ (runs unless store.root was set)."
        )
    base = root / "targets"
    target_ids = names(base, TARGET)
    runs = dict(zip(target_ids, _many(partial(names, pattern=RUN), [base / name for name in target_ids]), strict=True))
    places = [(f"{base}/{target_id}", "meta.json") for target_id in target_ids]
    places += [
        (f"{base}/{target_id}/{run_id}", "analysis.json") for target_id in target_ids for run_id in runs[target_id]
    ]
    read = dict(zip(places, _many(_read, places), strict=True))
    rows, targets = {}, {}
    for target_id in target_ids:
        target = _target(base / target_id, read[f"{base}/{target_id}", "meta.json"])
        if target is None:
            continue
        targets[target_id] = target
        found = [
            _run(target, run_id, read[f"{base}/{target_id}/{run_id}", "analysis.json"]) for run_id in runs[target_id]
        ]
        rows |= {row.name: row for row in found if row is not None}
        if not any(found) or target.state == "damaged":
            rows[target.name] = target
    _add_unfinished(root, rows, targets)
    return ordered(rows.values())


READERS, BLOCK = 16, 20
"""Threads that read, and how many directories each takes at a time: a shared file system takes a millisecond for each file."""


def _many(act, values):
    """`act` of each value, in their order, by many threads."""
    blocks = [values[first : first + BLOCK] for first in range(0, len(values), BLOCK)]
    with ThreadPoolExecutor(READERS) as pool:
        return [one for block in pool.map(lambda block: [act(value) for value in block], blocks) for one in block]


def _read(place):
    """A file of a published directory and the directory's list of hashes, as bytes; None where one cannot be read."""
    directory, name = place
    try:
        with open(f"{directory}/{name}", "rb") as file, open(f"{directory}/{store.SUMS}", "rb") as sums:
            return file.read(), sums.read()
    except OSError:
        return None


def ordered(rows):
    """Rows by target, sampler and the settings in which they differ."""
    rows = list(rows)
    keys = varying(rows)
    rank = lambda value: (value is not None, isinstance(value, str), 0 if value is None else value)
    plain = lambda value: rank(show(value) if isinstance(value, (list, tuple, bool)) else value)
    return sorted(
        rows,
        key=lambda row: (row.target_id, row.sampler or "", *(plain(row.settings.get(key)) for key in keys), row.name),
    )


def names(directory, pattern):
    """Subdirectories whose names fit, sorted."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if pattern.fullmatch(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _target(directory, read):
    row = Row("done", "target", directory.name, None, directory)
    try:
        found = _checked(directory / "meta.json", read, META_KEYS)
        groups = {key: found[f"{key}_cfg"] for key in ("model", "data", "training")} | {"seed": found["seed"]}
        _check_name(directory, "target", groups)
        row.meta, row.settings = found, flat(groups)
    except StoreError as error:
        if not store.is_done(directory):  # it was moved away meanwhile
            return None
        row.state, row.notes = "damaged", [str(error)]
    return row


def _run(target, run_id, read):
    directory = target.directory / run_id
    row = Row("done", "run", target.target_id, run_id, directory, dict(target.settings), target.meta)
    try:
        found = _checked(directory / "analysis.json", read, RESULT_KEYS)
        groups = {"sampler": found["sampler_config"], "posterior": found["posterior_config"]}
        _check_name(directory, "run", groups)
        row.result, row.notes = found, list(found["status_reasons"])
        row.settings |= flat(groups)
    except StoreError as error:
        if not store.is_done(directory):
            return None
        row.state, row.notes = "damaged", [str(error)]
    if target.state == "damaged":
        row.notes.append("its target is damaged")
    return row


def _checked(path, read, keys):
    """The JSON object in a file that was read, if it matches its hash: `store.read_json` for what is read already."""
    try:
        data, sums = read
        if f"{hashlib.sha256(data).hexdigest()}  {path.name}".encode() in sums.splitlines():
            found = json.loads(data)
            if all(key in found for key in keys):
                return found
    except (ValueError, TypeError):  # nothing was read, or it is no JSON object
        pass
    return store.read_json(path, *keys)  # which says what is wrong


def _check_name(directory, stage, groups):
    try:
        found = store.digest(stage, [groups[key] for key in store.STAGES[stage].keys])
    except ValueError:
        found = None
    if found != directory.name.rsplit("_", 1)[-1]:
        raise StoreError(
            f"{directory} is not what its name says: its settings hash to {found}, so it was renamed, or made by another "
            "version of lambda_hat; move it away and rerun."
        )


def flat(groups):
    """Nested settings as dotted key → value; what is null is left out."""
    settings = {}
    for group, values in groups.items():
        if isinstance(values, dict):
            settings |= {f"{group}.{key}": value for key, value in values.items() if value is not None}
        elif values is not None:
            settings[group] = values
    return settings


# --- work that is not finished ----------------------------------------------------------------------------------------


def _add_unfinished(root, rows, targets):
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
        "failed": work.read(root / "failures" / f"{name}.json"),
        "submitted": work.read(directory / "submitted.json"),
        "owner": work.read(directory / "owner.json"),
        "progress": work.read(directory / "progress.json"),
    }
    left = {}
    for part, values in parts.items():
        if values:
            left |= {key: value for key, value in values.items() if value is not None} | {part: True}
    left["owner_is_alive"] = work.is_alive(parts["owner"]) if parts["owner"] else False
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
        if silent is not None and silent > work.DEAD_AFTER:
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


# --- choosing ---------------------------------------------------------------------------------------------------------


def keys_of(rows):
    """Every setting that any of these rows has."""
    return dict.fromkeys(key for row in rows for key in row.settings)


def resolve(key, known):
    """The full name of a setting that is given in short: `n_data` for `data.n_data`, `model` for `model.kind`.

    Raises:
        StoreError: where there is none, or there are several.
    """
    if key in ("status", "state", "verdict", "stage", "target_id", "run_id") or key in known:
        return key
    if key in ALIASES:
        return ALIASES[key]
    fitting = [name for name in known if name.rpartition(".")[2] == key]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise StoreError(f"{key} may mean {' or '.join(sorted(fitting))}: write the one that is meant.")
    names = [*known, *(name.rpartition(".")[2] for name in known), *ALIASES, "status"]
    close = difflib.get_close_matches(key, names, 1)
    near = f" Did you mean {close[0]}?" if close else ""
    raise StoreError(
        f"{key}: no run here has such a setting; filter by status, target, sampler or a setting such as data.n_data.{near}"
    )


def select(rows, filters):
    """The rows that fit every filter: pairs of a key and the values that it may have, as text.

    Raises:
        StoreError: for a key that no row has.
    """
    known = keys_of(rows)
    chosen = [(resolve(key, known), values) for key, values in filters] if rows else []
    for key, values in chosen:
        if key in ("status", "state", "verdict"):
            allowed = (*STATES, "ok", "warn", "bad")
            if unknown := [value for value in values if value not in allowed]:
                raise StoreError(f"status={unknown[0]}: there is no such status; expected one of {', '.join(allowed)}.")
    return [row for row in rows if all(_fits(row, key, values) for key, values in chosen)]


def _fits(row, key, values):
    has = row.values(key)
    if key in ("target_id", "run_id"):
        return any(str(one or "").startswith(value.rstrip("/").rpartition("/")[2]) for one in has for value in values)
    return any(_equal(one, value) for one in has for value in values)


def _equal(value, text):
    if show(value) == text.replace(" ", ""):
        return True
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return False


def show(value):
    """A setting as one writes it on a command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(show, value))}]"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


KINDS = {"model": "model.kind", "data": "data.kind", "training": "training.kind", "sampler": "sampler.name"}
"""The setting that says which others a group has."""

NEVER_NULL = {
    "model": "model.kind",
    "data": "data.kind",
    "training": "training.kind",
    "seed": "seed",
    "sampler": "sampler.chains",
    "posterior": "posterior.loss",
}
"""A setting that a group always has."""


def varying(rows, groups=tuple(NEVER_NULL)):
    """Settings in these groups in which rows of the same kind differ, and those that make the kinds where there are several."""
    found = []
    for group in groups:
        known = [row for row in rows if knows(row, group)]
        if group in store.STAGES["target"].keys:  # the same for all runs of a target
            known = {row.target_id: row for row in known}.values()
        kinds = {}
        for row in known:
            kinds.setdefault(row.settings.get(KINDS.get(group)), []).append(row.settings)
        for key in keys_of(known):
            if key.partition(".")[0] == group:
                apart = (
                    len(kinds) > 1 if key == KINDS.get(group) else any(_differ(alike, key) for alike in kinds.values())
                )
                found += [key] * apart
    return found


def _differ(settings, key):
    values = [one.get(key) for one in settings]
    return values.count(values[0]) != len(values)


def knows(row, group):
    """Whether the row's settings in a group are known, not just the name of its sampler."""
    return NEVER_NULL[group] in row.settings


def duration(seconds):
    """Seconds, minutes or hours, whichever reads best."""
    if seconds is None:
        return "–"
    for unit, size, most in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, math.inf)):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}"
