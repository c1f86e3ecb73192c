"""Differences of λ̂ between settings: their interval, how sure their sign is, and how many seeds would resolve them."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from lambda_hat.inspect.filters import KINDS, Filter, resolve, select, setting_names
from lambda_hat.inspect.formats import cell, setting
from lambda_hat.inspect.groups import ESTIMAND_COLUMNS, Columns, estimand_columns, estimands, rank
from lambda_hat.inspect.records import Record
from lambda_hat.system.errors import UserError

LEVEL, POWER = 0.95, 0.8
"""Of the interval and of the test that `seeds_needed` is for."""

PAIRS = 3
"""Fewest pairs that are worth a paired test."""

MOST_SEEDS = 10**6
"""Beyond which a number of seeds is not told."""

SETTINGS = {
    "n": "data.n_data",
    "n_data": "data.n_data",
    "beta": "posterior.beta",
    "nbeta": "posterior.nbeta",
    "gamma": "posterior.gamma",
    "loss": "posterior.loss",
    "parameters": "posterior.parameters",
    "sampler_seed": "sampler.seed",
    "training_step": "training.checkpoint",
}
"""The setting that a column of the tidy table shows."""

FOLLOWING = {
    **{kind: (f"{kind.partition('.')[0]}.",) for kind in KINDS.values()},
    "data.path": ("data.",),
    "data.sha256": ("data.",),
    "model.source": ("model.sha256",),
    "target_id": ("model.", "data.", "training."),
    "posterior.beta": ("posterior.nbeta",),
    "posterior.nbeta": ("posterior.beta",),
    "posterior.gamma": ("posterior.prior_radius",),
    "posterior.prior_radius": ("posterior.gamma",),
}
"""Settings, or beginnings of their names, that may differ where this one does."""

ASKED = ("loss", "dtype", "parameters", "other_data")
"""Of a run's estimand, what is compared as it came out; n, β, γ and σ are compared as they were asked for."""


class Side(NamedTuple):
    """One of the two groups of a comparison.

    Attributes:
        value: what it has of the compared setting.
        runs, bad: finished runs, and how many of them are bad, which are left out of the mean.
        seeds: how many values the mean is over: the runs of a target are averaged first, where there are several targets.
        mean: of λ̂; None where no run is left.
        scatter: standard deviation between seeds; None for one.
        mcse: standard error of one value by its sampler alone, root mean square; None where it is not known.
    """

    value: Any
    runs: int
    bad: int
    seeds: int
    mean: float | None
    scatter: float | None
    mcse: float | None


class Difference(NamedTuple):
    """λ̂ of A less λ̂ of B.

    Attributes:
        a, b: the groups.
        matched: column → value of what both have alike, where other comparisons have something else.
        difference, error: of the means, and its standard error; None where it cannot be had.
        low, high: the 95 % interval.
        freedom: degrees of freedom of its Student distribution (Welch-Satterthwaite); infinite where only the samplers' errors
            are known.
        probability: that A's λ is larger: of the Student posterior under a flat prior.
        method: `paired`, `Welch`, or `sampler only`.
        resolution: the difference that is to be resolved, in units of λ̂.
        seeds_needed: in each group, for a two-sided test at 5 % with power 0.8; None where the scatter is not known,
            or beyond MOST_SEEDS.
        note: what else differs, and what is not known.
    """

    a: Side
    b: Side
    matched: dict[str, Any]
    difference: float | None
    error: float | None
    low: float | None
    high: float | None
    freedom: float | None
    probability: float | None
    method: str
    resolution: float | None
    seeds_needed: int | None
    note: str

    def row(self) -> dict[str, Any]:
        """All of it by column."""
        sides = {
            f"{name}_{side}": value
            for side, each in (("a", self.a), ("b", self.b))
            for name, value in each._asdict().items()
        }
        rest = {name: value for name, value in self._asdict().items() if name not in ("a", "b", "matched")}
        return self.matched | sides | rest


# --- which groups are compared ----------------------------------------------------------------------------------------


