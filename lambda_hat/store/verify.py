"""Seeing that what is published is as it was published: everything that is wrong with a directory, a sentence each."""

import os
from collections.abc import Iterator
from pathlib import Path

from lambda_hat.store.files import read_sealed_arrays
from lambda_hat.store.layout import SUMS
from lambda_hat.store.publish import hashes, open_config, sha256
from lambda_hat.system.errors import StoreError

JOINED_LATER = ("_runs.jsonl", SUMS)
"""Files of a published directory that have no line in its list of hashes; so have runs, and curvature files."""


def damages(directory: Path | str) -> Iterator[str]:
    """Everything that is wrong with a published directory: every file is read."""
    directory = Path(directory)
    try:
        sums = hashes(directory)
    except StoreError as error:
        yield str(error)
        return
    for name, expected in sums.items():
        try:
            if sha256(directory / name) != expected:
                yield f"{directory / name} does not match its hash"
        except StoreError as error:
            yield str(error)
    for path in _files_below(directory):
        name = path.relative_to(directory).as_posix()
        if name in sums or name in JOINED_LATER:
            continue
        if name.startswith("curvature_"):
            yield from _damage_of_arrays(path)
        else:
            yield f"{path} was not published with its directory"
    try:
        open_config(directory, "run" if directory.name.startswith("run_") else "target")
    except StoreError as error:
        yield str(error)


def _files_below(directory):
    """Everything below a directory that is no directory, except in runs, which are verified by themselves; no link is followed."""
    for here, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith("run_"))
        links = [name for name in directories if Path(here, name).is_symlink()]
        yield from (Path(here, name) for name in sorted([*names, *links]))


def _damage_of_arrays(path):
    try:
        read_sealed_arrays(path)
    except StoreError as error:
        yield str(error)
