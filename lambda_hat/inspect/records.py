"""What is stored, as typed records: every view of a store reads it here, and gets a record or one sentence.

Nothing outside the root is read and no link is followed out of it. Arrays are read when they are first asked for.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lambda_hat import store
from lambda_hat.analysis.summary import ESTIMATOR, Summary, Verdict, read_record
from lambda_hat.inspect import formats
from lambda_hat.system import notebook
from lambda_hat.system.errors import StoreError
from lambda_hat.system.terminal import program

if TYPE_CHECKING:
    import numpy as np

STATES = ("done", "old", "damaged", "running", "queued", "failed", "stale", "missing")
"""In the order in which they are counted; a finished run's verdict (ok, warn, bad) is shown beside `done`."""

Settings = dict[str, Any]


# --- files of a target, and of work in progress -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """Sizes of a target: n data pairs, p parameters."""

    n: int
    p: int


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Numbers that training left: L0 = L_n(w0)."""

    L0: float | None


@dataclass(frozen=True, kw_only=True)
class KnownCoefficient:
    """A target's λ, where it is known."""

    learning_coefficient: float = field(metadata={"key": "lambda"})


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where on its trajectory a target's w0 is, or was before the polish: the step, and the mean losses there."""

    trajectory_id: str
    step: int
    train_loss: float | None
    test_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class TargetSummary:
    """What a target's meta.json says; keys that no view needs are left out."""

    target_id: str
    seed: int
    model_cfg: Mapping[str, Any]
    data_cfg: Mapping[str, Any]
    training_cfg: Mapping[str, Any]
    dims: Dimensions
    metrics: Metrics
    truth: KnownCoefficient | None
    walltime_sec: float | None
    noise_scale: float | None = None
    trajectory: Point | None = None
    created_at: float | None = None
    hashes: Mapping[str, Any] | None = None

    FILE = "meta.json"

    @classmethod
    def from_json(cls, value: Any, where: object) -> "TargetSummary":
        """The record that a file's JSON holds.

        Raises:
            StoreError: where a field is missing or of the wrong type.
        """
        if isinstance(value, dict) and isinstance(value.get("created_at"), str):
            value = value | {"created_at": store.unix_time(value["created_at"])}
        return read_record(cls, value, where, "restore it, or build the target again with force=true")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An attempt at a target or a run that has not been published: who makes it, how far it is, why it failed.

    Each of owner.json, progress.json, submitted.json and the record of a failure holds some of these.
    """

    host: str | None = None
    machine: str | None = None
    pid: int | None = None
    started: int | None = None
    slurm_job: str | None = None
    log: str | None = None
    command: tuple[str, ...] | None = None
    settings: Mapping[str, Any] | None = None
    phase: str | None = None
    draw: int | None = None
    draws: int | None = None
    llc: float | None = None
    mcse: float | None = None
    ess: float | None = None
    rhat: float | None = None
    error: str | None = None
    kind: str | None = None

    @classmethod
    def from_file(cls, path: Path, root: Path) -> "Attempt | None":
        """What one of these files says; None where there is none.

        Raises:
            StoreError: where it is damaged.
        """
        if not os.path.lexists(path):
            return None
        remedy = "status --prune removes what stopped and failed work has left"
        try:
            attempt = read_record(cls, store.read_object(path, root), path, remedy)
        except StoreError:
            if not os.path.lexists(path):  # its owner has just removed it
                return None
            raise
        if attempt.slurm_job and not attempt.slurm_job.replace("_", "", 1).isdecimal():
            raise StoreError(f"{path}: slurm_job {ascii(attempt.slurm_job)[:40]} is no SLURM job; {remedy}.")
        return attempt

    def merged(self, other: "Attempt") -> "Attempt":
        """This with what the other knows in place of what this does."""
        known = {each.name: value for each in fields(other) if (value := getattr(other, each.name)) is not None}
        return replace(self, **known)


# --- records ----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Record:
    """A target, or a run.

    Attributes:
        state: one of STATES.
        target_id: the target's name.
        target_version: of the code that made the target (`store.STAGES`).
        directory: where the result is or would be.
        settings: dotted key → value, as far as they are known.
        meta: the finished target's record.
        attempt: the state of unfinished work.
        owner_is_alive: whether a process is running; None where that cannot be determined from here.
        is_submitted: whether a SLURM job is to do the work.
        notes: warnings and other remarks, a sentence each.
    """

    state: str
    target_id: str
    directory: Path
    settings: Settings = field(default_factory=dict)
    meta: TargetSummary | None = None
    target_version: int = store.STAGES["target"].version
    attempt: Attempt | None = None
    owner_is_alive: bool | None = False
    is_submitted: bool = False
    notes: list[str] = field(default_factory=list)

    run_id: str | None = field(default=None, init=False)
    summary: Summary | None = field(default=None, init=False)

    @property
    def sampler(self) -> str | None:
        """The sampler's name; a target has none."""
        return None

    @property
    def name(self) -> str:
        """As in work/ and failures/."""
        return self.target_id if self.run_id is None else f"{self.target_id}.{self.run_id}"

    @property
    def short(self) -> str:
        """The directory as seen from <root>/targets/."""
        return self.name.replace(".", "/")

    @property
    def verdict(self) -> Verdict | None:
        """ok, warn or bad; None where there is no result."""
        return self.summary.status if self.summary else None

    @property
    def word(self) -> str:
        """The state in one word, a result's verdict in its place."""
        return self.verdict if self.state == "done" and self.verdict else self.state

    @property
    def current(self) -> tuple[float | None, float | None, float | None, float | None]:
        """λ̂, its standard error, ESS and R-hat: of the result, or so far where the run is in progress."""
        if self.summary:
            return self.summary.llc_mean, self.summary.llc_mcse, self.summary.ess, self.summary.rhat
        if self.state == "running" and self.attempt:
            return self.attempt.llc, self.attempt.mcse, self.attempt.ess, self.attempt.rhat
        return None, None, None, None

    def values(self, key: str) -> list[Any]:
        """What a filter on a key is compared with."""
        if key == "status":
            return [self.state, self.verdict if self.state == "done" else None]
        named = {"target_id": self.target_id, "run_id": self.run_id, "sampler.name": self.sampler}
        return [named[key] if key in named else self.settings.get(key)]


