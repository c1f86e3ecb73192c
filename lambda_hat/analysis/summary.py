"""analysis.json as a record: one field for each statistic of a run, which is written, read back, tabulated, logged and reported.

This is the only place that names analysis.json's keys. To add a statistic, add a field here with `statistic(...)` and compute it
in `lambda_hat.analysis.analyse`: the tidy table, CSV, report and experiment loggers follow from `COLUMNS`.
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lambda_hat import store
from lambda_hat.system.errors import StoreError

SCHEMA = 2
"""Version of the file's layout. 1: written before the version was recorded."""

ESTIMATOR = 2
"""Version of the estimator behind `llc_mean`; values of different versions are never averaged. 1: the plain mean of the draws,
whose interval alone was corrected for the sampler's bias. 2: the best estimate, which lies in its interval."""

LARGEST = 1e100
"""Largest magnitude of a number in the file, so that no square or sum over runs overflows."""

DEPTH = 6
"""Deepest nesting of settings."""

Verdict = Literal["ok", "warn", "bad"]

Record = TypeVar("Record")

Cause = Literal["sampler", "length", "w0"]
"""What a finding concerns: the sampler, too few draws, or the point w0 that λ̂ is measured from."""


def known(value: Any) -> float | None:
    """A number as the record holds it: a plain float, or None where it is missing, not finite, or absurdly large."""
    if value is None:
        return None
    number = float(value)
    return number if abs(number) <= LARGEST else None


def statistic(
    label: str,
    about: str = "",
    *,
    unit: str = "",
    pattern: str = ".4g",
    column: str | tuple[str, ...] | None = None,
    logged: bool = True,
    key: str | None = None,
    default: Any = MISSING,
) -> Any:
    """A field that is shown.

    Arguments:
        label: its name for people, at the head of a column.
        about: what it is, in a sentence.
        unit: of the value; empty for a pure number.
        pattern: format of the value in a table.
        column: its name in the tidy table; the key unless given. A pair of values takes two names.
        logged: whether experiment loggers get it, if it is a number.
        key: its name in the file, where it is not the field's.
        default: what it is where the file has none; without one, a file that lacks it is damaged.
    """
    shown = {"label": label, "about": about, "unit": unit, "pattern": pattern, "column": column, "logged": logged}
    return field(default=default, metadata={"shown": shown, "key": key})


@dataclass(frozen=True, kw_only=True)
class Estimand:
    """What λ̂ is an estimate of: only runs that agree in all of this may be averaged.

    λ̂ = nβ (E[L_n(w)] − L_n(w0)) under π(w) ∝ exp(−nβ L_n(w) − γ/2 |w−w0|²).
    """

    n: int = statistic("n", "number of data pairs", pattern="d")
    beta: float = statistic("β", "inverse temperature")
    gamma: float = statistic("γ", "localization", pattern="g")
    loss: str | None = statistic("loss", "what L_n is: nll, mse, cross-entropy or analytic")
    noise_scale: float | None = statistic("σ", "noise scale of the labels, where the loss has one", default=None)
    dtype: str | None = statistic("dtype", "precision of the sampler")
    parameters: str | None = statistic("parameters", "which parameters move; empty: all", default=None)
    other_data: str | None = statistic(
        "other data",
        "sha256 of the data that L_n is the mean over, of which w0 need be no minimum; empty: the target's own",
        default=None,
    )

    @property
    def nbeta(self) -> float:
        """nβ."""
        return self.n * self.beta

    def described(self) -> str:
        """n, β, γ and the loss, in a line."""
        return f"n = {self.n}, β = {self.beta:.4g}, γ = {self.gamma:g}, {self.loss}"


@dataclass(frozen=True, kw_only=True)
class ErrorBudget:
    """Where λ̂'s error comes from, each part in units of λ̂; `bias_kind` and `bias_share` are `samplers.base.Bias`."""

    within: float | None = statistic("within chains", "Monte Carlo, from autocorrelation", column="error_within")
    between: float | None = statistic("between chains", "Monte Carlo, from the chains' means", column="error_between")
    discretisation: float | None = statistic(
        "step bias", "bias of the raw mean by the sampler's step; positive: too large", column="error_discretisation"
    )
    discretisation_error: float | None = statistic(
        "step bias left", "uncertainty of the bias that is left in λ̂", column="error_discretisation_left", default=None
    )
    baseline: float | None = statistic(
        "baseline", "by how much λ̂ is too small because w0 is not a minimum", column="error_baseline"
    )
    bias_kind: str | None = None
    bias_share: float | None = None
    dominant: str = statistic("dominant error", "the part that makes the interval widest", column="error_dominant")


