"""bin/results.py: the tidy table, in a file or on the terminal, and statistics by group."""

import sys

from lambda_hat.commands import console
from lambda_hat.inspect import formats, table
from lambda_hat.inspect.filters import select
from lambda_hat.inspect.groups import Statistics, grouped
from lambda_hat.inspect.scan import scan
from lambda_hat.system.errors import UserError

DOC = """All runs as one tidy table, a line for each, and statistics by group.

    %(prog)s                                     # what varies, λ̂ and its error, status
    %(prog)s groupby=sampler,n_data              # a line for each group
    %(prog)s sampler=hmc status=ok -o hmc.csv    # all columns, to a file: .csv .parquet .json
    python -c 'import lambda_hat; print(lambda_hat.load_results("runs"))'    # a pandas DataFrame

Runs with different estimands (n, β, γ, loss, σ, target settings or version of the estimator) are never averaged:
a group of such runs is split.
"""

SHOWN = ("target_id", "model", "n_data", "target_params", "seed", "sampler", "sampler_seed")
"""Columns that the terminal shows, where they vary, before the result's."""


def main():
    """Entry point of bin/results.py and of lambda-hat-results."""
    parser = console.parser(DOC)
    console.add_words(parser, "; groupby=sampler,n_data makes a line for each group")
    parser.add_argument("--csv", action="store_true", help="print CSV, with all columns")
    parser.add_argument("-o", "--output", metavar="FILE", help="write all columns to FILE.csv, .parquet or .json")
    console.run(_act, parser)


def _act(arguments):
    root, filters = console.split(arguments)
    keys = [key for name, values in filters if name == "groupby" for key in values]
    if any(name == "groupby" for name, _ in filters) and not all(key.strip() for key in keys):
        raise UserError("groupby= names no column; give some, such as groupby=sampler,n_data.")
    write = table.writer(arguments.output) if arguments.output is not None else None
    filters = [(name, values) for name, values in filters if name != "groupby"]
    runs = [record for record in select(scan(root), filters) if record.run_id]
    if keys:
        names, groups = grouped(runs, keys, table.COLUMNS)
        header = [*names, *Statistics._fields]
        lines = [[*group.values, *group.statistics] for group in groups]
    else:
        header, lines = table.tidy(runs)
    if write and (output := arguments.output):
        table.replace_file(output, lambda path: write(path, header, lines))
        console.write(f"{len(lines)} lines, {len(header)} columns: {arguments.output}")
    elif arguments.json:
        console.write_json([dict(zip(header, line, strict=True)) for line in lines])
    elif arguments.csv:
        table.write_csv(header, lines, sys.stdout)
    elif not runs:
        console.write(f"{root}: no run there matches.")
    else:
        console.write(_grouped_table(names, groups) if keys else _table(header, lines, runs))


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