def compare(records: Sequence[Record], key: str, columns: Columns, resolution: float | None = None) -> list[Difference]:
    """The difference of λ̂ between each two values of a setting, among runs that agree in all else that λ̂ depends on.

    Arguments:
        records: runs; those without a result do not count.
        key: the setting, in full, in short, or as a column of the tidy table.
        columns: the tidy table's.
        resolution: the difference that is to be resolved, in units of λ̂; the observed one unless given.

    Raises:
        StoreError: for a setting that no run has.
        UserError: where there is nothing to compare.
    """
    full = _setting_name(key, records)
    if full in ("status", "run_id"):
        raise UserError(f"compare={key} is no setting; compare by sampler, n_data, model.widths or another one.")
    groups = _groups(records, [full], lambda record: record.values(full)[0])
    found = [
        (match, first, second)
        for match, members in groups.items()
        for i, first in enumerate(members)
        for second in members[i + 1 :]
        if setting(first.value) != setting(second.value)
    ]
    if not found:
        values = sorted({setting(each.value) for members in groups.values() for each in members})
        why = "no run is finished"
        if values:
            why = (
                f"all have {values[0]}" if len(values) == 1 else "no two groups agree in all else, the sampler included"
            )
        raise UserError(f"compare={key}: there is nothing to compare, for {why}; see the runs without compare=.")
    return _differences(found, full, columns, resolution)


def compare_sides(
    records: Sequence[Record],
    a: Sequence[Filter],
    b: Sequence[Filter],
    columns: Columns,
    resolution: float | None = None,
) -> list[Difference]:
    """The difference of λ̂ between the runs that filters `a` keep and those that `b` keep.

    They are compared where they agree in all that λ̂ depends on but the settings of which both filters name other values.

    Raises:
        StoreError: for a setting that no run has.
        UserError: where a run is on both sides, or there is nothing to compare.
    """
    sides = [select(records, filters) for filters in (a, b)]
    if shared := {each.name for each in sides[0]} & {each.name for each in sides[1]}:
        raise UserError(f"a= and b= both keep {min(shared)}: give filters that no run meets both of.")
    named = [{_setting_name(key, records): list(values) for key, values in side if key != "status"} for side in (a, b)]
    keys = [name for name, values in named[0].items() if named[1].get(name, values) != values]
    texts = [" ".join(f"{key}={','.join(values)}" for key, values in each) for each in (a, b)]
    first, second = (
        _groups(side, keys, lambda record, text=text: text) for side, text in zip(sides, texts, strict=True)
    )
    found = [(match, one, two) for match, members in first.items() for one in members for two in second.get(match, [])]
    if not found:
        counts = [sum(record.summary is not None for record in side) for side in sides]
        raise UserError(
            f"there is nothing to compare: a= keeps {counts[0]} finished runs, b= {counts[1]}, and none agree in all but the "
            "settings of which a= and b= name different values: name what may differ in both."
        )
    return _differences(found, None, columns, resolution)


def _setting_name(key, records):
    return SETTINGS.get(key) or resolve(key, setting_names(records))


class _Group(NamedTuple):
    value: Any
    runs: list


def _groups(records, keys, read: Callable[[Record], Any]):
    """Groups of runs that estimate the same, by what must agree for them to be compared."""
    done = [record for record in records if record.state == "done" and record.summary and record.run_id]
    estimand, cells = estimands(done), {}
    for record in done:
        value = read(record)
        here = setting(value), record.sampler, estimand[record.name]
        cells.setdefault(_match(record, keys), {}).setdefault(here, _Group(value, [])).runs.append(record)
    return {match: sorted(found.values(), key=lambda each: rank(each.value)) for match, found in cells.items()}


def _match(record, keys):
    free = (*keys, *(name for key in keys for name in FOLLOWING.get(key, ())))
    names = sorted(
        name for name in record.settings if name.partition(".")[0] in ("model", "data", "training", "posterior")
    )
    asked = tuple(
        (name, setting(record.settings[name]))
        for name in names
        if not (name in free or name.startswith(tuple(each for each in free if each.endswith("."))))
    )
    came_out = tuple(getattr(record.summary.estimand, name) for name in ASKED if f"posterior.{name}" not in keys)
    if any(key.startswith("posterior.data") for key in keys):
        came_out = came_out[:-1]
    sampler = () if "sampler.name" in keys else (record.sampler,)
    return asked, came_out, sampler, record.target_version, record.summary.estimator


