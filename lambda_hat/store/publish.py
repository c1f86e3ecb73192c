"""Directories that appear whole: built under another name, sealed with the hashes of their files, published by one rename."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from lambda_hat.store.digest import STAGES, digest, plain, version_of
from lambda_hat.store.files import damaged, open_regular, parse_object, parse_yaml, read_bytes, read_text, refuse_hole
from lambda_hat.store.layout import SUMS, Paths
from lambda_hat.system.errors import StoreError


@contextmanager
def workspace(hidden: Path | str) -> Iterator[Path]:
    """An empty directory to build in; removed on the way out unless `publish` moved it away."""
    hidden = Path(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir()  # and nothing above it: a root that has vanished is not to be made anew
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def publish(hidden: Path | str, final: Path | str) -> bool:
    """Seal the finished directory with the hashes of its files, and give it its name in one step.

    Returns:
        False where somebody else published first: theirs is the one to load, ours is to be thrown away.
    """
    seal(hidden)
    return give_name(hidden, final)


def give_name(sealed: Path | str, final: Path | str) -> bool:
    """Give a directory that is finished and sealed its name in one step.

    Returns:
        False where somebody else was first, as `publish`.
    """
    sealed, final = Path(sealed), Path(final)
    _sync(sealed)
    try:
        os.rename(sealed, final)
    except OSError:
        if is_done(final):
            return False
        raise
    _sync_directory(final.parent)
    return True


def seal(directory: Path | str) -> None:
    """Write the hashes of all files below a directory into its SHA256SUMS."""
    directory = Path(directory)
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != SUMS)
    text = "".join(f"{sha256(path)}  {path.relative_to(directory).as_posix()}\n" for path in paths)
    (directory / SUMS).write_text(f"{text}# {hashlib.sha256(text.encode()).hexdigest()}\n")


def sha256(path: Path | str, root: Path | str | None = None) -> str:
    """Hex digest of a file's contents.

    Raises:
        StoreError: where it cannot be read.
    """
    with open_regular(path, root) as file:
        refuse_hole(path, file)
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise damaged(path, f"cannot be read ({error.strerror})") from error


def is_done(directory: Path | str) -> bool:
    """Whether this stage was published: its directory exists and holds something."""
    try:
        with os.scandir(directory) as entries:
            return any(True for _ in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StoreError(f"{directory} cannot be looked into ({error.strerror}); see to its permissions.") from error


def set_aside(directory: Path, paths: Paths) -> Path:
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


# --- what is published, read back -------------------------------------------------------------------------------------


def read_json(path: Path | str, *keys: str) -> dict[str, Any]:
    """A JSON file of a published directory, an object that has at least these keys, checked against its hash.

    Raises:
        StoreError: where it is missing or damaged.
    """
    path = Path(path)
    content = read_bytes(path)
    _check(path, hashlib.sha256(content).hexdigest())
    record = parse_object(path, content)
    if lacking := [key for key in keys if key not in record]:
        raise damaged(path, f"lacks {', '.join(lacking)}")
    return record


def check_hash(path: Path | str) -> None:
    """See that a file at the top of a published directory is the one that was published.

    Raises:
        StoreError: where it is not, or cannot be read.
    """
    _check(Path(path), sha256(path))


def check_maker(path: Path | str, what: str, actual: Any, expected: Any) -> None:
    """See that what a stored file says of what it was made from is so.

    Arguments:
        what: the part of it, for the sentence.

    Raises:
        StoreError: where it is not.
    """
    if actual != expected:
        raise damaged(
            path,
            f"is of something else: its {what} is {ascii(actual)[:80]}, expected {ascii(expected)[:80]}",
            "it was copied from elsewhere, or what it was made from was replaced; move it away and run the command again",
        )


def _check(path, actual):
    known = hashes(path.parent)
    if path.name not in known:
        raise damaged(path.with_name(SUMS), f"has no line for {path.name}")
    if known[path.name] != actual:
        raise damaged(path, f"is damaged: it does not match its hash in {SUMS}")


def hashes(directory: Path | str) -> dict[str, str]:
    """What a published directory's SHA256SUMS says: the hash of each file by its path in there.

    Raises:
        StoreError: where it is missing or damaged.
    """
    path = Path(directory) / SUMS
    return parse_hashes(path, read_text(path))


def parse_hashes(path: Path | str, text: str) -> dict[str, str]:
    """The hash of each file by its path, from the text of a SHA256SUMS.

    Raises:
        StoreError: where the text does not match the hash that it ends with.
    """
    lines, _, last = text.rpartition("# ")
    pairs = [line.split("  ", 1)[::-1] for line in lines.splitlines()]
    if last.strip() != hashlib.sha256(lines.encode()).hexdigest() or any(len(pair) != 2 for pair in pairs):
        raise damaged(path, "is damaged: its lines do not match the hash that it ends with")
    return dict(pairs)


def write_config(directory: Path | str, groups: dict[str, Any]) -> None:
    """Keep the exact hashed configuration in the directory that is named after it."""
    text = yaml.safe_dump({k: plain(v) for k, v in groups.items()}, sort_keys=False)
    (Path(directory) / "config.yaml").write_text(text)


def open_config(directory: Path | str, stage: str, expected: dict[str, Any] | None = None) -> dict[str, Any]:
    """The stored configuration of a published directory, checked against the directory's name and its list of hashes.

    Arguments:
        expected: the groups that gave the directory its name, to say what differs where the check fails.

    Raises:
        StoreError: where it is missing, damaged or edited, or of a later version.
    """
    directory = Path(directory)
    path = directory / "config.yaml"
    content = read_bytes(path)
    groups = parse_yaml(path, content)
    try:
        values = [groups[key] for key in STAGES[stage].keys]
        actual, version = digest(stage, values), version_of(stage, values, directory.name.rsplit("_", 1)[-1])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise damaged(path, f"cannot be read ({type(error).__name__}: {error})") from error
    if version is None:
        differing = "; ".join(_differences(groups, {k: plain(v) for k, v in (expected or {}).items()}))
        raise StoreError(
            f"{path} hashes to {actual}, not to its directory's name: it was edited, or written by another version of "
            f"lambda_hat{f' ({differing})' if expected and differing else ''}; restore it, or move {directory} away and rerun."
        )
    _check(path, hashlib.sha256(content).hexdigest())  # a setting that is null is in no name
    return groups


def _differences(actual, expected, key=""):
    """What differs between two nested configurations, key by key; null is the same as absent."""
    if isinstance(actual, dict) and isinstance(expected, dict):
        for name in sorted(actual.keys() | expected.keys()):
            yield from _differences(actual.get(name), expected.get(name), f"{key}.{name}" if key else name)
    elif actual != expected:
        yield f"{key} is {actual}, expected {expected}"
