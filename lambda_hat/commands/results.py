"""bin/results.py: the tidy table, in a file or on the terminal, statistics by group, comparisons, and λ over temperatures."""

import math
import sys

from lambda_hat.commands import console
from lambda_hat.inspect import comparison, formats, table
from lambda_hat.inspect.filters import select
from lambda_hat.inspect.groups import Statistics, grouped
from lambda_hat.inspect.scan import scan
from lambda_hat.system.errors import UserError

DOC = """All runs as one tidy table, a line for each, and statistics by group.

    %(prog)s                                     # what varies, λ̂ and its error, status
    %(prog)s groupby=sampler,n_data              # a line for each group
    %(prog)s compare=model.widths sampler=hmc    # differences of λ̂ between widths; seeds needed to resolve them
    %(prog)s compare=seed resolution=0.5         # … to resolve 0.5 in λ̂
    %(prog)s a='model.widths=[4]' b='model.widths=[8] status=ok'    # one side against the other
    %(prog)s --temperature                       # λ from runs of a target at several β
    %(prog)s sampler=hmc status=ok -o hmc.csv    # all columns, to a file: .csv .parquet .json
    python -c 'import lambda_hat; print(lambda_hat.load_results("runs"))'    # a pandas DataFrame

Runs with different estimands (n, β, γ, loss, σ, target settings or version of the estimator) are never averaged:
a group of such runs is split. compare= takes λ̂ of A less λ̂ of B where all else that λ̂ depends on is alike; runs that are bad do
not count. --temperature fits E[n L] = const + λ/β by least squares: right where λ̂ does not depend on β. Where it does (multiplicity
m > 1, a γ that is felt, a network that resolves more at larger nβ) that λ is too small, or means little; χ² finds this only where
the runs' errors are small beside it. "λ if m = 2" fits λ̂ = λ − 1/(log nβ + c) instead, which holds at a singular minimum of
multiplicity 2 and nowhere else: at multiplicity 1 it is too large. A dash says that it does not fit. On ten targets of known λ
the regression was no nearer than a run at the largest β, but where w0 had fitted noise; "m = 2" held λ where that is m. Files and
--csv have a line for each run of the curve, with the fit beside it; --json has the curve within each fit.
"""

SHOWN = ("target_id", "model", "n_data", "target_params", "seed", "sampler", "sampler_seed")
"""Columns that the terminal shows, where they vary, before the result's."""


def main():
    """Entry point of bin/results.py and of lambda-hat-results."""
    parser = console.parser(DOC)
    console.add_words(
        parser, "; groupby=sampler,n_data makes a line for each group, compare=n_data one for each difference"
    )
    parser.add_argument("--temperature", action="store_true", help="λ from runs that differ in β alone")
    parser.add_argument("--csv", action="store_true", help="print CSV, with all columns")
    parser.add_argument("-o", "--output", metavar="FILE", help="write all columns to FILE.csv, .parquet or .json")
    console.run(_act, parser)


OPTIONS = ("groupby", "compare", "a", "b", "resolution")
"""Words that are no filters."""


