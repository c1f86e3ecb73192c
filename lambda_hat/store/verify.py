"""Seeing that what is published is as it was published, and belongs where it lies: everything that is wrong with a directory, a
sentence each.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lambda_hat.store import trajectory
from lambda_hat.store.files import damaged, open_regular, read_sealed_arrays, take_maker
from lambda_hat.store.layout import SUMS
from lambda_hat.store.publish import check_maker, hashes, open_config, read_json, sha256
from lambda_hat.system.errors import StoreError

JOINED_LATER = ("_runs.jsonl", SUMS)
"""Files of a published directory that have no line in its list of hashes; so have runs, curvature files, and steps of training."""


PARTS = {
    "target": ("config.yaml", "meta.json", "data.npz", "params.npz"),
    "run": ("config.yaml", "analysis.json", "trace.nc"),
    "trajectory": ("config.yaml", "meta.json"),
}
"""Files that a published directory always has."""


def damages(directory: Path | str) -> Iterator[str]:
    """Everything that is wrong with a published directory: every file is read.

    Parts that were replaced, and listed anew with their hashes, are found by what the others say of them.
    """
    directory = Path(directory)
    stage = {"run": "run", "trj": trajectory.STAGE}.get(directory.name[:3], "target")
    try:
        sums = hashes(directory)
    except StoreError as error:
        yield str(error)
        return
    wrong = set()
    for name in PARTS[stage]:
        if name not in sums:
            yield f"{directory / name} is not in the list of files, {SUMS}: every {stage} has one"
    for name, expected in sums.items():
        try:
            if sha256(directory / name) == expected:
                continue
            yield f"{directory / name} does not match its hash"
        except StoreError as error:
            yield str(error)
        wrong.add(name)
    for path in _files_below(directory):
        name = path.relative_to(directory).as_posix()
        if name in sums or name in JOINED_LATER:
            continue
        prefix, check = _JOINED[stage]
        if not name.startswith(prefix) or "/" in name:
            yield f"{path} was not published with its directory"
            continue
        try:
            check(path, sums)
        except StoreError as error:
            yield str(error)
    checks = {"config.yaml": open_config}
    checks |= _CHECKS[stage]
    for name, check in checks.items():
        if wrong & {name, "analysis.json"} or name not in sums:
            continue
        try:
            check(directory, stage)
        except StoreError as error:
            yield str(error)


def _files_below(directory):
    """Everything below a directory that is no directory, except in runs, which are verified by themselves; no link is followed."""
    for here, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith("run_"))
        links = [name for name in directories if Path(here, name).is_symlink()]
        yield from (Path(here, name) for name in sorted([*names, *links]))


def _check_curvature(path, sums):
    maker = take_maker(path, read_sealed_arrays(path))
    if maker is None:  # of an earlier version: nobody reads it
        return
    loss = path.name.removeprefix("curvature_").removesuffix(".npz")
    expected = {"target_id": path.parent.name, "loss": loss} | {name: sums.get(name) for name in _TIED}
    for what, value in expected.items():
        check_maker(path, what, maker.get(what), value)


_TIED = ("data.npz", "params.npz")
"""Files of a target that its runs, its curvature and its meta.json name by their hashes."""


def _check_target(directory, stage):
    path, sums = directory / "meta.json", hashes(directory)
    meta = read_json(path, "target_id", "hashes")
    check_maker(path, "target_id", meta["target_id"], directory.name)
    _check_hashes(path, meta["hashes"], sums)


def _check_run(directory, stage):
    path = directory / "analysis.json"
    record = read_json(path)
    for what, expected in _place(directory).items():
        check_maker(path, what, record.get(what, expected), expected)
    try:
        sums = hashes(directory.parent)
    except StoreError:  # which is the target's damage, and said of it
        return
    if record.get("target_hashes") is not None:
        _check_hashes(path, record["target_hashes"], sums)


def _check_trace(directory, stage):
    path = directory / "trace.nc"
    attributes, place = _attributes(path), _place(directory)
    former = read_json(directory / "analysis.json").get("migrated_from")
    if former is not None and attributes.get("run_id") == former:  # the draws are as they were made
        place.pop("run_id")
    for what, expected in place.items():
        check_maker(path, what, attributes.get(what, expected), expected)


def _check_trajectory(directory, stage):
    path = directory / "meta.json"
    check_maker(path, "trajectory_id", read_json(path, "trajectory_id")["trajectory_id"], directory.name)


def _check_steps(path, sums):
    step, _ = trajectory.read_file(path)
    if path.name != trajectory.LATEST:
        check_maker(path, "name", path.name, trajectory.file_of(step))


_CHECKS = {
    "target": {"meta.json": _check_target},
    "run": {"analysis.json": _check_run, "trace.nc": _check_trace},
    trajectory.STAGE: {"meta.json": _check_trajectory},
}
"""What is checked of each file beside its hash."""

_JOINED = {
    "target": (("curvature_",), _check_curvature),
    "run": ((), _check_curvature),
    trajectory.STAGE: (("step_", trajectory.LATEST), _check_steps),
}
"""How the names of files begin that join a directory later, and what is checked of them."""


def _place(directory):
    return {"target_id": directory.parent.name, "run_id": directory.name}


def _check_hashes(path, named: Any, sums: dict[str, str]):
    for name in _TIED:
        check_maker(path, f"hash of {name}", named.get(name) if isinstance(named, dict) else named, sums.get(name))


def _attributes(path):
    """The texts that a netCDF file says of itself."""
    import h5py

    try:
        with open_regular(path) as raw, h5py.File(raw, "r") as file:
            return {name: value for name, value in file.attrs.items() if isinstance(value, str)}
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        text = " ".join(str(error).split())[:200]
        raise damaged(path, f"cannot be read ({text})") from error
