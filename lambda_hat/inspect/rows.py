"""What is under a root: a `Row` for each run, its state told from the files alone, with its settings and its result.

A published directory is done, whatever else there is; then come a living owner, a place in SLURM's queue, a record of a failure,
what is left of work. Every number shown comes out of a file that matches its hash: one that does not makes its row `damaged`.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from lambda_hat import store
from lambda_hat.inspect import unfinished
from lambda_hat.inspect.choose import ordered
from lambda_hat.inspect.row import RUN, TARGET, Row, flat
from lambda_hat.system.errors import StoreError

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
    unfinished.add(root, rows, targets)
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
        lines, _, own = sums.rpartition(b"# ")
        whole = own.strip().decode() == hashlib.sha256(lines).hexdigest()
        if whole and f"{hashlib.sha256(data).hexdigest()}  {path.name}".encode() in lines.splitlines():
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