@dataclass(kw_only=True)
class TargetRecord(Record):
    """A target; `open_target` gives it."""

    @cached_property
    def params(self) -> dict[str, "np.ndarray"]:
        """The parameters w0 by name."""
        return self._arrays("params.npz")

    @cached_property
    def data(self) -> dict[str, "np.ndarray"]:
        """The data by name."""
        return self._arrays("data.npz")

    def _repr_html_(self):
        meta = self.meta
        rows = {
            "target": self.target_id,
            "state": "; ".join([self.state, *self.notes]),
            **_kinds(self.settings, "model", "data"),
        }
        if meta:
            known = f"λ = {meta.truth.learning_coefficient:g}" if meta.truth else ""
            rows |= {
                "size": f"p = {meta.dims.p} parameters, n = {meta.dims.n} pairs",
                "L_n(w0)": formats.number(meta.metrics.L0, ".5g"),
                "noise scale": "" if meta.noise_scale is None else f"{meta.noise_scale:.4g}",
                "known": known,
                "built in": "" if meta.walltime_sec is None else formats.duration(meta.walltime_sec),
                "made": "" if meta.created_at is None else formats.time(meta.created_at),
            }
        return notebook.table(rows | {"directory": str(self.directory)}, folded={"Settings": _shown(self.settings)})

    def _arrays(self, name):
        store.check_hash(self.directory / name)
        return store.read_arrays(self.directory / name)


@dataclass(kw_only=True)
class RunRecord(Record):
    """A run; `open_run` gives it.

    Attributes:
        run_id: the run's name.
        summary: its result; None where there is none.
    """

    run_id: str
    summary: Summary | None = None

    @property
    def sampler(self) -> str:
        """The sampler's name."""
        return self.run_id.split("_")[1]

    @property
    def result(self) -> Summary:
        """The summary of a run that is known to be finished.

        Raises:
            StoreError: where there is none.
        """
        if self.summary is None:
            raise StoreError(f"{self.directory}: there is no finished run, so it has no result.")
        return self.summary

    def _repr_html_(self):
        summary = self.summary
        rows = {"run": self.short, "status": "; ".join([self.word, *self.notes])}
        if summary:
            truth = []
            if summary.truth:
                truth += [f"exact λ̂ {summary.truth.finite:.5g}"] if summary.truth.finite is not None else []
                truth.append(f"λ {summary.truth.learning_coefficient:g}")
            rows |= {
                "λ̂ ± MCSE": formats.estimate(summary.llc_mean, summary.llc_mcse),
                "95 %": formats.interval(*summary.llc_interval95),
                "known": ", ".join(truth),
                "ESS": formats.number(summary.ess, ".0f"),
                "R-hat": formats.number(summary.rhat, ".4f"),
                "estimand": summary.estimand.described(),
                "restricted": "; ".join(summary.restrictions()),
                "sampler": f"{self.sampler}, {summary.chains} chains of {summary.draws} draws",
                "work": f"{summary.total_fges:.0f} full-data gradients, {formats.duration(summary.walltime_sec)}",
            }
        rows |= {**_kinds(self.settings, "model", "data"), "directory": str(self.directory)}
        return notebook.table(rows, self.word, {"Settings": _shown(self.settings)})

    @cached_property
    def trace(self) -> "Trace":
        """The recorded draws."""
        path, summary = self.directory / "trace.nc", self.result
        store.check_hash(path)
        return Trace(path, summary.chains, summary.draws, summary.p)

    @cached_property
    def target(self) -> TargetRecord:
        """The target that the run is of."""
        return open_target(self.directory.parent)


