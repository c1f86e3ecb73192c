"""The manifests _catalog.jsonl and _runs.jsonl: a line a target or a run. An index, never the truth, which is the directories."""

import fcntl
import json
from pathlib import Path
from typing import Any

from lambda_hat.store.files import finite
from lambda_hat.system.errors import StoreError


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
