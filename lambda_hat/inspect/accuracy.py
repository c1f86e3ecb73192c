"""How accurate a store's results are, where the right answer is known.

Nothing in a sampler's way reads a truth: it is looked up for the record after the draws are made, and judged here.
"""

import itertools
import math
import os
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from lambda_hat.inspect.filters import Filter, select
from lambda_hat.inspect.formats import setting
from lambda_hat.inspect.groups import estimands
from lambda_hat.inspect.records import Record, Settings
from lambda_hat.inspect.scan import scan
from lambda_hat.system.errors import StoreError
from lambda_hat.system.terminal import program

GROSS = 0.05
"""An error above this share that lies outside three times the interval is called wrong."""


class Comparison(NamedTuple):
    """One finished run beside the λ that is known of its target.

    Attributes:
        target: the target in words.
        target_id: its id.
        sampler: algorithm, with its preconditioner.
        seed: of the sampler.
        nbeta, gamma: nβ and γ.
        estimand: all that chooses what λ̂ estimates: comparisons that differ in it are never averaged.
        llc, low, high: λ̂ and its 95 % interval.
        truth: λ.
        finite: λ̂ of the exact posterior at this (n, β, γ): by formula, else of the HMC run beside it, else None.
        exact: whether it is by formula.
        ess, gradients: effective draws, and full-data gradients spent.
        status: ok, warn or bad.
        directory: of the run.
    """

    target: str
    target_id: str
    sampler: str
    seed: int
    nbeta: float
    gamma: float
    estimand: tuple
    llc: float
    low: float
    high: float
    truth: float
    finite: float | None
    exact: bool
    ess: float
    gradients: float
    status: str
    directory: Path

    @property
    def finite_error(self):
        """λ̂ over the exact posterior's, less 1; None where that is not known."""
        return None if self.finite is None else self.llc / self.finite - 1

    @property
    def error(self):
        """λ̂ over λ, less 1."""
        return self.llc / self.truth - 1

    @property
    def covered(self):
        """Whether the interval holds the exact posterior's λ̂; None where there is no formula for that."""
        return self.low <= self.finite <= self.high if self.exact and self.finite is not None else None

    @property
    def wrong(self):
        """Whether λ̂ is grossly off by a margin that its own interval excludes."""
        if self.finite is None or self.finite_error is None:
            return False
        half = (self.high - self.low) / 2
        return not abs(self.finite_error) <= GROSS and not abs(self.llc - self.finite) <= 3 * half


def load(root: str | os.PathLike, filters: Iterable[Filter] = ()) -> list[Comparison]:
    """The `Comparison` of every finished run under a root whose target has a known λ, sorted.

    Raises:
        StoreError: where there is none.
    """
    return compare(select(scan(root), filters), root)


def compare(records: Iterable[Record], root: str | os.PathLike) -> list[Comparison]:
    """The `Comparison` of each finished run whose target has a known λ, sorted.

    Arguments:
        root: where they are from.

    Raises:
        StoreError: where there is none.
    """
    known = [
        record
        for record in records
        if record.state == "done"
        and record.summary
        and record.summary.truth
        and record.summary.truth.learning_coefficient > 0
    ]
    if not known:
        raise StoreError(
            f"{root}: no finished run of a target whose λ is known; make some with {program('sample')} -m "
            "experiment=truth_smoke."
        )
    what = estimands(known)
    rows = [_comparison(record, (what[record.name].posterior, what[record.name].estimator)) for record in known]
    return sorted(
        _with_references(rows), key=lambda row: (row.truth, row.target, row.nbeta, row.gamma, row.sampler, row.seed)
    )


def _comparison(record, estimand):
    summary, precond = record.summary, record.settings.get("sampler.precond", "none")
    low, high = (math.nan if bound is None else bound for bound in summary.llc_interval95)
    seed = record.settings.get("sampler.seed")
    return Comparison(
        target=describe(record.settings),
        target_id=record.target_id,
        sampler=record.sampler + ("" if precond == "none" else f" {setting(precond)}"),
        seed=seed if isinstance(seed, int) else 0,
        nbeta=summary.estimand.nbeta,
        gamma=summary.estimand.gamma,
        estimand=estimand,
        llc=math.nan if summary.llc_mean is None else summary.llc_mean,
        low=low,
        high=high,
        truth=summary.truth.learning_coefficient,
        finite=summary.truth.finite or None,
        exact=bool(summary.truth.finite),
        ess=summary.ess or 0.0,
        gradients=max(summary.total_fges, 1.0),
        status=summary.status,
        directory=record.directory,
    )


