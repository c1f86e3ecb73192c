"""The manifests _catalog.jsonl and _runs.jsonl: a line a target or a run. An index, never the truth, which is the directories."""

import fcntl
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lambda_hat.store.files import finite, replace_file
from lambda_hat.store.publish import read_json
from lambda_hat.store.times import unix_time
from lambda_hat.system.errors import StoreError


def target_line(directory: Path) -> dict[str, Any]:
    """A published target's line in the catalog: the names of its model and data, and all settings beside them.

    Raises:
        StoreError: where its meta.json is damaged.
    """
    meta = read_json(directory / "meta.json", "target_id", "created_at", "model_cfg", "data_cfg", "seed")
    return {
        "target_id": meta["target_id"],
        "created_at": unix_time(meta["created_at"]),
        "model": meta.get("model") or _kind(meta["model_cfg"]),
        "data": meta.get("data") or _kind(meta["data_cfg"]),
        "seed": meta["seed"],
        "model_cfg": meta["model_cfg"],
        "data_cfg": meta["data_cfg"],
        "training_cfg": meta.get("training_cfg"),
    }


def run_line(directory: Path) -> dict[str, Any]:
    """A published run's line in its target's index of runs.

    Raises:
        StoreError: where its analysis.json is damaged.
    """
    keys = ("target_id", "sampler", "sampler_config", "posterior_config", "walltime_sec", "created_at")
    analysis = read_json(directory / "analysis.json", *keys)
    return {
        "target_id": analysis["target_id"],
        "sampler": analysis["sampler"],
        "hyperparams": {"sampler": analysis["sampler_config"], "posterior": analysis["posterior_config"]},
        "walltime_sec": analysis["walltime_sec"],
        "artifact_path": str(directory),
        "created_at": unix_time(analysis["created_at"]),
    }


def _kind(settings):
    """What stands for the name in targets that were made before it was recorded."""
    return settings.get("kind") if isinstance(settings, dict) else None


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write a manifest anew in one step, the oldest line first."""
    lines = sorted(records, key=lambda record: record["created_at"] or 0.0)
    text = "".join(json.dumps(finite(record), allow_nan=False) + "\n" for record in lines)
    replace_file(path, lambda file: file.write(text.encode()), durable=False)


def append_line(path: Path | str, record: dict[str, Any]) -> None:
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


def read_lines(path: Path | str) -> list[dict[str, Any]]:
    """All records of a manifest; none where there is no file."""
    try:
        return [json.loads(line) for line in Path(path).read_text().splitlines() if line]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise StoreError(
            f"{path} has a line that is not JSON ({error}); delete the file, the directories are the truth."
        ) from error
