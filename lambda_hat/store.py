"""The store: content-addressed directories, published by one rename and verified on opening. Knows no JAX.

    <root>/targets/_catalog.jsonl
    <root>/targets/tgt_<12 hex>/           config.yaml meta.json data.npz params.npz _runs.jsonl
        run_<sampler>_<8 hex>/             config.yaml trace.nc analysis.json diagnostics/
    <root>/replaced/                       what force=true put aside

A directory exists = it is done. Work happens in a hidden sibling that one rename publishes.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
import socket
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import yaml

from lambda_hat.errors import StoreError


class Stage(NamedTuple):
    """What a directory's name is the hash of."""

    algorithm: str  # of hashlib
    length: int  # hex digits kept
    version: int  # bump by hand where the same configuration gives other numbers
    keys: tuple[str, ...]  # the hashed configuration groups


STAGES = {
    "target": Stage("sha256", 12, 1, ("model", "data", "training", "seed")),
    "run": Stage("sha1", 8, 1, ("sampler", "posterior")),
}


def digest(stage, values):
    """Hex digest of a stage's configuration groups, in the order of its `keys`.

    Keys whose value is null are left out, so that a new optional setting renames nothing.

    Raises:
        ValueError: for NaN or infinity, which canonical JSON does not have.
    """
    algorithm, length, version, keys = STAGES[stage]
    payload = {"version": version} | {key: _without_null(plain(v)) for key, v in zip(keys, values, strict=True)}
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.new(algorithm, text.encode()).hexdigest()[:length]


def plain(value):
    """Dataclasses as dictionaries, at the top and one level down."""
    if is_dataclass(value):
        return asdict(value)
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _without_null(value):
    if isinstance(value, dict):
        return {k: _without_null(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_without_null(v) for v in value]
    return value


@dataclass(frozen=True)
class Paths:
    """Every path in the store is made here."""

    root: Path
    target_id: str
    run_id: str | None = None

    @property
    def targets(self):
        return self.root / "targets"

    @property
    def catalog(self):
        return self.targets / "_catalog.jsonl"

    @property
    def target(self):
        return self.targets / self.target_id

    @property
    def runs(self):
        return self.target / "_runs.jsonl"

    @property
    def run(self):
        return self.target / self.run_id

    @property
    def replaced(self):
        return self.root / "replaced"

    @property
    def failures(self):
        """Records of failed attempts, beside the target directories and never in one."""
        return self.root / "failures"


# --- publish ----------------------------------------------------------------------------------------------------------


@contextmanager
def workspace(final):
    """A hidden sibling of `final` to build in; removed on the way out unless `publish` moved it away."""
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    hidden = final.parent / f".{final.name}.{socket.gethostname()}.{os.getpid()}.tmp"
    shutil.rmtree(hidden, ignore_errors=True)  # a process of this host and number, hence dead, may have left one
    hidden.mkdir()
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def publish(hidden, final):
    """Give the finished directory its name in one step.

    Returns:
        False where somebody else published first: theirs is the one to load, ours is to be thrown away.
    """
    _sync(hidden)
    try:
        os.rename(hidden, final)
    except OSError:
        if is_done(final):
            return False
        raise
    return True


def is_done(directory):
    """Whether this stage was published: its directory exists and holds something."""
    try:
        with os.scandir(directory) as entries:
            return any(True for _ in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False


def set_aside(directory, paths):
    """Move a directory that is to be redone into <root>/replaced/; returns its new path."""
    paths.replaced.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S_%f")
    parent = f"{paths.target_id}." if directory != paths.target else ""
    aside = paths.replaced / f"{parent}{directory.name}.{stamp}"
    os.rename(directory, aside)
    return aside


def _sync(directory):
    for path in directory.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


# --- small files ------------------------------------------------------------------------------------------------------


def write_json(path, value):
    """Write finite JSON; NaN and infinities become null."""
    Path(path).write_text(json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def finite(value):
    """`value` as plain JSON types, with null in place of every number that is not finite."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    return float(value) if math.isfinite(value) else None


def read_json(path, *keys):
    """A JSON file of the store, an object that has at least these keys.

    Raises:
        StoreError: where it is missing or damaged.
    """
    try:
        found = json.loads(_read(path))
    except ValueError as error:
        raise _damaged(path, f"is not JSON ({error})") from error
    if lacking := [key for key in keys if not isinstance(found, dict) or key not in found]:
        raise _damaged(path, f"lacks {', '.join(lacking)}")
    return found


def write_config(directory, groups):
    """Keep the exact hashed configuration in the directory that is named after it."""
    text = yaml.safe_dump({k: plain(v) for k, v in groups.items()}, sort_keys=False)
    (Path(directory) / "config.yaml").write_text(text)


def open_config(directory, stage, expected=None):
    """The stored configuration of a published directory, checked against the directory's name.

    Arguments:
        expected: the groups that gave the directory its name, to say what differs where the check fails.

    Raises:
        StoreError: where it is missing, damaged, edited, or of another version.
    """
    directory = Path(directory)
    path = directory / "config.yaml"
    try:
        groups = yaml.safe_load(_read(path))
        values = [groups[key] for key in STAGES[stage].keys]
        found = digest(stage, values)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"cannot be read ({type(error).__name__}: {error})") from error
    if found != directory.name.rsplit("_", 1)[-1]:
        differing = "; ".join(_differences(groups, {k: plain(v) for k, v in (expected or {}).items()}))
        raise StoreError(
            f"{path} hashes to {found}, not to its directory's name: it was edited, or written by another version of "
            f"lambda_hat{f' ({differing})' if expected and differing else ''}; restore it, or move {directory} away and rerun."
        )
    return groups


def _differences(found, expected, key=""):
    """What differs between two nested configurations, key by key; null is the same as absent."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in sorted(found.keys() | expected.keys()):
            yield from _differences(found.get(name), expected.get(name), f"{key}.{name}" if key else name)
    elif found != expected:
        yield f"{key} is {found}, expected {expected}"


def _read(path):
    try:
        return Path(path).read_text()
    except FileNotFoundError as error:
        raise _damaged(path, "is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, f"cannot be read ({error})") from error


def _damaged(path, what):
    return StoreError(f"{path} {what}; restore it, or rerun with force=true to redo the directory it belongs to.")


# --- manifests: an index, never the truth -----------------------------------------------------------------------------


def append_line(path, record):
    """Append one JSON line to a manifest, whole, whoever else appends."""
    line = json.dumps(finite(record), allow_nan=False) + "\n"
    with open(path, "a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)  # POSIX record locks work on NFS too; released on closing
        file.write(line)


def read_lines(path):
    """All records of a manifest; none where there is no file."""
    try:
        return [json.loads(line) for line in Path(path).read_text().splitlines() if line]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise StoreError(
            f"{path} has a line that is not JSON ({error}); delete the file, the directories are the truth."
        ) from error


def now():
    """The time as artifacts record it: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
