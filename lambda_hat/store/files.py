"""Reading and writing the store's files. What is read may be anything: a value comes back, or one sentence as a `StoreError`.

Nothing that is no regular file is opened, no link is followed out of the store, nothing is unpickled, and no file can name a size
that is then allocated.
"""

import contextlib
import hashlib
import json
import math
import os
import stat
import struct
import uuid
import zipfile
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import IO, Any
from weakref import WeakValueDictionary

import yaml

from lambda_hat.store.layout import root_of
from lambda_hat.system.errors import StoreError

TEXT_LIMIT = 64 * 2**20
"""Bytes of the largest text file that is read: a thousand times the largest that is written."""

MAPPED_FROM = 2**28
"""Bytes from which an array of data stays in its file, and its rows are read when they are wanted."""

INTEGER_LIMIT = 2**64
"""Integers beyond this are no setting, count or seed."""

REMEDY = "restore it, or rerun with force=true to redo the directory it belongs to"


def damaged(path: Path | str, what: str, remedy: str = REMEDY) -> StoreError:
    """The error of a stored file: which file, what is wrong with it, and what to do."""
    return StoreError(f"{path} {what}; {remedy}.")


# --- reading ----------------------------------------------------------------------------------------------------------


def open_regular(path: Path | str, root: Path | str | None = None) -> BufferedReader:
    """Open a regular file for reading, and nothing else.

    Arguments:
        root: the directory that links must not lead out of; None = that of the store which the path lies in.

    Raises:
        StoreError: where it is missing, cannot be read, is no regular file, or lies outside the root.
    """
    path = Path(path)
    try:
        real = inside(path, root_of(path) if root is None else root)
        if not stat.S_ISREG(os.lstat(real).st_mode):
            raise damaged(path, "is not a regular file")
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        file = os.fdopen(os.open(real, flags), "rb")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise damaged(path, "is not a regular file")
        return file
    except FileNotFoundError as error:
        raise damaged(path, "is missing") from error
    except (OSError, ValueError) as error:  # the latter for a null byte in a name
        raise damaged(path, f"cannot be read ({getattr(error, 'strerror', None) or error})") from error


def refuse_hole(path: Path | str, file: IO[bytes]) -> None:
    """See that an open file is not, but for a thousandth, a hole: one of any size takes no room, and for ever to read.

    Raises:
        StoreError: where it is.
    """
    status = os.fstat(file.fileno())
    if status.st_size > TEXT_LIMIT and 512 * status.st_blocks < status.st_size / 1000:
        raise damaged(path, f"says that it has {status.st_size:.3g} bytes, of which almost none are on the disk")


def inside(path: Path | str, root: Path | str) -> str:
    """A path without the links below a root.

    Raises:
        StoreError: where they lead out of the root.
        OSError: where a link cannot be resolved.
    """
    root, path = os.path.abspath(root), os.path.abspath(path)
    if path != root and not path.startswith(root.rstrip("/") + "/"):
        raise damaged(path, f"lies outside {root}", "name a path inside it")
    here, linked = root, False
    for part in path[len(root) :].strip("/").split("/"):
        here = f"{here}/{part}"
        if linked := stat.S_ISLNK(os.lstat(here).st_mode):
            break
    if not linked:
        return path
    real, real_root = os.path.realpath(path, strict=True), os.path.realpath(root)
    if not real.startswith(real_root.rstrip("/") + "/"):
        raise damaged(path, f"is, or lies under, a link that leads out of {root}", "put the files themselves there")
    return real


def read_bytes(path: Path | str, root: Path | str | None = None, limit: int = TEXT_LIMIT) -> bytes:
    """The contents of a regular file inside a store.

    Raises:
        StoreError: as `open_regular`, and where it is larger than `limit` bytes.
    """
    with open_regular(path, root) as file:
        try:
            content = file.read(limit + 1) if os.fstat(file.fileno()).st_size <= limit else None
        except OSError as error:
            raise damaged(path, f"cannot be read ({error.strerror})") from error
    if content is None or len(content) > limit:
        raise damaged(path, f"is larger than {limit / 2**20:.3g} MiB, which no such file is")
    return content


def read_text(path: Path | str, root: Path | str | None = None) -> str:
    """The contents of a UTF-8 file; see `read_bytes`."""
    return _decode(path, read_bytes(path, root))


def read_object(path: Path | str, root: Path | str | None = None) -> dict[str, Any]:
    """The object in a JSON file, as yet unchecked against any hash; see `read_bytes` and `parse_object`."""
    return parse_object(path, read_bytes(path, root))