def _with_references(rows):
    """Where there is no formula HMC's result stands in for it, for the other samplers."""
    hmc = {(r.target_id, r.estimand): r.llc for r in rows if r.sampler == "hmc" and r.status != "bad"}
    return [r if r.exact or r.sampler == "hmc" else r._replace(finite=hmc.get((r.target_id, r.estimand))) for r in rows]


def describe(settings: Settings) -> str:
    """A target with a known λ in a few words, from its settings."""
    kind = setting(settings.get("model.kind"))
    of = lambda group: {key.partition(".")[2]: value for key, value in settings.items() if key.startswith(f"{group}.")}
    model, data = of("model"), of("data")
    if kind not in ("mlp", "deep_linear"):
        size = [model[key] for key in ("dim", "powers") if key in model]
        others = [value for key, value in model.items() if key != "kind"]
        return " ".join([kind.split("_")[-1], *(setting(value).strip("[]") for value in size or others)])
    widths = model.get("widths")
    hidden = widths if isinstance(widths, (list, tuple)) else [widths]
    sizes = "-".join(map(setting, (model.get("in_dim"), *hidden, model.get("out_dim"))))
    parts = [f"{'tanh' if kind == 'mlp' else 'linear'} {sizes}", f"rank {setting(data.get('teacher_rank'))}"]
    parts += ["random"] if not data.get("teacher_balanced") else []
    parts += ["noisy"] if data.get("noise_model") != "none" else []
    return " ".join(parts)


# --- tables -----------------------------------------------------------------------------------------------------------


def table(rows):
    """A line for each result; where there are several sampler seeds, for all seeds together."""
    key = lambda r: (r.truth, r.target, r.target_id, r.nbeta, r.gamma, r.sampler, repr(r.estimand))
    groups = [list(group) for _, group in itertools.groupby(sorted(rows, key=key), key)]
    several = max(map(len, groups)) > 1
    last = "seeds  held by 95 %  flagged" if several else f"{'95 %':>21}  status"
    lines = [
        f"{'target':32} {'nβ':>8} {'γ':>6} {'sampler':12} {'λ':>8} {'exact':>9} {'λ̂':>9} {'error':>8} {'from λ':>8}  {last}"
    ]
    for group in groups:
        r = group[0]
        llc = float(np.mean([each.llc for each in group]))
        exact = "–" if r.finite is None else f"{r.finite:.4f}{' ' if r.exact else '*'}"
        off = "–" if r.finite is None else f"{100 * (llc / r.finite - 1):+.2f} %"
        if several:
            held = _percent(np.mean([each.covered for each in group]), 1) if r.exact else "–"
            last = f"{len(group):5d} {held:>13} {_percent(np.mean([each.status != 'ok' for each in group]), 1):>8}"
        else:
            last = f"{f'[{r.low:.4f}, {r.high:.4f}]':>21}  {r.status}"
        lines.append(
            f"{r.target:32} {r.nbeta:8.0f} {r.gamma:6g} {r.sampler:12} {r.truth:8.4f} {exact:>9} {llc:9.4f} {off:>8} "
            f"{100 * (llc / r.truth - 1):+6.1f} %  {last}"
        )
    return "\n".join(
        [*lines, "exact: λ̂ of the exact posterior at this (n, β, γ); with a *: HMC's, where there is no formula"]
    )


