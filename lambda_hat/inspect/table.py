"""All runs under a root as one tidy table: a line for each, with its result, its error bar, its status and what it varies in."""

import csv
import importlib.util
import math
import os
import uuid
from collections.abc import Callable, Sequence
from io import TextIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from lambda_hat import store
from lambda_hat.analysis import summary
from lambda_hat.inspect.filters import select
from lambda_hat.inspect.formats import setting
from lambda_hat.inspect.groups import varying
from lambda_hat.inspect.records import Record
from lambda_hat.inspect.scan import scan
from lambda_hat.system.errors import StoreError, UserError
from lambda_hat.system.terminal import printable

if TYPE_CHECKING:
    import pandas as pd


def load_results(root: str | os.PathLike = "runs", **filters: Any) -> "pd.DataFrame":
    """A pandas DataFrame with a row for each run under a root, finished or not.

    Arguments:
        root: the directory that holds targets/.
        filters: what to keep, by short names: `sampler="hmc"`, `status=["warn", "bad"]`, `n_data=500`.

    Returns:
        the columns of COLUMNS, and one for every setting that varies, under its full name (`sampler.draws`).

    Example:
        lambda_hat.load_results("runs", sampler="hmc").groupby("n_data")["llc_mean"].mean()

    Raises:
        StoreError: where there is no such directory, or no such setting.
    """
    import pandas as pd

    chosen = [(key, values if isinstance(values, (list, tuple)) else [values]) for key, values in filters.items()]
    chosen = [(key, [setting(value) for value in values]) for key, values in chosen]
    header, lines = tidy(select(scan(root), chosen))
    return pd.DataFrame(lines, columns=header)


def _setting(key):
    return lambda record: record.settings.get(key)


def _statistic(column):
    return lambda record: column.read(record.summary) if record.summary else None


def _of_summary(read):
    """What `read` makes of a summary; None where there is none, or a part of it is missing or zero."""

    def made(record):
        try:
            return read(record.summary) if record.summary else None
        except (TypeError, ZeroDivisionError):
            return None

    return made


def _distance(distance2, norm2):
    """Root mean square of |w − w0| as a part of |w0|."""
    return math.sqrt(distance2 / norm2)


def _at_checkpoint(name):
    """A loss where w0 is, or was before its polish, on a trajectory."""
    return lambda record: getattr(record.meta.trajectory, name) if record.meta and record.meta.trajectory else None


def _concerns(found):
    """What the findings on a run concern: its sampler, its length, or w0."""
    return "; ".join(dict.fromkeys(each.concerns for each in found.findings or ())) if found else None


COLUMNS: dict[str, Callable[[Record], Any]] = {
    "target_id": lambda record: record.target_id,
    "model": _setting("model.kind"),
    "n_data": _setting("data.n_data"),
    "target_params": lambda record: record.meta.dims.p if record.meta else None,
    "seed": _setting("seed"),
    "sampler": lambda record: record.sampler,
    "sampler_seed": _setting("sampler.seed"),
    "status": lambda record: record.word,
    "status_reasons": lambda record: "; ".join(record.notes),
    "status_concerns": lambda record: _concerns(record.summary),
    **{column.name: _statistic(column) for column in summary.COLUMNS},
    "nbeta": _of_summary(lambda run: run.estimand.n * run.estimand.beta),
    "relative_distance": _of_summary(lambda run: _distance(run.distance2_mean, run.w0_norm2)),
    "stein_residual": _of_summary(lambda run: run.stein_identity.mean / run.stein_identity.expected - 1),
    "train_loss": _at_checkpoint("train_loss"),
    "test_loss": _at_checkpoint("test_loss"),
    "target_version": lambda record: record.target_version,
    "run_id": lambda record: record.run_id,
    "directory": lambda record: str(record.directory),
}
"""Column → what it holds of a record; None where it is unknown. Statistics are described in `analysis.summary`."""

OWN = {"model.kind", "data.n_data", "seed", "sampler.name", "sampler.seed"}
"""Settings that have a column in any case."""


def tidy(records: Sequence[Record]) -> tuple[list[str], list[list[Any]]]:
    """Header and lines of the tidy table; targets that have no run are left out."""
    runs = [record for record in records if record.run_id]
    keys = [key for key in varying(runs) if key not in OWN]
    lines = [
        [*(read(run) for read in COLUMNS.values()), *(_plain(run.settings.get(key)) for key in keys)] for run in runs
    ]
    return [*COLUMNS, *keys], lines


def _plain(value):
    return setting(value) if isinstance(value, (list, tuple)) else value


# --- files ------------------------------------------------------------------------------------------------------------

Writer = Callable[[Path, list[str], list[list[Any]]], None]


def writer(path: str) -> Writer:
    """The function `(path, header, lines)` that writes tables of this path's suffix.

    Raises:
        UserError: for another suffix, or where its package is missing.
    """
    suffix = Path(path).suffix
    if suffix not in _WRITERS:
        raise UserError(
            f"a table is written to a file that ends in {', '.join(_WRITERS)}; got {suffix or 'no suffix'}."
        )
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError("Parquet needs a package that is not installed: pip install pyarrow; or write .csv.")
    return _WRITERS[suffix]


def replace_file(path: str | os.PathLike, write: Callable[[Path], Any]) -> None:
    """Have `write` make a hidden file beside `path`, then rename it when it is complete.

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


def write_csv(header: list[str], lines: list[list[Any]], file: TextIO | TextIOBase) -> None:
    """Write a table as CSV; unknown values are empty, and no text can be read as a formula by a spreadsheet."""
    out = csv.writer(file, lineterminator="\n")
    out.writerow(header)
    out.writerows([_safe(value) for value in line] for line in lines)


def _safe(value):
    if not isinstance(value, str):
        return value
    text = printable(value).replace("\n", " ")
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _csv(path, header, lines):
    with open(path, "w", newline="", encoding="utf-8") as file:
        write_csv(header, lines, file)


def _json(path, header, lines):
    store.write_json(path, [dict(zip(header, line, strict=True)) for line in lines])


def _parquet(path, header, lines):
    import pandas as pd

    pd.DataFrame(lines, columns=header).to_parquet(path, engine="pyarrow")


_WRITERS: dict[str, Writer] = {".csv": _csv, ".json": _json, ".parquet": _parquet}