def _shown(settings):
    return [(key, formats.setting(value)) for key, value in settings.items()]


def _kinds(settings, *names):
    """Each group's kind, such as `model`: `mlp`."""
    found = {name: settings.get(f"{name}.kind") for name in names}
    return {name: formats.setting(kind) for name, kind in found.items() if kind is not None}


def open_target(path: str | os.PathLike) -> TargetRecord:
    """A published target, its arrays read when they are first asked for.

    Arguments:
        path: the directory `<root>/targets/tgt_…`.

    Raises:
        StoreError: where there is none, or it is damaged.
    """
    return _opened(read_target(_published(path, store.TARGET_ID, "target")))


def open_run(path: str | os.PathLike) -> RunRecord:
    """A published run, its draws read when they are first asked for.

    Arguments:
        path: the directory `<root>/targets/tgt_…/run_…`.

    Example:
        run = lambda_hat.open_run("runs/targets/tgt_0ba2ae26b480/run_hmc_3c7d73da")
        run.summary.llc_mean, run.summary.llc_interval95, run.trace["llc"].shape

    Raises:
        StoreError: where there is none, or it is damaged.
    """
    directory = _published(path, store.RUN_ID, "run")
    target = read_target(directory.parent)
    return _opened(target and read_run(target, directory.name))


def _published(path, pattern, what):
    directory = Path(os.path.abspath(os.path.expanduser(path)))
    if not pattern.fullmatch(directory.name) or not store.is_done(directory):
        raise StoreError(
            f"{path}: there is no such {what}; name its directory <root>/targets/tgt_…{'/run_…' * (what == 'run')}."
        )
    return directory


def _opened(record):
    if record is None or record.state == "damaged":
        raise StoreError(record.notes[0] if record else "it has just been moved away; look again.")
    return record


# --- reading ----------------------------------------------------------------------------------------------------------


class Content(NamedTuple):
    """The bytes of a published directory's record and of its list of hashes."""

    record: bytes
    sums: bytes


def read_content(directory: str, name: str) -> Content | None:
    """A file of a published directory and the directory's list of hashes; None where either needs the slow path."""
    try:
        return Content(_read_regular(f"{directory}/{name}"), _read_regular(f"{directory}/{store.SUMS}"))
    except OSError:
        return None


LARGEST_RECORD = 16 * 2**20
"""Bytes of a record that is read at once; anything larger is left to the slow path, which reports the error."""


def _read_regular(path):
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_RECORD:
            raise OSError("not a regular file of a sane size")
        return file.read()


def read_target(directory: Path, content: Content | None = None) -> TargetRecord | None:
    """A published target, whatever its directory holds; None where it has just been moved away."""
    record = TargetRecord(state="done", target_id=directory.name, directory=directory)
    with _Damage(record) as damage:
        path = directory / TargetSummary.FILE
        meta = TargetSummary.from_json(_checked(path, content), path)
        groups = {key: getattr(meta, f"{key}_cfg") for key in ("model", "data", "training")} | {"seed": meta.seed}
        record.settings, record.meta = flat(groups, path), meta
        record.target_version = _version(record, "target", groups)
        store.check_maker(path, "target_id", meta.target_id, directory.name)
    return None if damage.is_gone else record


def read_run(target: TargetRecord, run_id: str, content: Content | None = None) -> RunRecord | None:
    """A published run of a target, whatever its directory holds; None where it has just been moved away."""
    directory = target.directory / run_id
    record = RunRecord(
        state="done",
        target_id=target.target_id,
        run_id=run_id,
        directory=directory,
        settings=dict(target.settings),
        meta=target.meta,
        target_version=target.target_version,
    )
    with _Damage(record) as damage:
        path = directory / Summary.FILE
        summary = Summary.from_json(_checked(path, content), path)
        groups = {"sampler": summary.sampler_config, "posterior": summary.posterior_config}
        settings = flat(groups, path)
        _version(record, "run", groups)
        summary.check_place(directory, target.meta.hashes if target.meta else None)
        record.settings |= settings
        record.summary = summary
        if record.state == "done" and summary.estimator < ESTIMATOR:
            _make_old(record)
        record.notes += summary.status_reasons
    if target.state == "damaged":
        record.notes.append("its target is damaged")
    return None if damage.is_gone else record


