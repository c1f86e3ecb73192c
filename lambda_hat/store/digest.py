"""Names that are hashes: one pure function from a stage's configuration to the digest that its directory is called by."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, fields, is_dataclass
from typing import Any, NamedTuple


class Stage(NamedTuple):
    """What a directory's name is the hash of.

    Attributes:
        algorithm: of hashlib.
        length: hex digits kept.
        version: bump by hand where the same configuration gives other numbers.
        keys: the hashed configuration groups.
    """

    algorithm: str
    length: int
    version: int
    keys: tuple[str, ...]


STAGES = {
    "target": Stage("sha256", 12, 2, ("model", "data", "training", "seed")),
    "run": Stage("sha1", 8, 3, ("sampler", "posterior")),
    "trajectory": Stage("sha256", 12, 1, ("model", "data", "training", "seed")),
}


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(stage: str, values: Iterable[Any], version: int | None = None) -> str:
    """Hex digest of a stage's configuration groups, in the order of its `keys`.

    Keys whose value is null are left out, so that a new optional setting renames nothing.

    Arguments:
        version: of the stage; None is today's.

    Raises:
        ValueError: for NaN or infinity, which canonical JSON does not have.
    """
    algorithm, length, today, keys = STAGES[stage]
    payload = {"version": version or today} | {
        key: _without_null(plain(v)) for key, v in zip(keys, values, strict=True)
    }
    return hashlib.new(algorithm, _CANONICAL.encode(payload).encode()).hexdigest()[:length]


def version_of(stage: str, values: Iterable[Any], name: str) -> int | None:
    """The newest version of a stage by which these configuration groups have this digest; None where there is none.

    Raises:
        ValueError: as `digest`.
    """
    values = list(values)
    versions = range(STAGES[stage].version, 0, -1)
    return next((version for version in versions if digest(stage, values, version) == name), None)


def plain(value: Any) -> Any:
    """Dataclasses as dictionaries, wherever they stand in nested dictionaries, without what is not hashed, such as paths."""
    if isinstance(value, dict):
        return {k: v if isinstance(v, (str, float, int)) else plain(v) for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        unhashed = {f.name for f in fields(value) if not f.metadata.get("hashed", True)}
        return {k: v for k, v in asdict(value).items() if k not in unhashed}
    return value


def _without_null(value):
    if isinstance(value, dict):
        return {
            k: v if isinstance(v, (str, float, int)) else _without_null(v) for k, v in value.items() if v is not None
        }
    if isinstance(value, (list, tuple)):
        return [_without_null(v) for v in value]
    return value