@dataclass(frozen=True, kw_only=True)
class Work:
    """Full-data gradient evaluations, all chains."""

    warmup: float = statistic("warm-up gradients", "tuning included", pattern=".0f", column="fges_warmup")
    draws: float = statistic("draw gradients", "of the recorded draws", pattern=".0f", column="fges_draws")
    curvature: float | None = statistic(
        "curvature gradients", "of the curvature at w0, made once a target", pattern=".0f", column="fges_curvature",
        default=None,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ControlVariate:
    """The mean of the draws with the Stein identity's fluctuation regressed out."""

    llc_mean: float | None = statistic("λ̂, Stein-corrected", column="stein_llc")
    llc_mcse: float | None = statistic("MCSE, Stein-corrected", column="stein_mcse")
    coefficient: float | None = statistic(
        "Stein coefficient", "of the regression; ½ for a quadratic L_n", column="stein_coefficient"
    )
    used: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Sensitivities:
    """How λ̂ moves with ln β and ln γ, with standard errors."""

    dllc_dlog_beta: float | None = statistic("dλ̂/d ln β")
    dllc_dlog_beta_mcse: float | None = statistic("± (ln β)", default=None)
    dllc_dlog_gamma: float | None = statistic("dλ̂/d ln γ")
    dllc_dlog_gamma_mcse: float | None = statistic("± (ln γ)", default=None)


@dataclass(frozen=True, kw_only=True)
class SteinIdentity:
    """E[(w−w0)·∇U], which is p under the exact posterior."""

    mean: float | None = statistic("Stein identity", "p under the exact posterior", column="stein_mean")
    mcse: float | None = statistic("its MCSE", column="stein_identity_mcse")
    expected: float = statistic("its exact value", column="stein_expected", logged=False)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A learning coefficient that is known, and λ̂'s relative distance from it.

    `local` says whether it is λ at w0, `least` is the smallest λ on the zero set around w0, where that is known and smaller, and
    `source` says where the formula is from.
    """

    learning_coefficient: float = statistic("λ", "the known learning coefficient", key="lambda", column="truth")
    multiplicity: int | None = statistic("m", "multiplicity of λ", column="truth_multiplicity", pattern="d")
    source: str
    local: bool | None = None
    least: float | None = None
    finite: float | None = statistic(
        "exact λ̂", "of the exact posterior at this (n, β, γ)", column="truth_finite", pattern=".5g"
    )
    relative_error_finite: float | None = statistic("λ̂ / exact − 1")
    relative_error: float | None = statistic("λ̂ / λ − 1")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a result comes from; in no hash.

    Attributes:
        devices: that were used, such as `1 × cpu`.
        gpus_asked: how many GPUs its job had asked for; None where it was no job's.
    """

    code_sha: str | None = None
    pkg_versions: Mapping[str, Any] | None = None
    python: str | None = None
    hostname: str | None = None
    log: str | None = None
    devices: str | None = None
    gpus_asked: int | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A check that did not pass."""

    check: str
    concerns: Cause
    verdict: Verdict
    reason: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All that analysis.json says of a run. None stands for what is not known or not finite.

    Raises:
        StoreError: by `from_json`, for whatever is not such a record.
    """

    schema: int = SCHEMA
    estimator: int = statistic("estimator", "version of the estimator", pattern="d", logged=False, default=1)
    target_id: str | None = None
    run_id: str | None = None
    sampler: str

    llc_mean: float | None = statistic("λ̂", "the best estimate of the learning coefficient", pattern=".5g")
    llc_std: float | None = statistic("std", "standard deviation of the raw draws")
    llc_mcse: float | None = statistic("MCSE", "Monte Carlo standard error of λ̂", pattern=".2g")
    llc_interval95: tuple[float | None, float | None] = statistic(
        "95 %", "interval that contains λ̂", pattern=".5g", column=("llc_low95", "llc_high95")
    )
    llc_raw: float | None = statistic("raw mean", "plain mean of the draws", pattern=".5g", default=None)
    llc_from_minimum: float | None = statistic(
        "λ̂ from the minimum", "λ̂ and the descent gain: measured from the minimum near w0; empty where w0 is that", pattern=".5g",
        default=None,
    )  # fmt: skip
    descent_gain: float | None = statistic(
        "descent gain", "what a local descent from w0 gains, in units of λ̂: nβ(L(w0) − L(w*)), w* the minimum of nβL + γ/2|w−w0|²; "
        "empty where w0 is a minimum", pattern=".5g", default=None,
    )  # fmt: skip
    training_step: int | None = statistic(
        "step", "of training that w0 is at, unpolished; empty for its end", pattern="d", default=None
    )
    ess: float | None = statistic("ESS", "effective sample size of the raw draws", pattern=".0f")
    rhat: float | None = statistic("R-hat", "of the raw draws", pattern=".4f")
    status: Verdict
    status_reasons: tuple[str, ...]
    findings: tuple[Finding, ...] | None = None
    truth: Truth | None

    estimand: Estimand = field(metadata={"inline": True})
    p: int = statistic("p", "number of parameters that move", pattern="d", column="p", logged=False)
    p_model: int | None = statistic(
        "p of the model", "where not all of its parameters move", pattern="d", logged=False, default=None
    )
    L0: float | None = statistic("L_n(w0)", "mean loss at w0")
    chains: int = statistic("chains", pattern="d", logged=False)
    draws: int = statistic("draws", "of each chain", pattern="d", logged=False)
    total_fges: float = statistic(
        "gradients", "full-data gradients spent, curvature and warm-up included", pattern=".0f"
    )
    fges: Work
    error: ErrorBudget
    control_variate: ControlVariate
    llc_variance_estimator: float | None = statistic("(nβ)² Var L_n", "second estimator, which needs no L_n(w0)")
    llc_variance_mcse: float | None = statistic("its MCSE", "of (nβ)² Var L_n", default=None)
    singular_fluctuation: float | None = statistic(
        "ν", "(β/2) Σᵢ Var ℓᵢ, the singular fluctuation of the localised posterior at this β and γ, ℓᵢ a pair's negative "
        "log-likelihood; empty where L_n is no mean of such (loss nll or cross-entropy), for laplace, and of too few draws",
        default=None,
    )  # fmt: skip
    singular_fluctuation_mcse: float | None = statistic("± (ν)", "MCSE of ν", pattern=".2g", default=None)
    waic: float | None = statistic(
        "WAIC", "−(1/n) Σᵢ log E exp(−ℓᵢ) + 2ν/n, of the localised posterior at this β and γ; empty where ν is", unit="nats",
        pattern=".6g", default=None,
    )  # fmt: skip
    waic_mcse: float | None = statistic("± (WAIC)", "MCSE of WAIC", unit="nats", pattern=".2g", default=None)
    sensitivities: Sensitivities
    stein_identity: SteinIdentity
    laplace: float | None = statistic("Laplace λ̂", "½ tr nβH(nβH+γ)⁻¹, H the curvature at w0", pattern=".5g")
    baseline_gain: float | None = statistic("baseline gain", "what a Newton step from w0 gains, in units of λ̂")
    distance2_mean: float | None = statistic("|w−w0|²", "mean over the draws")
    distance2_ess: float | None = statistic("ESS of |w−w0|²", pattern=".0f", default=None)
    distance2_rhat: float | None = statistic("R-hat of |w−w0|²", pattern=".4f", default=None)
    w0_norm2: float | None = statistic("|w0|²", logged=False, default=None)
    acceptance: float | None = statistic("acceptance", "mean; empty for unadjusted samplers", pattern=".3f")
    divergences: int = statistic("divergences", "draws that broke down", pattern="d")
    adapted: Mapping[str, Any]
    sampler_config: Mapping[str, Any]
    posterior_config: Mapping[str, Any]
    target_hashes: Mapping[str, Any] | None = None
    migrated_from: str | None = None

    walltime_sec: float | None = statistic("time", unit="s", pattern=".3g", default=None)
    timings_sec: Mapping[str, float] | None = None
    created_at: float | None = statistic("made at", "Unix time", unit="s", pattern=".0f", logged=False, default=None)
    provenance: Provenance | None = None

    FILE: ClassVar[str] = "analysis.json"

    @classmethod
    def from_json(cls, value: Any, where: object) -> "Summary":
        """The record that a file's JSON holds, of this or an older layout; keys that are not known are left out.

        Arguments:
            value: what `json.loads` gave.
            where: the file, for the sentence that says what is wrong.

        Raises:
            StoreError: where a field is missing, of the wrong type, not finite or absurdly large.
        """
        try:
            upgraded = _upgraded(_object(value))
        except _Wrong as wrong:
            raise _error(where, wrong, REDO) from None
        return read_record(cls, upgraded, where)

    @classmethod
    def read(cls, directory: str | PathLike[str]) -> "Summary":
        """The record of a published run, checked against its hash and its place.

        Raises:
            StoreError: where the file is missing or damaged.
        """
        directory = Path(directory)
        summary = cls.from_json(store.read_json(directory / cls.FILE), directory / cls.FILE)
        summary.check_place(directory, store.hashes(directory.parent))
        return summary

    def check_place(self, directory: Path, target_hashes: Mapping[str, Any] | None) -> None:
        """See that this is the record of the run that its directory is named after, and of the target that this lies in.

        Arguments:
            directory: `<root>/targets/tgt_…/run_…`.
            target_hashes: hash by name of the target's files; None where they are not known.

        Raises:
            StoreError: where it is another's.
        """
        path, run = directory / self.FILE, store.RUN_ID.fullmatch(directory.name)
        store.check_maker(path, "sampler", self.sampler, run and run[1])
        store.check_maker(path, "target_id", self.target_id, directory.parent.name)
        store.check_maker(path, "run_id", self.run_id or directory.name, directory.name)
        for name, value in (self.target_hashes or {}).items():
            expected = (target_hashes or {}).get(name, value)
            store.check_maker(path, f"hash of the target's {name}", value, expected)

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON types: what `from_json` reads."""
        return _written(self)

    def estimate_text(self) -> str:
        """λ̂ and its standard error."""
        if self.llc_mean is None:
            return "λ̂ = none"
        return f"λ̂ = {self.llc_mean:.5g} ± {'?' if self.llc_mcse is None else f'{self.llc_mcse:.2g}'}"

    def line(self) -> str:
        """λ̂, its interval, ESS and R-hat."""
        low, high = ("?" if bound is None else f"{bound:.5g}" for bound in self.llc_interval95)
        interval = "" if self.llc_mean is None else f"  95 % [{low}, {high}]"
        ess = "–" if self.ess is None else f"{self.ess:.0f}"
        rhat = "–" if self.rhat is None else f"{self.rhat:.4f}"
        return f"{self.estimate_text()}{interval}  ESS {ess}  R-hat {rhat}"

    def restrictions(self) -> list[str]:
        """In what the posterior was restricted, a phrase each."""
        found = []
        if self.estimand.parameters is not None:
            found.append(f"{self.p} of {self.p_model} parameters move: {self.estimand.parameters}")
        if self.estimand.other_data is not None:
            found.append(
                f"L_n over {self.estimand.n} other pairs (sha256 {self.estimand.other_data[:12]}), of which w0 need be no minimum"
            )
        return found

    def from_minimum_text(self) -> str | None:
        """λ̂, the descent gain, and their sum; None where w0 is a minimum."""
        if self.descent_gain is None or self.llc_mean is None or self.llc_from_minimum is None:
            return None
        gain, total = f"{self.descent_gain:.5g}", f"{self.llc_from_minimum:.5g}"
        return f"λ̂ {self.llc_mean:.5g} + descent gain {gain} = {total}, measured from the minimum near w0"

    def shown(self) -> dict[str, float | int | str | None]:
        """The values of `COLUMNS` by column."""
        return {column.name: column.read(self) for column in COLUMNS}

    def logged(self) -> dict[str, float | int]:
        """The numbers that experiment loggers get, by column."""
        values = {column.name: column.read(self) for column in COLUMNS if column.logged}
        return {name: value for name, value in values.items() if isinstance(value, (int, float))}


# --- columns ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A statistic as tables show it.

    Attributes:
        name: in the tidy table, CSV and loggers.
        label, about, unit, pattern: for people, as `statistic` has them.
        logged: whether experiment loggers get it.
        read: its value in a `Summary`; None where it is not known.
    """

    name: str
    label: str
    about: str
    unit: str
    pattern: str
    logged: bool
    read: Callable[[Summary], float | int | str | None]

    def text(self, summary: Summary) -> str:
        """The value as a table shows it; a dash where it is not known."""
        value = self.read(summary)
        if value is None:
            return "–"
        return value if isinstance(value, str) else format(value, self.pattern)


def _columns(cls: type, path: tuple[str | int, ...] = ()) -> list[Column]:
    columns = []
    for each in fields(cls):
        record = _record_in(get_type_hints(cls)[each.name])
        here = (*path, each.name)
        if record is not None and "shown" not in each.metadata:
            columns += _columns(record, here)
        elif "shown" in each.metadata:
            shown = dict(each.metadata["shown"])
            column = shown.pop("column") or each.metadata["key"] or each.name
            if isinstance(column, str):
                columns.append(Column(name=column, read=_getter(here), **shown))
            else:
                columns += [Column(name=name, read=_getter((*here, i)), **shown) for i, name in enumerate(column)]
    return columns


def _record_in(kind: Any) -> type | None:
    """The record class that a field holds, or may hold; None for any other kind of field."""
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return next(
        (option for option in options if isinstance(option, type) and hasattr(option, "__dataclass_fields__")), None
    )


def _getter(path: tuple[str | int, ...]) -> Callable[[Summary], Any]:
    def get(summary):
        value = summary
        for step in path:
            if value is None:
                return None
            value = value[step] if isinstance(step, int) else getattr(value, step)
        return value

    return get


# --- writing ----------------------------------------------------------------------------------------------------------


def _written(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        result = {}
        for each in fields(value):
            inner = _written(getattr(value, each.name))
            if each.metadata.get("inline"):
                result |= inner
            else:
                result[_key(each)] = inner
        return result
    if isinstance(value, Mapping):
        return {key: _written(inner) for key, inner in value.items()}
    return [_written(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _key(each: Any) -> str:
    return each.metadata.get("key") or each.name


# --- reading ----------------------------------------------------------------------------------------------------------


REDO = "restore the file, or rerun with force=true to redo the run"
"""What to do about a damaged analysis.json."""


def read_record(cls: type[Record], value: Any, where: object, remedy: str = REDO) -> Record:
    """A dataclass from JSON, each field checked against its type hint; keys that are not known are left out.

    Arguments:
        cls: the dataclass; a field without a default must be there.
        value: what `json.loads` gave.
        where: the file, for the sentence that says what is wrong.
        remedy: what to do about it.

    Raises:
        StoreError: where a field is missing, of the wrong type, not finite or absurdly large.
    """
    try:
        return _reader(cls)(value)
    except _Wrong as wrong:
        raise _error(where, wrong, remedy) from None


def _error(where, wrong, remedy):
    name = ".".join(reversed(wrong.path))
    return StoreError(f"{where}: {f'{name} ' if name else ''}{wrong.what}; {remedy}.")


class _Wrong(Exception):
    """What is wrong with a value; `path` gets the keys that lead to it, the innermost first."""

    def __init__(self, what: str):
        super().__init__(what)
        self.what, self.path = what, []


def _upgraded(value: dict[str, Any]) -> dict[str, Any]:
    """A file of an older layout in today's."""
    schema = value.get("schema", 1)
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise _Wrong(f"has schema {schema!r:.40}, and this version of lambda_hat reads 1 to {SCHEMA}")
    if schema == SCHEMA:
        return value
    value = dict(value)
    work, curvature = value.get("fges"), value.get("curvature_fges")
    if isinstance(work, dict) and _is_number(curvature) and _is_number(value.get("total_fges")):
        value["fges"] = work | {"curvature": curvature}
        value["total_fges"] += curvature
    if isinstance(value.get("created_at"), str):
        try:
            value["created_at"] = datetime.fromisoformat(value["created_at"]).timestamp()
        except (ValueError, OverflowError):
            raise _Wrong("created_at is not a time") from None
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """A function that turns JSON into a value of this type, or raises `_Wrong`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (_reader(option) for option in arguments if option is not type(None))
        return lambda value: None if value is None else inner(value)
    if origin is Literal:
        return lambda value: (
            value if isinstance(value, str) and value in arguments else _refuse(value, " or ".join(arguments))
        )
    if origin is tuple and arguments[-1] is Ellipsis:
        return lambda value: tuple(map(_reader(arguments[0]), _array(value)))
    if origin is tuple:
        return lambda value: tuple(map(_reader(arguments[0]), _array(value, len(arguments))))
    if origin is Mapping:
        return _numbers if arguments[1] is float else _settings
    return _SCALARS.get(kind) or _record_reader(kind)


def _record_reader(cls: type) -> Callable[[Any], Any]:
    """Of a dataclass; most of what is read are numbers, which are taken as they are without a call each."""
    hints = get_type_hints(cls)
    hinted = [(each, hints[each.name]) for each in fields(cls)]
    steps = [
        (
            each.name,
            _key(each),
            _reader(hint),
            each.metadata.get("inline"),
            hint in _FLOATS,
            type(None) in get_args(hint),
        )
        for each, hint in hinted
    ]
    defaults = {each.name: each.default for each in fields(cls) if each.default is not MISSING}

    def read(value):
        value, given = _object(value), defaults.copy()
        for name, key, reader, inline, is_float, is_optional in steps:
            if inline:
                given[name] = reader(value)
            elif key in value:
                inner = value[key]
                if (is_float and type(inner) is float and -LARGEST <= inner <= LARGEST) or (
                    inner is None and is_optional
                ):
                    given[name] = inner
                    continue
                try:
                    given[name] = reader(inner)
                except _Wrong as wrong:
                    wrong.path.append(key)
                    raise
            elif name not in defaults:
                raise _Wrong(f"lacks {key}")
        made = object.__new__(cls)
        made.__dict__.update(given)  # what its __init__ would do, which costs a call for each field of a frozen class
        return made

    return read


_FLOATS = (float, float | None)


def _refuse(value: Any, expected: str) -> Any:
    text = (
        "…" if isinstance(value, (dict, list)) else ascii(value)[:40] if isinstance(value, str) else _number_text(value)
    )
    raise _Wrong(f"is {type(value).__name__} {text}, expected {expected}")


def _number_text(value: Any) -> str:
    return f"{value!r:.40}" if not isinstance(value, int) or abs(value) < 10**40 else "of more than 40 digits"


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else _refuse(value, "an object")


def _array(value: Any, length: int | None = None) -> list[Any]:
    if isinstance(value, list) and (length is None or len(value) == length):
        return value
    return _refuse(value, "a list" if length is None else f"a list of {length}")


def _float(value: Any) -> float:
    return float(value) if _is_number(value) else _refuse(value, f"a finite number of at most {LARGEST:g}")


def _int(value: Any) -> int:
    return value if type(value) is int and abs(value) < 2**63 else _refuse(value, "a whole number")


def _bool(value: Any) -> bool:
    return value if type(value) is bool else _refuse(value, "true or false")


def _str(value: Any) -> str:
    if isinstance(value, str) and (value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)):
        return value
    return _refuse(value, "text")


def _numbers(value: Any) -> dict[str, float]:
    return {_str(key): _float(inner) for key, inner in _object(value).items()}


def _is_plain(value: Any) -> bool:
    """Whether a value needs no closer look, as most settings do not: text of ASCII letters, none, a truth, a moderate number."""
    kind = type(value)
    if kind is str:
        return value.isascii()
    return value is None or kind is bool or ((kind is float or kind is int) and -1e15 < value < 1e15)


def _settings(value: Any, depth: int = 0) -> Any:
    """Settings of any kind: plain JSON, not nested too deeply, whose numbers are finite."""
    if depth == 0:
        _object(value)
    if depth > DEPTH:
        raise _Wrong("is nested too deeply")
    if isinstance(value, dict):
        return {
            (key if key.isascii() else _str(key)): inner if _is_plain(inner) else _settings(inner, depth + 1)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_settings(inner, depth + 1) for inner in value]
    if isinstance(value, str):
        return _str(value)
    if value is None or isinstance(value, bool):
        return value
    return _int(value) if isinstance(value, int) else _float(value)


_SCALARS = {float: _float, int: _int, bool: _bool, str: _str}

COLUMNS: tuple[Column, ...] = tuple(_columns(Summary))
"""Every statistic that is shown, in order."""
