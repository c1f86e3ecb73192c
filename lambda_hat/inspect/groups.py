"""Records side by side: settings in which they differ, their order, and statistics of those that estimate the same."""

import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from typing import Any, NamedTuple

from lambda_hat import store
from lambda_hat.analysis.summary import Estimand as SummaryEstimand
from lambda_hat.inspect.filters import KINDS, resolve, setting_names
from lambda_hat.inspect.formats import setting
from lambda_hat.inspect.records import Record

NEVER_NULL = {
    "model": "model.kind",
    "data": "data.kind",
    "training": "training.kind",
    "seed": "seed",
    "sampler": "sampler.chains",
    "posterior": "posterior.loss",
}
"""A setting that a group always has."""

VERDICTS = ("ok", "warn", "bad")


# --- settings in which records differ ---------------------------------------------------------------------------------


def varying(records: Iterable[Record], groups: Sequence[str] = tuple(NEVER_NULL)) -> list[str]:
    """Settings in these groups in which records of the same kind differ, and those that make the kinds where there are several."""
    records, names = list(records), []
    for group in groups:
        known = [record for record in records if knows(record, group)]
        if group in store.STAGES["target"].keys:  # the same for all runs of a target
            known = list({record.target_id: record for record in known}.values())
        kinds: dict[Any, list] = {}
        for record in known:
            kinds.setdefault(setting(record.settings.get(KINDS.get(group, ""))), []).append(record.settings)
        for key in setting_names(known):
            if key.partition(".")[0] == group:
                apart = (
                    len(kinds) > 1 if key == KINDS.get(group) else any(_differ(alike, key) for alike in kinds.values())
                )
                names += [key] * apart
    return names


def _differ(settings, key):
    first = settings[0].get(key)
    return any(each.get(key) != first for each in settings)


def knows(record: Record, group: str) -> bool:
    """Whether the record's settings in a group are known, not just the name of its sampler."""
    return NEVER_NULL[group] in record.settings


def ordered(records: Iterable[Record]) -> list[Record]:
    """Records by what targets differ in, target, sampler, and what runs differ in."""
    records = list(records)
    keys = varying(records)
    inner = [key for key in keys if key.partition(".")[0] in ("sampler", "posterior")]
    outer = [key for key in keys if key not in inner]

    def place(record):
        parts = ([rank(record.settings.get(key)) for key in keys] for keys in (outer, inner))
        return next(parts), record.target_id, record.sampler or "", next(parts), record.name

    return sorted(records, key=place)


def rank(value: Any) -> tuple:
    """A sort key for values of any type: unknown values first, then numbers, then text."""
    value = setting(value) if isinstance(value, (list, tuple, bool)) else value
    return value is not None, isinstance(value, str), 0 if value is None else value


