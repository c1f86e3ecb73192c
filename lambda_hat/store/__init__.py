"""The store: content-addressed directories, published by one rename and verified on opening. Knows no JAX.

    <root>/targets/_catalog.jsonl
    <root>/targets/tgt_<12 hex>/           config.yaml meta.json data.npz params.npz SHA256SUMS _runs.jsonl
        run_<sampler>_<8 hex>/             config.yaml trace.nc analysis.json SHA256SUMS diagnostics/
    <root>/work/                           what is being made (lambda_hat.store.work)
    <root>/failures/                       a record of each failed attempt, until one succeeds
    <root>/replaced/                       what force=true put aside

A directory exists = it is done. Work happens under work/, and one rename publishes it.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import yaml

from lambda_hat.system.errors import StoreError


class Stage(NamedTuple):
    """What a directory's name is the hash of."""

    algorithm: str  # of hashlib
    length: int  # hex digits kept
    version: int  # bump by hand where the same configuration gives other numbers
    keys: tuple[str, ...]  # the hashed configuration groups


STAGES = {
    "target": Stage("sha256", 12, 2, ("model", "data", "training", "seed")),
    "run": Stage("sha1", 8, 2, ("sampler", "posterior")),
}

SUMS = "SHA256SUMS"
"""Every published directory's list of the hashes of its files, as `sha256sum -c` reads it; a last comment has the list's own."""


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

    def name(self, stage):
        """What a target or a run is called outside targets/: in work/ and failures/."""
        return self.target_id if stage == "target" else f"{self.target_id}.{self.run_id}"

    def work(self, stage):
        """Where a target or a run is made; see `lambda_hat.store.work`."""
        return self.root / "work" / self.name(stage)

    def failure(self, stage):
        """The record of the last failed attempt at a target or a run."""
        return self.root / "failures" / f"{self.name(stage)}.json"

    @property
    def replaced(self):
        return self.root / "replaced"


# --- publish ----------------------------------------------------------------------------------------------------------


@contextmanager
def workspace(hidden):
    """An empty directory to build in; removed on the way out unless `publish` moved it away."""
    hidden = Path(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir()  # and nothing above it: a root that has vanished is not to be made anew
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def publish(hidden, final):
    """Seal the finished directory with the hashes of its files, and give it its name in one step.

    Returns:
        False where somebody else published first: theirs is the one to load, ours is to be thrown away.
    """
    hidden, final = Path(hidden), Path(final)
    seal(hidden)
    _sync(hidden)
    try:
        os.rename(hidden, final)
    except OSError:
        if is_done(final):
            return False
        raise
    _sync_directory(final.parent)
    return True


def seal(directory):
    """Write the hashes of all files below a directory into its SHA256SUMS."""
    directory = Path(directory)
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != SUMS)
    text = "".join(f"{sha256(path)}  {path.relative_to(directory).as_posix()}\n" for path in paths)
    (directory / SUMS).write_text(f"{text}# {hashlib.sha256(text.encode()).hexdigest()}\n")


def sha256(path):
    """Hex digest of a file's contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_done(directory):
    """Whether this stage was published: its directory exists and holds something."""
    try:
        with os.scandir(directory) as entries:
            return any(True for _ in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StoreError(f"{directory} cannot be looked into ({error.strerror}); see to its permissions.") from error


def set_aside(directory, paths):
    """Move a directory that is to be redone into <root>/replaced/; returns its new path."""
    paths.replaced.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S_%f")
    name = paths.name("target" if directory == paths.target else "run")
    aside = paths.replaced / f"{name}.{stamp}"
    os.rename(directory, aside)
    return aside


def _sync(directory):
    """Have a directory and all below it on the disk before its name is."""
    for path in directory.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        else:
            _sync_directory(path)
    _sync_directory(directory)


def _sync_directory(directory):
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    """A JSON file of a published directory, an object that has at least these keys, checked against its hash.

    Raises:
        StoreError: where it is missing or damaged.
    """
    check_hash(path)
    try:
        found = json.loads(_read(path))
    except ValueError as error:
        raise _damaged(path, f"is not JSON ({error})") from error
    if lacking := [key for key in keys if not isinstance(found, dict) or key not in found]:
        raise _damaged(path, f"lacks {', '.join(lacking)}")
    return found


def check_hash(path):
    """See that a file at the top of a published directory is the one that was published.

    Raises:
        StoreError: where it is not, or cannot be read.
    """
    path = Path(path)
    try:
        found = sha256(path)
    except OSError as error:
        _read(path)
        raise _damaged(path, f"cannot be read ({error})") from error
    known = hashes(path.parent)
    if path.name not in known:
        raise _damaged(path.with_name(SUMS), f"has no line for {path.name}")
    if known[path.name] != found:
        raise _damaged(path, f"is damaged: it does not match its hash in {SUMS}")


def hashes(directory):
    """What a published directory's SHA256SUMS says: the hash of each file by its path in there.

    Raises:
        StoreError: where it is missing or damaged.
    """
    path = Path(directory) / SUMS
    text, _, own = _read(path).rpartition("# ")
    if own.strip() != hashlib.sha256(text.encode()).hexdigest():
        raise _damaged(path, "is damaged: its lines do not match the hash that it ends with")
    return dict(reversed(line.split("  ", 1)) for line in text.splitlines())


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


def write_sealed_arrays(file, arrays):
    """Write an .npz file that holds its own hash, for `read_sealed_arrays`."""
    import numpy as np

    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez(file, **arrays, **{_SEAL: np.array(_hash_of(arrays))})


def read_sealed_arrays(path):
    """What `write_sealed_arrays` wrote.

    Raises:
        StoreError: where it is missing or damaged.
    """
    arrays = read_arrays(path)
    if str(arrays.pop(_SEAL, "")) != _hash_of(arrays):
        raise _damaged_arrays(path, "it does not match its own hash")
    return arrays


_SEAL = "_sha256"


def _hash_of(arrays):
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}\n".encode())
        total.update(arrays[name].tobytes())
    return total.hexdigest()


def _damaged_arrays(path, what):
    return StoreError(f"{path} cannot be read ({what}); restore it, or move it away and run the command again.")


def read_arrays(path):
    """The arrays of an .npz file by name, nothing unpickled.

    Raises:
        StoreError: where it is missing or damaged.
    """
    import numpy as np

    try:
        with (
            open(path, "rb") as raw,
            np.load(raw, allow_pickle=False) as file,
        ):  # which leaves what it opens itself open
            return {name: file[name] for name in file.files}
    except Exception as error:  # a damaged zip archive may raise anything
        raise _damaged_arrays(path, f"{type(error).__name__}: {error}") from error


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
    """Append one JSON line to a manifest, whole, whoever else appends, and unless it is there."""
    line = (json.dumps(finite(record), allow_nan=False) + "\n").encode()
    with open(path, "a+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)  # POSIX record locks work on NFS too; released on closing
        file.seek(0)
        kept = file.read()
        whole = kept[: kept.rfind(b"\n") + 1]
        if kept != whole:  # a writer was killed, or its disk was full
            file.truncate(len(whole))
        if line not in whole:
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