def parse_object(path: Path | str, content: bytes, numbers_are_checked: bool = False) -> dict[str, Any]:
    """A JSON object of finite numbers and printable text.

    Arguments:
        path: where it was read, for the error.
        numbers_are_checked: whether whoever asks refuses infinite and huge numbers, which costs half of the time here.

    Raises:
        StoreError: for anything else.
    """
    text = _decode(path, content)
    try:
        value = json.loads(text, parse_constant=_refuse_constant, **({} if numbers_are_checked else _NUMBERS))
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"is not JSON ({_brief(error)})") from error
    return _object(path, value, may_have_surrogates=_SURROGATE in text.lower())


def parse_yaml(path: Path | str, content: bytes) -> dict[str, Any]:
    """A YAML mapping of plain values: no tags that build objects, no aliases (which can stand for a huge document).

    Raises:
        StoreError: for anything else.
    """
    text = _decode(path, content)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_YamlLoader)):
            raise yaml.YAMLError("it has an alias")
        value = yaml.load(text, Loader=_YamlLoader)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, f"cannot be read ({_brief(error)})") from error
    return _object(path, value, may_have_surrogates=True)


_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_SURROGATE = "\\ud"
"""How the escape of a letter begins that is no letter by itself."""


def _object(path, value, may_have_surrogates):
    if not isinstance(value, dict):
        raise damaged(
            path, f"cannot be read (an object was expected, it holds {_KINDS.get(type(value), 'something else')})"
        )
    if may_have_surrogates:
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise damaged(path, "cannot be read (it holds text that is not Unicode)") from error
    return value


_KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}


def _decode(path, content):
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise damaged(path, f"cannot be read (it is not UTF-8 text: {error.reason} at byte {error.start})") from error


def _brief(error):
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def _refuse_constant(name):
    raise ValueError(f"{name} is no number")


def _finite_float(text):
    if math.isfinite(value := float(text)):
        return value
    raise ValueError(f"{text[:40]} is too large")


def _small_integer(text):
    if len(text) <= 21 and abs(value := int(text)) < INTEGER_LIMIT:
        return value
    raise ValueError(f"{text[:40]} is too large")


_NUMBERS: dict[str, Any] = {"parse_float": _finite_float, "parse_int": _small_integer}


def read_note(path: Path | str, root: Path | str | None = None) -> dict[str, Any]:
    """A small JSON file about work in progress, which others write and remove; {} where there is none that can be read."""
    try:
        return read_object(path, root)
    except StoreError:
        return {}


# --- writing ----------------------------------------------------------------------------------------------------------