# --- one comparison ---------------------------------------------------------------------------------------------------


def _differences(found, key, columns, resolution):
    runs = [record for _, *pair in found for group in pair for record in group.runs]
    readers = {"sampler": columns["sampler"], **estimand_columns(runs, columns)}
    told_already = (key, *FOLLOWING.get(key, ()))
    readers = {name: read for name, read in readers.items() if SETTINGS.get(name, name) not in told_already}
    told, apart = [], 1
    for name in sorted(
        readers, key=lambda name: name in ESTIMAND_COLUMNS
    ):  # settings first, then n and β that follow from them
        finer = len({tuple(_alike(readers[each], a, b) for each in (*told, name)) for _, a, b in found})
        if finer > apart:
            told, apart = [*told, name], finer
    made = []
    for _, a, b in found:
        alike = {name: readers[name](a.runs[0]) if _same(readers[name], a, b) else None for name in told}
        apart = [
            f"{name} {cell(_short(read(a.runs[0])))} / {cell(_short(read(b.runs[0])))}"
            for name, read in readers.items()
            if not _same(read, a, b)
            and not (name == "sampler" and key == "sampler.name")
            and not (key is None and name not in ("n", "beta", "gamma", "noise_scale"))
        ]
        made.append(difference(a.value, a.runs, b.value, b.runs, resolution, alike, apart))
    return made


def _alike(read, a, b):
    """What both groups have, as text; None where they differ."""
    return setting(read(a.runs[0])) if _same(read, a, b) else None


def _same(read, a, b):
    return setting(read(a.runs[0])) == setting(read(b.runs[0]))


def _short(value):
    return float(f"{value:.4g}") if isinstance(value, float) else value


def difference(
    value_a: Any,
    runs_a: Sequence[Record],
    value_b: Any,
    runs_b: Sequence[Record],
    resolution: float | None = None,
    matched: dict[str, Any] | None = None,
    notes: Iterable[str] = (),
) -> Difference:
    """λ̂ of two groups of runs, compared.

    The means' errors come from the scatter of λ̂ over seeds, which holds the samplers' errors: Welch's t, or the paired t where
    both groups have the same targets and these are at least PAIRS. Of a group with one seed only the sampler's error is known.
    Biases that are common to the runs of a group, by a sampler's step or a w0 that is no minimum, are not in the interval.
    """
    (a, units_a), (b, units_b) = _side(value_a, runs_a), _side(value_b, runs_b)
    notes = list(notes)
    unknown = Difference(
        a=a, b=b, matched=matched or {}, difference=None, error=None, low=None, high=None, freedom=None, probability=None,
        method="none", resolution=resolution, seeds_needed=None, note="",
    )  # fmt: skip
    if a.mean is None or b.mean is None:
        return unknown._replace(note="; ".join([*notes, "no run that is not bad"]))
    paired = set(units_a) == set(units_b) and len(units_a) >= PAIRS
    if paired:
        pairs = [units_a[name] - units_b[name] for name in units_a]
        variances, sizes, method = [statistics.variance(pairs)], [len(pairs)], "paired"
    else:
        variances = [each.scatter**2 if each.scatter is not None else None for each in (a, b)]
        sizes, method = [a.seeds, b.seeds], "Welch"
    parts, freedoms = [], []
    for variance, size, side in zip(variances, sizes, (a, b), strict=False):
        if variance is not None:
            parts.append(variance / size)
            freedoms.append(size - 1)
        else:
            parts.append(side.mcse**2 if side.mcse is not None else math.nan)
            freedoms.append(math.inf)
    alone = [name for name, each in (("A", a), ("B", b)) if each.seeds == 1]
    if alone:
        method = "sampler only" if len(alone) == 2 else method
        notes.append(f"one seed{'' if len(alone) == 2 else f' of {alone[0]}'}: scatter over seeds unknown")
    elif len({run.target_id for run in runs_a}) == 1 or len({run.target_id for run in runs_b}) == 1:
        notes.append("one target: scatter over targets unknown")
    gap, squared = a.mean - b.mean, sum(parts)
    wanted = abs(gap) if resolution is None else resolution
    scatters = [variance for variance in variances if variance is not None]
    seeds = seeds_needed(scatters, wanted) if len(scatters) == len(variances) else None
    unknown = unknown._replace(difference=gap, method=method, resolution=wanted, seeds_needed=seeds)
    if not squared > 0:
        notes.append("the standard error is not known" if math.isnan(squared) else "no scatter")
        return unknown._replace(note="; ".join(notes))
    error, freedom = math.sqrt(squared), satterthwaite(parts, freedoms)
    half = _quantile(freedom, (1 + LEVEL) / 2) * error
    probability = _student(freedom, gap / error)
    made = {"difference": gap, "error": error, "low": gap - half, "high": gap + half}
    return unknown._replace(**made, freedom=freedom, probability=probability, note="; ".join(notes))


