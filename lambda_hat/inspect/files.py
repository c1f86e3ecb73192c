"""Files that tables and reports are written to: formats by suffix, always in one step."""

import csv
import importlib.util
import os
import sys
import uuid
from pathlib import Path

from lambda_hat import store
from lambda_hat.system.errors import StoreError, UserError


def replace(path, write):
    """Have `write` make a hidden file beside `path`, and give it its name when it is whole.

    Raises:
        StoreError: where it cannot be written there.
    """
    path = Path(path)
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(hidden)
        os.replace(hidden, path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}); choose another place.") from error
    finally:
        hidden.unlink(missing_ok=True) if hidden.parent.is_dir() else None


def of(suffix):
    """The function `(path, header, lines)` that writes tables with this suffix.

    Raises:
        UserError: for another suffix, or where its package is missing.
    """
    if suffix not in _WRITERS:
        raise UserError(
            f"a table is written to a file that ends in {', '.join(_WRITERS)}; got {suffix or 'no suffix'}."
        )
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError("Parquet needs a package that is not installed: pip install pyarrow; or write .csv.")
    return _WRITERS[suffix]


def write_csv(header, lines, file):
    """Write a table as CSV; what is not known is empty."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)


def _csv(path, header, lines):
    with open(path, "w", newline="", encoding="utf-8") as file:
        write_csv(header, lines, file)


def _json(path, header, lines):
    store.write_json(path, [dict(zip(header, line, strict=True)) for line in lines])


def _parquet(path, header, lines):
    import pandas as pd

    pd.DataFrame(lines, columns=header).to_parquet(path, engine="pyarrow")


_WRITERS = {".csv": _csv, ".json": _json, ".parquet": _parquet}


def print_csv(header, lines):
    """Print a table as CSV."""
    write_csv(header, lines, sys.stdout)
