"""What a directory was made of, why two differ, and where the log of what made it is."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lambda_hat import store
from lambda_hat.inspect.formats import setting
from lambda_hat.inspect.records import flat
from lambda_hat.inspect.scan import entries, scan
from lambda_hat.system.errors import StoreError, UserError

UNHASHED = {
    "run": ("created_at", "provenance"),
    "target": ("created_at", "model", "data", "code_sha", "pkg_versions", "hostname"),
}
"""What is recorded beside a result and not in its name."""


def find(root: Path, name: str) -> Path:
    """The published directory that is named by its path, its id, or <target id>/<run id> or <target id>.<run id>.

    Raises:
        UserError: where the name is empty.
        StoreError: where there is none, or several.
    """
    if not name.strip():
        raise UserError("the name is empty: name a target or a run by its path or its id.")
    given = Path(name).expanduser()
    resolved = Path(os.path.abspath(given))
    if _is_named(resolved) and _is_there(resolved):
        return resolved if given.name in ("", ".", "..") else given
    targets = root / "targets"
    last = name.rstrip("/").replace(".run_", "/run_").split("/")[-2:]
    if all(_is_named(Path(part)) for part in last) and _is_there(direct := targets.joinpath(*last)):
        return direct
    runs = (
        [targets / target / last[-1] for target in entries(targets, store.TARGET_ID)]
        if store.RUN_ID.fullmatch(last[-1])
        else []
    )
    there = [path for path in runs if _is_there(path)]
    if len(there) == 1:
        return there[0]
    if there:
        raise StoreError(
            f"{name} is in {len(there)} targets: {', '.join(p.parent.name for p in there)}; name one of them."
        )
    raise StoreError(f"{name}: there is no such target or run, neither as a path nor in {targets}.")


def _is_named(path):
    return store.TARGET_ID.fullmatch(path.name) or store.RUN_ID.fullmatch(path.name)


def _is_there(path):
    return not path.is_symlink() and store.is_done(path)


def _stage(directory):
    return "run" if directory.name.startswith("run_") else "target"


def _record(directory):
    return store.read_json(directory / ("analysis.json" if _stage(directory) == "run" else "meta.json"))


class Explanation(NamedTuple):
    """What is hashed into a directory's name, and what is only recorded.

    Attributes:
        hashed: the version and the settings, by dotted key.
        null: settings that are null, and so left out.
        not_hashed: where the result came from.
        recipe: how the name follows.
    """

    hashed: dict[str, Any]
    null: list[str]
    not_hashed: dict[str, Any]
    recipe: str


def explain(directory: Path) -> Explanation:
    """Why a directory has its name.

    Raises:
        StoreError: where it is damaged.
    """
    stage = _stage(directory)
    algorithm, length, _, keys = store.STAGES[stage]
    groups = store.open_config(directory, stage)
    version = store.version_of(stage, [groups[key] for key in keys], directory.name.rpartition("_")[2])
    null = [
        f"{key}.{name}"
        for key in keys
        if isinstance(groups[key], Mapping)
        for name, value in groups[key].items()
        if value is None
    ]
    recipe = (
        f"its name ends in the first {length} digits of the {algorithm} of these, as JSON with sorted keys and without spaces; "
        "they match"
    )
    hashed = {"version": version} | flat({key: groups[key] for key in keys}, directory)
    return Explanation(hashed, null, _unhashed(directory), recipe)


def _unhashed(directory):
    record, flattened = _record(directory), {}
    for key in UNHASHED[_stage(directory)]:
        value = record.get(key)
        inner = {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, Mapping) else {key: value}
        flattened |= {name: each for name, each in inner.items() if each is not None}
    return flattened


class Difference(NamedTuple):
    """A key, and its values in two directories."""

    key: str
    a: Any
    b: Any


def differences(a: Path, b: Path) -> dict[str, list[Difference]]:
    """In which settings (`hashed`), and in what else that is recorded (`not hashed`), two directories differ.

    Raises:
        StoreError: where one is damaged.
    """
    parts = {}
    for title, read in (("hashed", _settings), ("not hashed", _unhashed)):
        here, there = read(a), read(b)
        keys = [key for key in dict.fromkeys((*here, *there)) if here.get(key) != there.get(key)]
        parts[title] = [Difference(key, here.get(key), there.get(key)) for key in keys]
    return parts


def _settings(directory):
    """What a directory was made with, checked against its name; a run's target's, too."""
    stage = _stage(directory)
    groups = store.open_config(directory, stage)
    if stage == "run":
        groups = store.open_config(directory.parent, "target") | groups
    return flat(groups, directory)


def value_text(value: Any) -> str:
    """A value in a line, mappings as pairs."""
    return ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, Mapping) else setting(value)


def find_log(root: Path, name: str) -> Path:
    """The log of what made a target or a run, or failed to, which lies under the root's logs/.

    Raises:
        StoreError: where it is not recorded, or not there.
    """
    log = _recorded_log(root, name)
    if log is None:
        raise StoreError(f"{name}: its log is not recorded; look in {root / 'logs'}.")
    logs = root / "logs"
    candidates = [Path(log)]
    if "/logs/" in log:  # the store was moved, or the command ran elsewhere
        candidates.append(logs / log.rpartition("/logs/")[2])
    for path in candidates:
        if os.path.isfile(path) and _is_below(path, logs):
            return path
    raise StoreError(
        f"{name}: its log is recorded as {log}, which is no file under {logs}; it may be on another machine."
    )


def _recorded_log(root, name):
    try:
        directory = find(root, name)
    except StoreError:  # unfinished work has a name as well
        name = name.rstrip("/").removeprefix(f"{root}/targets/").replace("/run_", ".run_")
        left = [record for record in scan(root) if record.attempt and name in (record.name, record.run_id)]
        if len(left) != 1:
            raise
        return left[0].attempt.log if left[0].attempt else None
    provenance = _record(directory).get("provenance")
    log = provenance.get("log") if isinstance(provenance, dict) else None
    return log if isinstance(log, str) else None


def _is_below(path, directory):
    """Whether a path, its links resolved, lies below a directory of the root, which may be no link itself."""
    real = os.path.join(os.path.realpath(directory.parent), directory.name)
    return os.path.realpath(path).startswith(real + os.sep)
