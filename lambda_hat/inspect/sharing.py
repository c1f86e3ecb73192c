"""A study as one file: finished targets and runs of a root in an archive, which another root takes in after verifying all of it.

    README.txt  manifest.json            what this is; every other file with its size and sha256
    tables.csv  tables.md  tables.tex    all columns of all runs; and the table to cite
    targets/tgt_…/  …/run_…/             the directories as they were published

An archive may be hostile. It is refused before anything is written where its list of files is not what it should be; what it
holds is verified in <root>/work/import.<token>/, and from there each directory gets its name in one step, so that a kill leaves
nothing half made. The archive is not compressed: the same content is the same bytes everywhere.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import struct
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import lambda_hat
from lambda_hat import store
from lambda_hat.inspect import citation, formats, table
from lambda_hat.inspect.filters import Filter
from lambda_hat.inspect.records import Record
from lambda_hat.inspect.scan import entries, existing, scan
from lambda_hat.store import lease
from lambda_hat.store.files import TEXT_LIMIT
from lambda_hat.system.errors import StoreError, UserError

FORMAT = "lambda_hat study"
VERSION = 1
"""Of the archive's layout."""

MANIFEST = "manifest.json"
README = "README.txt"

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file in an archive: the first that the format has."""

MOST_TIMES = 100
"""How many times larger than the archive its content may be: a study is compressed to a half at best."""

_FILE = re.compile(
    rf"targets/{store.TARGET_ID.pattern}/(config\.yaml|meta\.json|data\.npz|params\.npz|{store.SUMS}|curvature_[\w.-]+\.npz"
    rf"|{store.RUN_ID.pattern}/(config\.yaml|analysis\.json|trace\.nc|{store.SUMS}|diagnostics/\w+\.png))",
    re.ASCII,
)
"""Names of files that a study has, beside its tables."""

# --- export -----------------------------------------------------------------------------------------------------------


@dataclass
class Exported:
    """What an archive holds, and what was asked for and is not in it.

    Attributes:
        targets, runs: how many.
        left_out: names of records that are not finished, and of trajectories.
    """

    targets: int
    runs: int
    left_out: list[str] = field(default_factory=list)


def export(root: Path, records: Sequence[Record], filters: Sequence[Filter], to: Path) -> Exported:
    """Write the finished ones of these records into an archive, each run with its target; a file at `to` is replaced in one step.

    Arguments:
        root: that they are from.
        filters: that chose them, for the manifest.

    Raises:
        UserError: where `to` is no .zip file.
        StoreError: where none is finished, or one is damaged.
    """
    if to.suffix != ".zip" or to.is_dir():
        raise UserError(f"--to {to}: an archive is a file whose name ends in .zip; name one, such as --to study.zip.")
    finished = [record for record in records if record.state in ("done", "old")]
    left_out = [f"{record.short} ({record.state})" for record in records if record not in finished]
    damaged = [record.notes[0] for record in records if record.state == "damaged"]
    if not finished and not damaged:
        raise StoreError(f"{root}: nothing finished there matches, so there is nothing to export.")
    targets = sorted({record.target_id for record in finished})
    directories = [root / "targets" / target for target in targets]
    directories += sorted(record.directory for record in finished if record.run_id)
    damaged += [wrong for directory in directories if not damaged for wrong in store.damages(directory)]
    if damaged:
        raise StoreError(
            f"{damaged[0].rstrip('.')}. Nothing was exported: mend that first, or choose others by filters."
        )
    along = {record.meta.trajectory.trajectory_id for record in finished if record.meta and record.meta.trajectory}
    exported = Exported(
        len(targets), len(directories) - len(targets), left_out + [f"{name} (trajectory)" for name in sorted(along)]
    )
    files = dict(sorted(item for directory in directories for item in _files_of(directory, root)))
    made = citation.tables(finished)
    made[README] = _readme(exported, made["tables.md"])
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "lambda_hat": lambda_hat.__version__,
        "filters": [f"{key}={','.join(values)}" for key, values in filters],
        "targets": exported.targets,
        "runs": exported.runs,
        "left_out": exported.left_out,
        "files": {name: _entry(text.encode()) for name, text in made.items()},
    }
    table.replace_file(to, lambda hidden: _write(hidden, manifest, made, root, files))
    return exported


def _files_of(directory, root):
    """Each file of a published directory by its name in an archive, and the hash that it must have, where the directory says."""
    sums = store.hashes(directory) | dict.fromkeys([store.SUMS])
    sums |= dict.fromkeys(path.name for path in directory.glob("curvature_*.npz"))
    place = directory.relative_to(root).as_posix()
    for name, expected in sums.items():
        if not _FILE.fullmatch(f"{place}/{name}"):
            raise StoreError(f"{directory / name}: no target or run has such a file; nothing was exported.")
        yield f"{place}/{name}", expected


def _entry(content):
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _write(path, manifest, made, root, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, text in made.items():
            archive.writestr(_member(name), text)
        for name, expected in files.items():
            total, size = hashlib.sha256(), 0
            with (
                store.open_regular(root / name, root) as source,
                archive.open(_member(name), "w", force_zip64=True) as to,
            ):
                while block := source.read(2**20):
                    total.update(block)
                    size += len(block)
                    to.write(block)
            if expected not in (None, total.hexdigest()):
                raise StoreError(
                    f"{root / name} was replaced while it was read; nothing was exported: run the command again."
                )
            manifest["files"][name] = {"size": size, "sha256": total.hexdigest()}
        text = json.dumps(manifest, indent=1) + "\n"
        if len(text) > TEXT_LIMIT:
            raise StoreError(
                f"{len(files)} files are too many for one archive; nothing was exported: use narrower filters."
            )
        archive.writestr(_member(MANIFEST), text)


def _member(name):
    info = zipfile.ZipInfo(name, EPOCH)
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    return info


def _readme(exported, markdown):
    left_out = [f"Not in it: {', '.join(exported.left_out)}.", ""] if exported.left_out else []
    lines = [
        f"{exported.targets} targets and {exported.runs} runs of lambda_hat {lambda_hat.__version__}: Local Learning Coefficients",
        "of neural networks, each with its error, the draws behind it, and the data and weights that it is of.",
        "",
        "    lambda-hat-store import study.zip runs      # verifies everything, then adds it to runs/",
        "    lambda-hat-results runs",
        "",
        "tables.csv has all columns of all runs; tables.tex and tables.md have the table below, for a paper.",
        "manifest.json has the size and the sha256 of every file.",
        "",
        *left_out,
        markdown,
    ]
    return "\n".join(lines)


# --- import -----------------------------------------------------------------------------------------------------------


@dataclass
class Imported:
    """What became of an archive's targets and runs, by their directories in the root.

    Attributes:
        added: not there before.
        there: there already, with the same content.
        kept: sentences on those that are there with other content, which stays.
    """

    added: list[Path] = field(default_factory=list)
    there: list[Path] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def take_in(path: Path, root: Path) -> Imported:
    """Verify an archive, and add to a root what is not there; what is there is left alone.

    Raises:
        StoreError: where the archive is not as `export` wrote it; then nothing was added.
    """
    if path.is_dir():
        raise UserError(f"{path} is a directory; name the archive first, then the root: import study.zip {path}.")
    with _opened(path) as (file, archive):
        members = _members(path, archive)
        manifest = _manifest(path, archive, members)
        total, size = sum(entry["size"] for entry in manifest.values()), os.fstat(file.fileno()).st_size
        if total > MOST_TIMES * size:
            raise _refused(path, f"would grow from {formats.size(size)} to {formats.size(total)}, as no study does")
        with _staging(root, total) as staging:
            for name, entry in manifest.items():
                _extract(path, archive, members[name], entry, staging / name)
            _verify(path, staging)
            return _publish(staging, root)


@contextlib.contextmanager
def _opened(path) -> Iterator[tuple[IO[bytes], zipfile.ZipFile]]:
    with store.open_regular(path, path.absolute().parent) as file:
        with _reading(path):
            archive = zipfile.ZipFile(file)
        with archive:
            yield file, archive


@contextlib.contextmanager
def _reading(path):
    """While an archive is read: what a damaged one raises is a sentence."""
    try:
        yield
    except (*_ZIP_ERRORS, OSError) as error:
        raise _refused(path, f"cannot be read as a zip archive ({' '.join(str(error).split())[:120]})") from error


_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError, NotImplementedError),
    *(RuntimeError, ValueError, KeyError, IndexError, OverflowError),
)
"""What `zipfile` raises for archives that are cut short, changed or made to do harm."""


def _refused(path, what):
    return StoreError(f"{path} {what}; nothing was imported: get the archive again from where it was exported.")


def _members(path, archive):
    """The archive's files by name.

    Raises:
        StoreError: where one has no place in a study.
    """
    seen: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name, shown = info.filename, ascii(info.orig_filename)[1:-1][:120]
        if name != info.orig_filename or not (name in (MANIFEST, README, *citation.TABLES) or _FILE.fullmatch(name)):
            raise _refused(path, f"holds {shown}, a name that no file of a study has")
        if name.casefold() in seen:
            other = seen[name.casefold()].filename
            raise _refused(path, f"holds {shown} twice" if other == name else f"holds {shown} and {other}")
        plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG) and not info.flag_bits & 1  # encrypted
        if not plain or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refused(path, f"holds {shown} as a link, a special file, encrypted, or compressed in an unknown way")
        seen[name.casefold()] = info
    return {info.filename: info for info in seen.values()}


def _manifest(path, archive, members):
    """Size and hash of each file by name, as the manifest says.

    Raises:
        StoreError: where it is of another version, or lists other files than there are.
    """
    if MANIFEST not in members:
        raise _refused(path, f"has no {MANIFEST}, so it is no exported study")
    with _reading(path), archive.open(members[MANIFEST]) as file:
        content = file.read(TEXT_LIMIT + 1)
    if len(content) > TEXT_LIMIT:
        raise _refused(path, f"has a {MANIFEST} of more than {TEXT_LIMIT // 2**20} MiB")
    try:
        manifest = store.parse_object(MANIFEST, content)
    except StoreError as error:
        raise _refused(path, f"has a {str(error).partition(';')[0]}") from error
    if manifest.get("format") != FORMAT:
        raise _refused(path, f"has a {MANIFEST} that is not of an exported study")
    if manifest.get("version") != VERSION:
        version, maker = (ascii(manifest.get(key))[:20] for key in ("version", "lambda_hat"))
        raise StoreError(
            f"{path} has format {version}, made by lambda_hat {maker}, and this lambda_hat reads format {VERSION}; nothing was "
            "imported: install the version that made it."
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(_is_entry(entry) for entry in files.values()):
        raise _refused(path, f"has a {MANIFEST} without the size and hash of each file")
    if differing := sorted(files.keys() ^ (members.keys() - {MANIFEST})):
        where = "lacks" if differing[0] in files else "holds, unlike its manifest,"
        raise _refused(path, f"{where} {ascii(differing[0])[1:-1][:120]}")
    return files


def _is_entry(entry):
    match entry:
        case {"size": int(size), "sha256": str()}:
            return size >= 0
    return False


@contextlib.contextmanager
def _staging(root, size):
    """A directory in the root's work/ that is gone afterwards, with whatever was made for it and is empty.

    Its owner.json lets the next import remove it after a kill, and no other.
    """
    made = [place for place in (root / "work", root, *root.parents) if not os.path.lexists(place)]
    if root.exists():
        existing(root)
        if (root / "work").is_symlink():
            raise StoreError(
                f"{root / 'work'} is a symbolic link, which is not followed; put the directory itself there."
            )
    (root / "work").mkdir(parents=True, exist_ok=True)
    name = f"import.{uuid.uuid4().hex[:12]}"
    hidden, staging = root / "work" / f".{name}", root / "work" / name
    try:
        for left in entries(root / "work", store.IMPORT_ID):
            lease.sweep(root / "work" / left)
        if size > (free := shutil.disk_usage(root).free):
            raise StoreError(
                f"{root} has room for {formats.size(free)}, and the study takes {formats.size(size)}; make room."
            )
        hidden.mkdir()
        store.write_note(hidden / "owner.json", lease.this_process())
        os.rename(hidden, staging)
        yield staging
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        shutil.rmtree(staging, ignore_errors=True)
        for place in made:
            with contextlib.suppress(OSError):
                place.rmdir()


def _extract(path, archive, info, entry, to):
    """Write one file, no byte more than the manifest says."""
    to.parent.mkdir(parents=True, exist_ok=True)
    total, size = hashlib.sha256(), 0
    with _reading(path):
        source = archive.open(info)
    with source, open(to, "xb") as file:
        while True:
            with _reading(path):
                block = source.read(2**20)
            size += len(block)
            if not block or size > entry["size"]:
                break
            total.update(block)
            file.write(block)
    if size != entry["size"] or total.hexdigest() != entry["sha256"]:
        raise _refused(path, f"holds another {info.filename} than its manifest says")


def _verify(path, staging):
    """See that each directory is what its name says, whole, and readable as a record."""
    targets = staging / "targets"
    if not targets.is_dir():
        raise _refused(path, "holds no target")
    for target in entries(targets, store.TARGET_ID):
        runs = entries(targets / target, store.RUN_ID)
        for directory in (targets / target, *(targets / target / run for run in runs)):
            _agree(path, staging, store.damages(directory))
        for arrays in (targets / target).glob("*.npz"):
            try:
                store.check_arrays(arrays)
            except StoreError as error:
                _agree(path, staging, [str(error)])
    records = scan(staging)
    _agree(path, staging, [record.notes[0] for record in records if record.state == "damaged"])


def _agree(path, staging, sentences: Iterable[str]):
    for sentence in sentences:
        what = sentence.replace(f"{staging}/", "").partition(";")[0].rstrip(".")
        raise _refused(path, f"holds a study that is damaged ({what})")


# --- giving directories their names -----------------------------------------------------------------------------------


def _publish(staging, root):
    imported = Imported()
    targets = root / "targets"
    targets.mkdir(exist_ok=True)
    for name in entries(staging / "targets", store.TARGET_ID):
        source, target = staging / "targets" / name, targets / name
        runs = list(entries(source, store.RUN_ID))
        if not _is_taken(target) and store.give_name(source, target):  # in one step, with its runs
            imported.added += [target, *(target / run for run in runs)]
        elif difference := _target_difference(source, target):
            also = f" and its {len(runs)} runs of the archive are left out" if runs else ""
            imported.kept.append(f"{target} {difference}: it is kept as it is{also}")
            continue
        else:
            imported.there.append(target)
            for run in runs:
                _publish_run(source / run, target / run, imported)
        _index(root, name)
    return imported


def _publish_run(source, run, imported):
    if not _is_taken(run) and store.give_name(source, run):
        imported.added.append(run)
    elif difference := _difference(source, run):
        imported.kept.append(f"{run} {difference}: it is kept as it is")
    else:
        imported.there.append(run)


def _is_taken(path):
    return os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or store.is_done(path))


def _target_difference(source, target):
    """How a target that is there differs in what runs are of: built twice, its record has another time, and that is all."""
    return _difference(source, target, ("config.yaml", "data.npz", "params.npz"))


def _difference(source, there, names: Sequence[str] | None = None) -> str | None:
    if there.is_symlink() or not there.is_dir():
        return "is there and is no directory"
    try:
        ours, theirs = store.hashes(there), store.hashes(source)
    except StoreError:
        return "is there and is damaged"
    differing = [name for name in sorted(names or ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]
    return f"is there with other content ({', '.join(differing)})" if differing else None


def _index(root, target_id):
    """Have the indexes name a target and its runs, each once; they are never the truth, so a damaged directory has no line."""
    paths = store.Paths(root, target_id)
    with contextlib.suppress(StoreError):
        if target_id not in {line.get("target_id") for line in _lines(paths.catalog)}:
            store.append_line(paths.catalog, store.target_line(paths.target))
    known = {Path(str(line.get("artifact_path"))).name for line in _lines(paths.runs)}
    for run in entries(paths.target, store.RUN_ID):
        with contextlib.suppress(StoreError):
            if run not in known:
                store.append_line(paths.runs, store.run_line(paths.target / run))


def _lines(path) -> list[dict[str, Any]]:
    try:
        return [line for line in store.read_lines(path) if isinstance(line, dict)]
    except StoreError:  # for `reindex` to mend
        return []