def _act(arguments):
    root, words = console.split(arguments)
    given, filters = console.options(words, OPTIONS)
    _check(given, arguments.temperature)
    write = table.writer(arguments.output) if arguments.output is not None else None
    resolution = _resolution(given["resolution"]) if "resolution" in given else None
    runs = [record for record in select(scan(root), filters) if record.run_id]
    below, nested = "", None
    if not runs:
        header, lines, shown = [], [], f"{root}: no run there matches."
    elif "groupby" in given:
        names, groups = grouped(runs, given["groupby"], table.COLUMNS)
        header = [*names, *Statistics._fields]
        lines = [[*group.values, *group.statistics] for group in groups]
        shown = _grouped_table(names, groups)
    elif "compare" in given or "a" in given:
        if "compare" in given:
            found = comparison.compare(runs, given["compare"][0], table.COLUMNS, resolution)
        else:
            sides = [console.filters(",".join(given[side]).split()) for side in ("a", "b")]
            found = comparison.compare_sides(runs, sides[0], sides[1], table.COLUMNS, resolution)
        header, lines = list(found[0].row()), [list(each.row().values()) for each in found]
        shown, below = _compared_table(found), _footnote(found)
    elif arguments.temperature:
        from lambda_hat.inspect import temperature

        found = temperature.fits(runs, table.COLUMNS)
        header, lines = list(found[0].rows()[0]), [list(row.values()) for each in found for row in each.rows()]
        nested = [each.row() | {"curve": [point._asdict() for point in each.curve]} for each in found]
        shown, below = _temperature_table(found), _curves_table(found)
    else:
        header, lines = table.tidy(runs)
        shown = _table(header, lines, runs)
    if write and (output := arguments.output):
        table.replace_file(output, lambda path: write(path, header, lines))
        console.write(f"{len(lines)} lines, {len(header)} columns: {arguments.output}")
    elif arguments.json:
        console.write_json(nested or [dict(zip(header, line, strict=True)) for line in lines])
    elif arguments.csv:
        table.write_csv(header, lines, sys.stdout)
    else:
        console.write(shown, *(("", below) if below else ()))


def _check(given, by_temperature):
    """Refuse words that do not go together, or say nothing."""
    if len(given.get("compare", ["given"])) > 1:
        raise UserError("compare= takes one setting, such as compare=model.widths; filters narrow the rest.")
    if ("a" in given) != ("b" in given):
        raise UserError("a= and b= go together: a='model.widths=[4]' b='model.widths=[8]'.")
    views = [f"{name}=" for name in ("groupby", "compare", "a") if name in given] + ["--temperature"] * by_temperature
    if len(views) > 1:
        raise UserError(f"{' and '.join(views)} are different tables: ask for one at a time.")
    if "resolution" in given and not {"compare", "a"} & set(given):
        raise UserError("resolution= says which difference compare= is to resolve; give compare= too.")


def _resolution(values):
    try:
        value = float(",".join(values))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"resolution={','.join(values)} must be a difference of λ̂, a positive number such as 0.5.")
    return value


def _table(header, lines, runs):
    """The table for a terminal: which run, its result and status, and other settings that vary."""
    columns = {name: [line[i] for line in lines] for i, name in enumerate(header)}
    varies = lambda name: len({formats.setting(value) for value in columns[name]}) > 1
    keys = [name for name in SHOWN if name in ("target_id", "sampler") or varies(name)]
    others = [name for name in header[len(table.COLUMNS) :] if any(value is not None for value in columns[name])]
    shown = ["λ̂ ± MCSE", "95 %", "raw mean", "λ", "ESS", "R-hat", "gradients", "time", "status"]
    cells = []
    for i in range(len(runs)):
        value = {name: columns[name][i] for name in header}
        cells.append(
            [
                *(formats.cell(value[key]) for key in keys),
                formats.estimate(value["llc_mean"], value["llc_mcse"]),
                formats.interval(value["llc_low95"], value["llc_high95"]),
                formats.number(value["llc_raw"], ".5g"),
                formats.number(value["truth"], "g"),
                formats.number(value["ess"], ".0f"),
                formats.number(value["rhat"], ".4f"),
                formats.number(value["total_fges"], ".0f"),
                formats.duration(value["walltime_sec"]),
                value["status"],
                *(formats.cell(value[key]) for key in others),
            ]
        )
    return console.Table([*keys, *shown, *others], cells, (*keys, "status", *others))


GROUP_TITLES = {
    "targets": ("targets", "d"),
    "runs": ("runs", "d"),
    "done": ("done", "d"),
    "ok": ("ok", "d"),
    "warn": ("warn", "d"),
    "bad": ("bad", "d"),
    "status": ("status", ""),
    "llc_mean": ("mean λ̂", ".5g"),
    "llc_scatter": ("sd between runs", ".3g"),
    "llc_mcse": ("MCSE of a run", ".3g"),
    "ess": ("median ESS", ".0f"),
    "rhat": ("worst R-hat", ".4f"),
    "total_fges": ("gradients", ".0f"),
    "walltime_sec": ("time", None),
}
"""Title and format of each of the groups' statistics."""