def write_json(path: Path | str, value: Any) -> None:
    """Write finite JSON; NaN and infinities become null."""
    Path(path).write_text(json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def write_note(path: Path | str, value: dict[str, Any]) -> None:
    """Write a small JSON file in one step: readers see the former one or this."""
    replace_file(path, lambda file: file.write((json.dumps(finite(value)) + "\n").encode()), durable=False)


def replace_file(path: Path | str, write: Callable[[IO[bytes]], Any], durable: bool = True) -> None:
    """Write a file under another name beside it, then give it its own in one step.

    Arguments:
        write: writes into the open file.
        durable: whether it must be on the disk before it has its name.
    """
    path = Path(path)
    hidden = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        with open(hidden, "wb") as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(hidden, path)
    finally:
        with contextlib.suppress(OSError):  # the error that is on its way says more
            hidden.unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """`value` as plain JSON types, with null in place of every number that is not finite, and text that UTF-8 can hold."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, str):
        return value if value.isascii() else _utf8(value)
    if isinstance(value, (bool, int)) or value is None:
        return value
    if isinstance(value, os.PathLike):
        return finite(os.fspath(value))
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    return float(value) if math.isfinite(value) else None


def _utf8(text):
    """A text of the command line as it was typed: in a locale without UTF-8 Python has escaped its bytes as lone surrogates."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()


# --- arrays -----------------------------------------------------------------------------------------------------------

_SEAL, _MAKER = "_sha256", "_made_from"
"""Names of the arrays in a sealed file that hold the hash of all others, and what they were made from."""


def write_arrays(path: Path | str, arrays: dict[str, Any]) -> None:
    """Write an .npz file, byte by byte the same for the same arrays, whatever their names (`numpy.savez` refuses `file`)."""
    import numpy as np

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def write_sealed_arrays(file: IO[bytes], arrays: dict[str, Any], made_from: dict[str, str] | None = None) -> None:
    """Write an .npz file that holds its own hash, for `read_sealed_arrays`.

    Arguments:
        made_from: names of what the arrays were made from, for `take_maker`.
    """
    import numpy as np

    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    if made_from is not None:
        arrays[_MAKER] = np.array(json.dumps(made_from))
    sealed: dict[str, Any] = {
        **arrays,
        _SEAL: np.array(seal_of(arrays)),
    }  # Any: savez has an argument of another type too
    np.savez(file, **sealed)


def read_sealed_arrays(path: Path | str, root: Path | str | None = None) -> dict[str, Any]:
    """What `write_sealed_arrays` wrote.

    Raises:
        StoreError: where it is missing or damaged.
    """
    arrays = read_arrays(path, root)
    if str(arrays.pop(_SEAL, "")) != seal_of(arrays):
        raise _damaged_arrays(path, "it does not match its own hash")
    return arrays


def take_maker(path: Path | str, arrays: dict[str, Any]) -> dict[str, Any] | None:
    """What the arrays of a sealed file were made from, which is taken out of them; None where it was not recorded.

    Raises:
        StoreError: where it cannot be read.
    """
    text = arrays.pop(_MAKER, None)
    return None if text is None else parse_object(path, str(text).encode())


def seal_of(arrays: dict[str, Any]) -> str:
    """The hash of arrays with their names, types and shapes, as a sealed file holds it."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}\n".encode())
        total.update(arrays[name].tobytes())
    return total.hexdigest()


def _damaged_arrays(path, what):
    return damaged(path, f"cannot be read ({what})", "restore it, or move it away and run the command again")


def read_arrays(path: Path | str, root: Path | str | None = None, mapped_from: float = math.inf) -> dict[str, Any]:
    """The arrays of an .npz file by name, nothing unpickled, none larger than its part of the file.

    Arguments:
        root: as for `open_regular`.
        mapped_from: bytes from which an array is not read, but mapped into memory.

    Raises:
        StoreError: where it is missing or damaged.
    """
    import numpy as np

    with open_regular(path, root) as raw:
        try:
            mapped = {}
            with zipfile.ZipFile(raw) as archive:
                for member in archive.infolist():
                    _check_declared_size(archive, member)
                    if member.file_size >= mapped_from:
                        mapped[member.filename.removesuffix(".npy")] = _mapped_member(raw, member)
            raw.seek(0)
            with np.load(raw, allow_pickle=False) as file:
                return {name: mapped[name] if name in mapped else file[name] for name in file.files}
        except Exception as error:  # a damaged zip archive may raise anything
            raise _damaged_arrays(path, _brief(error)) from error


def _mapped_member(raw, member):
    """An array of an .npz file, where it lies in it: behind 30 bytes, the last of which are the lengths of two further parts."""
    raw.seek(member.header_offset + 26)
    raw.seek(sum(struct.unpack("<HH", raw.read(4))), os.SEEK_CUR)
    return map_array(raw)


def map_array(file: BufferedReader) -> Any:
    """The array whose .npy format begins at a file's position, mapped into memory; nothing of it is read yet.

    The same array of the same file gives the same object for as long as it is in use.

    Raises:
        ValueError: where there is none, or one of Python objects.
    """
    import numpy as np

    shape, is_fortran, dtype = _array_header(file)
    if dtype.hasobject:
        raise ValueError("it is pickled")
    status = os.fstat(file.fileno())
    known = status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size, file.tell()
    array = _MAPPED.get(known)
    if array is None:
        array = _MAPPED[known] = np.memmap(file, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")
    return array


_MAPPED: WeakValueDictionary[tuple, Any] = WeakValueDictionary()


def _array_header(file):
    """Shape, whether in Fortran's order, and type of the array whose .npy format begins here."""
    import numpy as np

    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    return read(file)


def check_arrays(path: Path | str, root: Path | str | None = None) -> None:
    """See, without reading its arrays, that an .npz file is one that `read_arrays` reads, and that none of them is pickled.

    Raises:
        StoreError: where it is not.
    """
    with open_regular(path, root) as raw:
        try:
            with zipfile.ZipFile(raw) as archive:
                for member in archive.infolist():
                    _check_declared_size(archive, member)
        except Exception as error:  # a damaged zip archive may raise anything
            raise _damaged_arrays(path, _brief(error)) from error


def _check_declared_size(archive, member):
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        raise ValueError(f"{member.filename} is compressed")
    with archive.open(member) as file:
        shape, _, dtype = _array_header(file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} is pickled")
        if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"{member.filename} does not hold as many numbers as it says")
