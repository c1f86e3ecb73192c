"""What a user gives in files: hashed by content, read into arrays, never unpickled. Whatever does not fit is one sentence.

A file's hash is computed once per process, and again where its size, time or inode has changed.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lambda_hat.store import files
from lambda_hat.system.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

TABLES = (".csv", ".parquet")
"""Endings of files that hold a table, a column of which is the labels."""

BLOCK = 2**16
"""Pairs that are looked at together for numbers that are not finite."""

_HASHES: dict[tuple, str] = {}
_FACTS: dict[tuple, "Facts"] = {}


class Table(NamedTuple):
    """What the parts of a data set are called in a table.

    Attributes:
        target: the column of labels.
        inputs: the other columns.
        classes: what class i is called, where labels are words; else None.
    """

    target: str
    inputs: tuple[str, ...]
    classes: tuple[str, ...] | None


class Pairs(NamedTuple):
    """A data set as a file holds it.

    Attributes:
        x: inputs `[n, …]`, float64 or int64; in the precision of their file where they are mapped into memory (`MAPPED_FROM`).
        y: labels `[n, …]`, like x.
        table: what they are called, where the file is a table; else None.
    """

    x: "np.ndarray"
    y: "np.ndarray"
    table: Table | None


class Facts(NamedTuple):
    """What is known of a data set without its numbers.

    Attributes:
        sha256: of the file, and of the file of labels (None where they are in the same).
        x_shape, y_shape: of inputs and labels.
        integer: whether labels are integers.
        least, largest: label.
    """

    sha256: tuple[str, str | None]
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    integer: bool
    least: float
    largest: float


def sha256(path: Path | str, key: str) -> str:
    """Hex digest of a file's contents.

    Arguments:
        key: the setting that named the file, for the error.

    Raises:
        ConfigError: where it cannot be read.
    """
    found = _identity(path, key)
    if found not in _HASHES:
        with _opened(path, key) as file:
            _HASHES[found] = hashlib.file_digest(file, "sha256").hexdigest()
    return _HASHES[found]


def text(path: Path | str, key: str) -> str:
    """A UTF-8 file.

    Raises:
        ConfigError: where it cannot be read, or is none.
    """
    with _opened(path, key) as file:
        try:
            return file.read().decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{key}={path} is not UTF-8 text (byte {error.start}).") from error


def refuse_changed(path: Path | str, key: str, expected: str | None) -> None:
    """See that a file is still the one that a configuration was made for.

    Raises:
        ConfigError: where it is not.
    """
    if sha256(path, key) != expected:
        raise ConfigError(
            f"{key}={path}: the file has changed since this job was made (sha256 {sha256(path, key)[:12]}, then "
            f"{str(expected)[:12]}); restore it, or run the command again."
        )


def _identity(path, key):
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, key, error) from error
    return os.path.realpath(path), status.st_size, status.st_mtime_ns, status.st_ino


def _opened(path, key) -> BufferedReader:
    try:
        if not os.path.isfile(path) and os.path.exists(path):
            raise ConfigError(f"{key}={path}: a file is expected, and this is none.")
        return open(path, "rb")
    except (OSError, ValueError) as error:
        raise _unreadable(path, key, error) from error


def _unreadable(path, key, error):
    return ConfigError(f"{key}={path}: the file cannot be read ({getattr(error, 'strerror', None) or error}).")


# --- pairs ------------------------------------------------------------------------------------------------------------


def facts(path: str, labels_path: str | None, target: str | None, key: str = "data.path") -> Facts:
    """What `pairs` would give, remembered for as long as the files do not change."""
    known = (_identity(path, key), labels_path and _identity(labels_path, _beside(key, "labels_path")), target)
    if known not in _FACTS:
        hashes = sha256(path, key), labels_path and sha256(labels_path, _beside(key, "labels_path"))
        import numpy as np

        x, y, _ = pairs(path, labels_path, target, key)
        integer = np.issubdtype(y.dtype, np.integer)
        _FACTS[known] = Facts(hashes, x.shape, y.shape, bool(integer), float(y.min()), float(y.max()))
    return _FACTS[known]


def pairs(path: str, labels_path: str | None, target: str | None, key: str = "data.path") -> Pairs:
    """Read inputs and labels.

    Arguments:
        path: .npz with arrays X and Y, .npy with X, .csv or .parquet with columns of numbers.
        labels_path: .npy with Y.
        target: column of a table that is the labels; all others are inputs.
        key: what the setting that named `path` is called in errors.

    Raises:
        ConfigError: for whatever is no data set of equally many inputs and labels, all of them finite numbers.
    """
    ending = Path(path).suffix.lower()
    named = f"{key}={path}"
    table = None
    if ending in TABLES:
        x, y, table = _table(path, ending, target, key)
    elif target is not None:
        raise ConfigError(f"{_beside(key, 'target')} names a column, and {named} holds no table; leave it out.")
    elif ending == ".npy":
        if labels_path is None:
            raise ConfigError(
                f"{named} holds one array, the inputs; name the labels' with {_beside(key, 'labels_path')}=y.npy."
            )
        x, y = _npy(path, key), _npy(labels_path, _beside(key, "labels_path"))
    elif ending == ".npz":
        arrays = npz(path, key)
        upper = {name.upper(): array for name, array in arrays.items()}
        if not {"X", "Y"} <= set(upper):
            raise ConfigError(f"{named} must hold arrays X and Y; got {listed(arrays) or 'none'}.")
        x, y = upper["X"], upper["Y"]
    else:
        raise ConfigError(f"{named} must be a file .npz, .npy, .csv or .parquet; got {ending or 'none of these'!r}.")
    if labels_path is not None and ending != ".npy":
        raise ConfigError(
            f"{_beside(key, 'labels_path')} goes with a file .npy of inputs, and {named} has its own labels."
        )
    x, y = _checked(x, y, named)
    return Pairs(x, y, table)


def _beside(key, name):
    """The setting that says this of the file: `data.target` for `data.path`, `posterior.data_target` for `posterior.data`."""
    return key.removesuffix("path") + name if key.endswith("path") else f"{key}_{name}"


def _checked(x, y, named):
    import numpy as np

    for array, what in ((x, "inputs"), (y, "labels")):
        if array.ndim == 0 or array.size == 0:
            raise ConfigError(
                f"{named}: {what} must be an array with one entry for each pair; got shape {array.shape}."
            )
        if array.dtype == bool or np.issubdtype(array.dtype, np.integer):
            if np.issubdtype(array.dtype, np.unsignedinteger) and array.max() > np.iinfo(np.int64).max:
                raise ConfigError(f"{named}: {what} must fit 64-bit integers; the largest is {array.max()}.")
        elif np.issubdtype(array.dtype, np.floating):
            for first in range(0, len(array), BLOCK):
                block = np.isfinite(array[first : first + BLOCK])
                if not np.all(block):
                    where = tuple(int(i) for i in np.argwhere(~block)[0] + [first, *[0] * (array.ndim - 1)])
                    raise ConfigError(f"{named}: {what} must be finite; entry {list(where)} is {array[where]}.")
        else:
            raise ConfigError(f"{named}: {what} must be floats or integers; got an array of {array.dtype}.")
    if len(x) != len(y):
        raise ConfigError(f"{named}: inputs and labels must be equally many; got {len(x)} and {len(y)}.")
    if len(x) < 2:
        raise ConfigError(f"{named} must hold at least 2 pairs, since β = 1/log n; got {len(x)}.")
    return [array if isinstance(array, np.memmap) else widened(array) for array in (x, y)]


def widened(array: "np.ndarray") -> "np.ndarray":
    """The same numbers as float64 or int64."""
    import numpy as np

    return array.astype(np.float64 if np.issubdtype(array.dtype, np.floating) else np.int64)


def _table(path, ending, target, key):
    import numpy as np
    import pandas as pd

    named = f"{key}={path}"
    with _opened(path, key) as file:
        try:
            table = pd.read_csv(file) if ending == ".csv" else pd.read_parquet(file)
        except ImportError as error:
            raise ConfigError(f"{named}: reading Parquet needs pyarrow: pip install pyarrow.") from error
        except Exception as error:  # a file of any content
            raise ConfigError(f"{named} is no {ending[1:].upper()} table ({_brief(error)}).") from error
    table.columns = table.columns.astype(str)
    if target is None or target not in table.columns:
        got = "null" if target is None else target
        raise ConfigError(
            f"{_beside(key, 'target')} must name the column of labels, one of {listed(table.columns)}; got {got}."
        )
    for column in table.columns:
        lacking = np.flatnonzero(table[column].isna())
        if len(lacking):
            raise ConfigError(
                f"{named}: column {column} has no value in row {lacking[0]}; fill it in, or leave the row out."
            )
    inputs = table.drop(columns=target)
    for column in inputs.columns:
        if not pd.api.types.is_numeric_dtype(inputs[column]):
            raise ConfigError(
                f"{named}: column {column} must hold numbers; got {inputs[column].iloc[0]!r:.40}. Encode it, or leave it out."
            )
    labels = table[target]
    x, columns = inputs.to_numpy(), tuple(inputs.columns)
    if pd.api.types.is_numeric_dtype(labels):
        return x, labels.to_numpy(), Table(target, columns, None)
    names, y = np.unique(labels.astype(str).to_numpy(str), return_inverse=True)
    return x, y.astype(np.int64), Table(target, columns, tuple(str(name) for name in names))


# --- arrays by name ---------------------------------------------------------------------------------------------------


def named_arrays(path: str, key: str) -> dict[str, "np.ndarray"]:
    """The arrays of a file .npz or .safetensors by name.

    Raises:
        ConfigError: for anything else, pickles among it.
    """
    ending = Path(path).suffix.lower()
    if ending == ".npz":
        return npz(path, key)
    if ending == ".safetensors":
        return safetensors(path, key)
    raise ConfigError(
        f"{key}={path} must be a file .npz or .safetensors, since a pickle runs whatever code it holds; write one with "
        "numpy.savez, or safetensors.torch.save_file(module.state_dict(), 'w.safetensors')."
    )


def npz(path: str, key: str) -> dict[str, "np.ndarray"]:
    """The arrays of an .npz file by name.

    Raises:
        ConfigError: where it is none, or one of its arrays is of Python objects.
    """
    import numpy as np

    with _opened(path, key) as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except Exception as error:  # a damaged zip archive may raise anything
            raise _no_arrays(path, key, "an .npz file", error) from error


def _npy(path, key):
    import numpy as np

    with _opened(path, key) as file:
        try:
            if os.fstat(file.fileno()).st_size >= files.MAPPED_FROM:
                array = files.map_array(file)
                if array.dtype.isnative:
                    return array.view(np.uint8) if array.dtype == bool else array
                file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
        except Exception as error:
            raise _no_arrays(path, key, "an .npy file", error) from error


def safetensors(path: str, key: str) -> dict[str, "np.ndarray"]:
    """The arrays of a .safetensors file by name: 8 bytes of length, a JSON header, and the numbers.

    Raises:
        ConfigError: where it is none.
    """
    import ml_dtypes
    import numpy as np

    kinds = {f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)} | {f"I{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)}
    kinds |= {f"U{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)} | {"BOOL": "?", "BF16": ml_dtypes.bfloat16}
    with _opened(path, key) as file:
        content = file.read()
    try:
        size = int.from_bytes(content[:8], "little")
        header, numbers = json.loads(content[8 : 8 + size]), content[8 + size :]
        header.pop("__metadata__", None)
        arrays = {}
        for name, entry in header.items():
            dtype, (start, end) = np.dtype(kinds[entry["dtype"]]), entry["data_offsets"]
            if math.prod(entry["shape"]) * dtype.itemsize != end - start or not 0 <= start <= end <= len(numbers):
                raise ValueError(f"{name} does not hold as many numbers as it says")
            arrays[name] = np.frombuffer(numbers[start:end], dtype).reshape(entry["shape"])
        return arrays
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_arrays(path, key, "a .safetensors file", error) from error


def _no_arrays(path, key, what, error):
    if "allow_pickle" in str(error) or "pickled" in str(error):
        return ConfigError(
            f"{key}={path} holds Python objects (an array of dtype object, or a pickle), which are never loaded: save arrays "
            "of numbers."
        )
    return ConfigError(f"{key}={path} is not {what} of arrays of numbers ({_brief(error)}).")


def _brief(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def listed(names: Iterable[Any], most: int = 12) -> str:
    """Names in a sentence: the first ones, and how many there are."""
    names = [str(name) for name in names]
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