def summary(rows):
    """A line for each sampler."""
    lines = [
        f"{'sampler':12} {'runs':>5} {'error, median':>15} {'worst':>8} {'from λ':>8} {'coverage':>15} {'order':>7} "
        f"{'flagged':>8} {'wrong, unflagged':>17} {'ESS/1000 gradients':>19}"
    ]
    for sampler in sorted({r.sampler for r in rows}):
        mine = [r for r in rows if r.sampler == sampler]
        errors = [abs(r.finite_error) for r in mine if r.finite is not None]
        covered = [r.covered for r in mine if r.covered is not None]
        right, pairs = order(mine)
        lines.append(
            f"{sampler:12} {len(mine):5d} {_percent(median(errors), 2) if errors else '–':>15} "
            f"{_percent(max(errors), 1) if errors else '–':>8} {_percent(median(abs(r.error) for r in mine), 1):>8} "
            f"{f'{_percent(sum(covered) / len(covered), 1)} of {len(covered)}' if covered else '–':>15} "
            f"{_percent(right / pairs, 1) if pairs else '–':>7} {_percent(sum(r.status != 'ok' for r in mine) / len(mine), 1):>8} "
            f"{sum(r.wrong and r.status == 'ok' for r in mine):17d} {median(1000 * r.ess / r.gradients for r in mine):19.1f}"
        )
    return "\n".join(lines)


def _percent(share, digits):
    return f"{100 * share:.{digits}f} %"


def order(rows):
    """Pairs of targets at the same (nβ, γ) and sampler seed that λ̂ ranks as λ does, and pairs in all; equal λ do not count."""
    right = total = 0
    key = lambda r: (r.sampler, r.nbeta, r.gamma, r.seed)
    for _, group in itertools.groupby(sorted(rows, key=key), key):
        for a, b in itertools.combinations(group, 2):
            if a.truth != b.truth:
                total += 1
                right += (a.llc < b.llc) == (a.truth < b.truth)
    return right, total


# --- figures ----------------------------------------------------------------------------------------------------------


def draw(rows, directory):
    """Write `llc_against_truth.png` and `error_by_sampler.png` into a directory."""
    from lambda_hat.analysis import figures

    directory.mkdir(parents=True, exist_ok=True)
    figures.save(directory / "llc_against_truth.png", _against_truth, rows)
    figures.save(directory / "error_by_sampler.png", _by_sampler, rows)


def _styles(rows):
    import matplotlib.pyplot as plt

    colours, samplers = plt.color_sequences["tab10"], sorted({r.sampler for r in rows})
    return {
        sampler: (colours[i], "osD^v"[i % 5], 0.94 + 0.12 * i / max(1, len(samplers) - 1))
        for i, sampler in enumerate(samplers)
    }


def _against_truth(rows):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
    truths = [r.truth for r in rows]
    ends = 0.7 * min(truths), 1.4 * max(truths)
    axes.plot(ends, ends, color="black", lw=1, label="λ̂ = λ")
    for sampler, (colour, marker, shift) in _styles(rows).items():
        mine = [r for r in rows if r.sampler == sampler and r.llc > 0]
        x, y = (np.array([getattr(r, name) for r in mine]) for name in ("truth", "llc"))
        low, high = (np.array([getattr(r, name) for r in mine]) for name in ("low", "high"))
        spread = [np.maximum(y - np.maximum(low, 1e-3 * y), 0), np.maximum(high - y, 0)]
        axes.errorbar(x * shift, y, spread, fmt=marker, ms=4, lw=1, color=colour, label=sampler, alpha=0.8)
    axes.set(xscale="log", yscale="log", xlabel="λ, known", ylabel="λ̂, with its 95 % interval")
    axes.set_title(
        "Estimated against known learning coefficients\n(samplers set apart sideways; λ̂ at finite nβ lies below λ)",
        fontsize=11,
    )
    axes.legend(frameon=False)
    return figure


def _by_sampler(rows):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    titles = (
        "from the exact posterior's λ̂ at (n, β, γ):\nthe sampler's fault",
        "from λ:\nthe estimator's, at finite nβ",
    )
    for axis, name, title in zip(axes, ("finite_error", "error"), titles, strict=True):
        for i, (sampler, (colour, _, _)) in enumerate(_styles(rows).items()):
            values = [100 * getattr(r, name) for r in rows if r.sampler == sampler and getattr(r, name) is not None]
            x = i + np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.array([i] * len(values), float)
            axis.plot(x, values, "o", ms=4, alpha=0.6, color=colour)
            if values:
                axis.hlines(median(values), i - 0.35, i + 0.35, color=colour, lw=2)
        axis.axhline(0, color="black", lw=1)
        axis.set_xticks(range(len(_styles(rows))), _styles(rows))
        axis.set_title(f"Error {title}", fontsize=10)
        axis.set_ylabel("error of λ̂, per cent (bar: median)")
    return figure