def _grouped_table(names, groups):
    cells = []
    for group in groups:
        values = zip(group.statistics, (pattern for _, pattern in GROUP_TITLES.values()), strict=True)
        cells.append(
            [
                *map(formats.cell, group.values),
                *(
                    formats.duration(value) if pattern is None else formats.number(value, pattern)
                    for value, pattern in values
                ),
            ]
        )
    titles = [title for title, _ in GROUP_TITLES.values()]
    return console.Table([*names, *titles], cells, (*names, "status"))


def _compared_table(found):
    """A line for each difference; A and B with how many values their means are over, and how many runs were bad."""
    side = lambda each: f"{formats.number(each.mean, '.5g')} ({each.seeds}{f', {each.bad} bad' if each.bad else ''})"
    told = {name: len({getattr(each, name) for each in found}) > 1 for name in ("method", "note")}
    cells = [
        [
            *map(_cell, each.matched.values()),
            *(formats.cell(each.a.value), formats.cell(each.b.value), side(each.a), side(each.b)),
            formats.DASH if each.difference is None else formats.estimate(each.difference, each.error),
            formats.interval(each.low, each.high),
            _probability(each.probability),
            formats.number(each.seeds_needed, "d"),
            *(getattr(each, name) for name, shown in told.items() if shown),
        ]
        for each in found
    ]
    titles = ["A", "B", "λ̂ of A", "λ̂ of B", "A − B", "95 %", "P(A > B)", "seeds needed"]
    titles += [name for name, shown in told.items() if shown]
    return console.Table([*found[0].matched, *titles], cells, (*found[0].matched, "A", "B", "method", "note"))


def _cell(value):
    return formats.cell(float(f"{value:.4g}") if isinstance(value, float) else value)


def _probability(value):
    if value is None:
        return formats.DASH
    return "< 0.001" if value < 0.001 else "> 0.999" if value > 0.999 else f"{value:.3f}"


def _footnote(found):
    wanted = {each.resolution for each in found if each.resolution is not None}
    what = "the observed difference" if len(wanted) != 1 else f"a difference of {formats.short(wanted.pop())}"
    lines = [f"in brackets: seeds; seeds needed: in each group, to find {what} at 95 % with power 0.8"]
    for name in ("method", "note"):  # that all lines share
        if len({getattr(each, name) for each in found}) == 1 and getattr(found[0], name):
            lines.append(f"{name}: {getattr(found[0], name)}")
    if len(found) > 1:
        lines.append(f"{len(found)} differences: each interval holds for itself, not for all at once")
    return "\n".join(lines)


def _temperature_table(found):
    """A line for each target, sampler and γ."""
    cells = [
        [
            *map(formats.cell, each.matched.values()),
            f"{each.temperatures}{f' ({each.bad} bad)' if each.bad else ''}",
            _within(each.llc, each.low, each.high),
            each.verdict,
            formats.number(each.chi2_reduced, ".2g"),
            _within(each.extrapolated, each.extrapolated_low, each.extrapolated_high),
            formats.estimate(each.wbic, each.wbic_error),
            formats.number(each.truth, ".5g"),
        ]
        for each in found
    ]
    titles = ["βs", "λ 95 %", "fit", "χ²/dof", "λ if m = 2", "λ̂ at 1/log n", "known"]
    return console.Table([*found[0].matched, *titles], cells, (*found[0].matched, "fit"))


def _within(value, low, high):
    return formats.DASH if value is None else f"{value:.4g} {formats.interval(low, high)}"


def _curves_table(found):
    """λ̂ at each temperature of each fit, with its slope."""
    cells = [
        [
            *map(formats.cell, each.matched.values()),
            f"{point.nbeta:.6g}",
            formats.estimate(point.llc, point.mcse),
            formats.DASH if point.slope is None else formats.estimate(point.slope, point.slope_mcse),
        ]
        for each in found
        for point in each.curve
    ]
    return console.Table([*found[0].matched, "nβ", "λ̂", "dλ̂/d ln β"], cells, tuple(found[0].matched))