def by_target(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by target id, in their order."""
    targets: dict[str, list[Record]] = {}
    for record in records:
        targets.setdefault(record.target_id, []).append(record)
    return targets


# --- what may be averaged ---------------------------------------------------------------------------------------------


class Estimand(NamedTuple):
    """What λ̂ estimates: runs are averaged only where all of it is the same.

    Attributes:
        target: the target's settings but for its seed: averages over seeds are over targets drawn alike.
        target_version: of the code that made the target.
        posterior: n, β, γ, the loss, σ and the rest of `analysis.summary.Estimand`, then all other settings of the posterior; for
            runs without a result, their settings.
        estimator: version of the estimator.
    """

    target: tuple
    target_version: int
    posterior: tuple
    estimator: int | None


RESOLVED = {
    f"posterior.{name}"
    for name in (
        *("beta", "nbeta", "gamma", "prior_radius", "loss", "parameters"),
        *("data_sha256", "data_labels_sha256", "data_target"),
    )
}
"""Settings of the posterior that `analysis.summary.Estimand` has the effect of, however it was asked for."""


def estimands(records: Iterable[Record]) -> dict[str, Estimand]:
    """The `Estimand` of each record, by the record's name."""
    records, resolved, targets, parts = list(records), {}, {}, {}
    for record in records:  # a run that is not finished will have the n, β and γ of finished ones with its settings
        key = record.target_id, tuple(record.settings)  # runs of a target have its settings, which are many, alike
        if key not in targets:
            targets[key] = _some_settings(record, ("model", "data", "training"))
        parts[record.name] = targets[key], _some_settings(record, ("posterior",))
        if record.summary is not None and parts[record.name] not in resolved:
            resolved[parts[record.name]] = _posterior(record, parts[record.name][1])
    return {
        record.name: Estimand(
            parts[record.name][0],
            record.target_version,
            _posterior(record, parts[record.name][1])
            if record.summary
            else resolved.get(parts[record.name], parts[record.name]),
            record.summary.estimator if record.summary else None,
        )
        for record in records
    }


def _posterior(record, settings):
    values = (
        float(f"{value:.9g}") if isinstance(value, float) else value for value in astuple(record.summary.estimand)
    )
    return *values, *((key, value) for key, value in settings if key not in RESOLVED)


def _some_settings(record, groups):
    chosen = [key for key in record.settings if key.partition(".")[0] in groups]
    return tuple((key, setting(record.settings[key])) for key in sorted(chosen))


ESTIMAND_COLUMNS = (*(each.name for each in fields(SummaryEstimand)), "estimator", "target_version")
"""Columns of the tidy table that name an estimand beside the settings of its target and posterior."""


Columns = Mapping[str, Callable[[Record], Any]]
"""Column → what it holds of a record."""


def estimand_columns(records: Iterable[Record], columns: Columns) -> Columns:
    """The columns in which estimands may differ: ESTIMAND_COLUMNS, and settings in which these records do.

    Arguments:
        columns: the tidy table's.
    """
    keys = varying(records, ("model", "data", "training", "posterior"))
    settings = {key: _setting_reader(key) for key in keys if key not in RESOLVED}
    named = {name: columns[name] for name in ESTIMAND_COLUMNS}
    return named | {name: _restriction_reader(columns[name], whole) for name, whole in UNRESTRICTED.items()} | settings


UNRESTRICTED = {"parameters": "all", "other_data": "none"}
"""What columns of an estimand say where a posterior is not restricted, so that it is told from one that is."""


def _restriction_reader(read, whole):
    return lambda record: (read(record) or whole) if record.summary else None


# --- groups -----------------------------------------------------------------------------------------------------------


class Statistics(NamedTuple):
    """Of the runs of a group.

    Attributes:
        targets: how many targets they are of.
        runs, done: how many there are, and how many have finished.
        ok, warn, bad: how many of those have this verdict.
        status: of the runs that λ̂ is averaged over, the worst: runs that are bad only count where there are no others.
        llc_mean: mean of λ̂; None where no run has one.
        llc_scatter: standard deviation of λ̂ between runs.
        llc_mcse: standard error of one run, root mean square.
        ess: median effective sample size.
        rhat: the largest R-hat.
        total_fges, walltime_sec: gradients and seconds of all finished runs.
    """

    targets: int
    runs: int
    done: int
    ok: int
    warn: int
    bad: int
    status: str | None
    llc_mean: float | None
    llc_scatter: float | None
    llc_mcse: float | None
    ess: float | None
    rhat: float | None
    total_fges: float
    walltime_sec: float


def summarise(records: Sequence[Record]) -> Statistics:
    """Statistics of runs that estimate the same."""
    done = [record.summary for record in records if record.state == "done" and record.summary]
    ok, warn, bad = (sum(each.status == word for each in done) for word in VERDICTS)
    finite = [each for each in done if each.llc_mean is not None]
    averaged = [each for each in finite if each.status != "bad"] or finite
    means = [each.llc_mean for each in averaged if each.llc_mean is not None]
    errors, ess, rhat = (
        [value for each in averaged if (value := getattr(each, name)) is not None]
        for name in ("llc_mcse", "ess", "rhat")
    )
    statuses = [each.status for each in averaged] or [record.word for record in records]
    worst = max(statuses, key=lambda word: (*VERDICTS, *dict.fromkeys(statuses)).index(word), default=None)
    return Statistics(
        targets=len({record.target_id for record in records}),
        runs=len(records),
        done=len(done),
        ok=ok,
        warn=warn,
        bad=bad,
        status=worst,
        llc_mean=statistics.fmean(means) if means else None,
        llc_scatter=statistics.stdev(means) if len(means) > 1 else None,
        llc_mcse=math.sqrt(statistics.fmean(error**2 for error in errors)) if errors else None,
        ess=statistics.median(ess) if ess else None,
        rhat=max(rhat, default=None),
        total_fges=sum(each.total_fges for each in done),
        walltime_sec=sum(each.walltime_sec or 0.0 for each in done),
    )


class Group(NamedTuple):
    """Runs that have the grouping settings alike and estimate the same.

    Attributes:
        values: of the columns that name the group.
        records: its runs.
    """

    values: tuple
    records: list[Record]

    @property
    def statistics(self) -> Statistics:
        """Of its runs."""
        return summarise(self.records)


def grouped(records: Sequence[Record], keys: Sequence[str], columns: Columns) -> tuple[list[str], list[Group]]:
    """Runs by settings, and by what they estimate: different estimands are different groups, which further columns distinguish.

    Arguments:
        keys: columns of the tidy table, or settings, in full or in short.
        columns: the tidy table's.

    Returns:
        the names of the columns that name a group, and the groups, sorted.

    Raises:
        StoreError: for a key that no run has.
    """
    known = setting_names(records)
    readers = {key: columns[key] if key in columns else _setting_reader(resolve(key, known)) for key in keys if records}
    estimand = estimands(records)
    cells: dict[tuple[tuple, Hashable], list[Record]] = {}
    for record in records:
        values = tuple(_hashable(read(record)) for read in readers.values())
        cells.setdefault((values, estimand[record.name]), []).append(record)
    pooled = {values for values, _ in cells}
    more = {}
    if len(pooled) < len(cells):
        more = _telling(cells, columns, readers)
    groups = []
    for (values, _), members in cells.items():
        groups.append(Group((*values, *(_hashable(read(members[0])) for read in more.values())), members))
    groups.sort(
        key=lambda group: [
            (value is None, isinstance(value, str), value if value is not None else 0) for value in group.values
        ]
    )
    return [*keys, *more], groups


def _telling(cells, columns, readers):
    """Further columns in which groups differ that the given ones do not tell apart."""
    telling = {}
    for name, read in estimand_columns((members[0] for members in cells.values()), columns).items():
        if name in readers:
            continue
        seen: dict[Hashable, set] = {}
        for (values, _), members in cells.items():
            known_value = _hashable(read(members[0]))
            if known_value is not None:
                seen.setdefault(values, set()).add(known_value)
        if any(len(each) > 1 for each in seen.values()):
            telling[name] = read
    return telling


def _setting_reader(key):
    return lambda record: record.values(key)[0]


def _hashable(value):
    return setting(value) if isinstance(value, (list, tuple)) else value