def _side(value, runs):
    """A group's `Side`, and the values that its mean is over by the name of their seed."""
    summaries = [(run, run.summary) for run in runs if run.summary.llc_mean is not None]
    good = [(run, each) for run, each in summaries if each.status != "bad"]
    by_unit: dict[str, list] = {}
    several = len({run.target_id for run, _ in good}) > 1
    for run, each in good:
        by_unit.setdefault(run.target_id if several else run.name, []).append(each)
    units = {name: statistics.fmean(each.llc_mean for each in members) for name, members in by_unit.items()}
    errors = [
        sum(each.llc_mcse**2 for each in members) / len(members) ** 2
        for members in by_unit.values()
        if all(each.llc_mcse is not None for each in members)
    ]
    side = Side(
        value=setting(value) if isinstance(value, (list, tuple)) else value,
        runs=len(runs),
        bad=sum(run.summary.status == "bad" for run in runs),
        seeds=len(units),
        mean=statistics.fmean(units.values()) if units else None,
        scatter=statistics.stdev(units.values()) if len(units) > 1 else None,
        mcse=math.sqrt(statistics.fmean(errors)) if errors else None,
    )
    return side, units


# --- statistics -------------------------------------------------------------------------------------------------------


def satterthwaite(parts: Sequence[float], freedoms: Sequence[float]) -> float:
    """Degrees of freedom of a sum of independent squared standard errors: (Σ sᵢ)² / Σ (sᵢ²/νᵢ) (Welch 1947).

    Arguments:
        parts: the squared standard errors sᵢ.
        freedoms: the degrees of freedom νᵢ of each; infinite for one that is known.
    """
    below = sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
    return sum(parts) ** 2 / below if below > 0 else math.inf


def seeds_needed(variances: Sequence[float], wanted: float) -> int | None:
    """Fewest seeds in each group with which a t-test, two-sided at 5 %, finds a difference with power 0.8.

    Arguments:
        variances: of λ̂ between seeds: of both groups, or of the differences of pairs alone.
        wanted: the difference.

    Returns:
        None where there are more than MOST_SEEDS, or no difference is wanted.
    """
    if not wanted > 0 or not sum(variances) >= 0:
        return None
    low, high = 1, 2
    while power(variances, wanted, high) < POWER:
        low, high = high, 2 * high
        if low > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(variances, wanted, middle) >= POWER else (middle, high)
    return high if high <= MOST_SEEDS else None


def power(variances: Sequence[float], wanted: float, seeds: int) -> float:
    """Probability that a t-test with this many seeds in each group finds a difference; arguments as of `seeds_needed`."""
    from scipy.special import nctdtr

    parts = [variance / seeds for variance in variances]
    if sum(parts) == 0:
        return 1.0
    freedom = satterthwaite(parts, [seeds - 1] * len(parts))
    shift, limit = wanted / math.sqrt(sum(parts)), _quantile(freedom, (1 + LEVEL) / 2)
    if shift > limit + 30:
        return 1.0
    return float(1 - nctdtr(freedom, shift, limit))


def _quantile(freedom, probability):
    from scipy.special import ndtri, stdtrit

    return float(ndtri(probability) if math.isinf(freedom) else stdtrit(freedom, probability))


def _student(freedom, value):
    from scipy.special import ndtr, stdtr

    return float(ndtr(value) if math.isinf(freedom) else stdtr(freedom, value))