class _Damage:
    """Turns what is wrong with a published directory into the state of its record."""

    def __init__(self, record):
        self._record, self.is_gone = record, False

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if not isinstance(error, StoreError):
            return False
        self.is_gone = not os.path.lexists(self._record.directory) or _is_empty(self._record.directory)
        self._record.state, self._record.notes = "damaged", [str(error)]
        return True


def _is_empty(directory):
    try:
        return not store.is_done(directory)
    except StoreError:
        return False


def _checked(path, content):
    """The JSON object in a file, if it matches its hash: from bytes that were read already, or else by `store.read_json`."""
    if content is not None:
        lines, _, last = content.sums.rpartition(b"# ")
        line = f"{hashlib.sha256(content.record).hexdigest()}  {path.name}".encode()
        if last.strip() == hashlib.sha256(lines).hexdigest().encode() and line in lines.splitlines():
            return store.parse_object(path, content.record, numbers_are_checked=True)  # by `read_record`
    return store.read_json(path)


def _version(record, stage, groups):
    """The version of a stage by whose settings a directory is named; an earlier one than today's makes the record old."""
    values, name = [groups[key] for key in store.STAGES[stage].keys], record.directory.name.rpartition("_")[2]
    version = store.version_of(stage, values, name)
    if version is None:
        raise StoreError(
            f"{record.directory} is not what its name says: its settings hash to {store.digest(stage, values)}, so it was "
            "renamed, or made by another version of lambda_hat; move it away and rerun."
        )
    if version < store.STAGES[stage].version:
        _make_old(record)
    return version


def _make_old(record):
    record.state = "old"
    record.notes.append(f"made by an earlier version of lambda_hat: see {program('store')} migrate")


def flat(groups: Mapping[str, Any], where: object = "settings") -> Settings:
    """Nested settings as dotted key → value, without those that are null.

    Raises:
        StoreError: where a list holds anything but plain values.
    """
    settings = {}
    for key, value in groups.items():
        if isinstance(value, (str, float, int)):  # most are, and this is quickly told
            settings[key] = value
        elif isinstance(value, Mapping):
            settings |= {f"{key}.{inner}": each for inner, each in flat(value, where).items()}
        elif isinstance(value, (list, tuple)) and any(isinstance(each, Mapping) for each in value):
            raise StoreError(f"{where}: {key} is a list of objects, which no setting is; restore the file, or rerun.")
        elif value is not None:
            settings[key] = value
    return settings


# --- draws ------------------------------------------------------------------------------------------------------------

LARGEST_ARRAY = 2**31
"""Bytes of the largest array that is read from a trace."""


class Trace(Mapping):
    """The arrays of a trace.nc by name (llc, L, distance2, …), each read when it is asked for.

    The file may be hostile: what lies in other files is refused, and no array is larger than the run's record says.

    Arguments:
        path: the file, whose hash has been checked.
        chains, draws, parameters: the run's sizes.
    """

    def __init__(self, path: Path, chains: int, draws: int, parameters: int):
        self._path, self._arrays = path, {}
        self._shapes = {(chains, draws), (draws,), (chains,), (chains, draws, parameters), (parameters,)}

    def __getitem__(self, name: str) -> "np.ndarray":
        if name not in self._groups:
            raise KeyError(name)
        if name not in self._arrays:
            self._arrays[name] = self._within(lambda file: self._read(file, name))
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    @cached_property
    def _groups(self):
        """The group that each array lies in."""
        groups = ("posterior", "sample_stats")
        return self._within(lambda file: {name: group for group in groups for name in self._own(file, group)})

    def _within(self, act):
        import h5py

        try:
            with store.open_regular(self._path) as raw, h5py.File(raw, "r") as file:
                return act(file)
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            text = " ".join(str(error).split())[:200]
            raise StoreError(f"{self._path} cannot be read ({text}); rerun with force=true.") from error

    def _own(self, group, name):
        """An object of the file itself, which no link leads out of."""
        import h5py

        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} lies in another file")
        return group[name]

    def _read(self, file, name):
        import h5py

        array = self._own(self._own(file, self._groups[name]), name)
        if not isinstance(array, h5py.Dataset) or array.external or array.is_virtual:
            raise ValueError(f"{name} lies in another file")
        if array.shape not in self._shapes or array.dtype.kind not in "fiub" or array.nbytes > LARGEST_ARRAY:
            raise ValueError(
                f"{name} has shape {str(array.shape)[:60]} and type {array.dtype}, which the run's record denies"
            )
        return array[()]
