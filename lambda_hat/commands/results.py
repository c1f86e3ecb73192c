"""bin/results.py: the tidy table, in a file or on the terminal, and summaries by group."""

import math
import statistics

from lambda_hat.inspect import choose, files, results, tell
from lambda_hat.inspect import rows as looking
from lambda_hat.inspect.row import duration, show

DOC = """All runs as one tidy table, a line for each, and summaries by group.

    %(prog)s                                     # what varies, λ̂ and its error, status
    %(prog)s groupby=sampler,n_data              # a line for each group
    %(prog)s sampler=hmc status=ok -o hmc.csv    # all columns, to a file: .csv .parquet .json
    python -c 'import lambda_hat; print(lambda_hat.load_results("runs"))'    # a pandas DataFrame
"""

SHOWN = ("target_id", "model", "n_data", "target_params", "seed", "sampler", "sampler_seed")
"""Columns that the terminal shows, where they vary, before the result's."""


def main():
    """Entry point of bin/results.py and of lambda-hat-results."""
    parser = tell.parser(DOC)
    tell.add_words(parser, "; groupby=sampler,n_data makes a line for each group")
    parser.add_argument("--csv", action="store_true", help="print CSV, with all columns")
    parser.add_argument("-o", "--output", metavar="FILE", help="write all columns to FILE.csv, .parquet or .json")
    tell.run(_act, parser)


def _act(arguments):
    words = [word for word in arguments.words if not word.startswith("groupby=")]
    groups = [key for word in arguments.words if word.startswith("groupby=") for key in word[8:].split(",") if key]
    root, filters = tell.split(words)
    write = files.of(_suffix(arguments.output)) if arguments.output else None
    rows = [row for row in choose.select(looking.scan(root), filters) if row.run_id]
    header, lines = grouped(rows, groups) if groups else results.table(rows)
    if write:
        files.replace(arguments.output, lambda path: write(path, header, lines))
        tell.write(f"{len(lines)} lines, {len(header)} columns: {arguments.output}")
    elif arguments.json:
        tell.write_json([dict(zip(header, line, strict=True)) for line in lines])
    elif arguments.csv:
        files.print_csv(header, lines)
    elif not rows:
        tell.write(f"{root}: no run there fits.")
    else:
        tell.write(_grouped_table(header, lines, len(groups)) if groups else _table(header, lines, rows))


def _suffix(path):
    return "." + path.rpartition(".")[2] if "." in path.rpartition("/")[2] else ""


def _table(header, lines, rows):
    """What is read on a terminal: which run, its result and status, and whatever else varies."""
    columns = {name: [line[i] for line in lines] for i, name in enumerate(header)}
    keys = [name for name in SHOWN if name in ("target_id", "sampler") or len({show(v) for v in columns[name]}) > 1]
    others = [name for name in header[len(results.COLUMNS) :] if any(v is not None for v in columns[name])]
    shown = ["λ̂ ± MCSE", "95 %", "λ", "ESS", "R-hat", "gradients", "time", "status"]
    said = []
    for i, row in enumerate(rows):
        value = {name: columns[name][i] for name in header}
        said.append(
            [
                *(_word(value[key]) for key in keys),
                tell.estimate(value["llc_mean"], value["llc_mcse"]),
                tell.interval(value["llc_low95"], value["llc_high95"]),
                tell.number(value["truth"], "g"),
                tell.number(value["ess"], ".0f"),
                tell.number(value["rhat"], ".4f"),
                tell.number(value["total_fges"], ".0f"),
                duration(value["walltime_sec"]),
                row.word,
                *(_word(value[key]) for key in others),
            ]
        )
    return tell.Table([*keys, *shown, *others], said, (*keys, "status", *others))


def _word(value):
    return "–" if value is None else show(value)


# --- by group ---------------------------------------------------------------------------------------------------------

GROUP_COLUMNS = (
    "runs",
    "done",
    "ok",
    "warn",
    "bad",
    "llc_mean",
    "llc_scatter",
    "llc_mcse",
    "ess",
    "rhat",
    "total_fges",
    "walltime_sec",
)


def grouped(rows, keys):
    """A line for each group of runs that have these settings alike.

    The columns after `keys`: how many runs, how many finished, and with which verdict; of those that are not bad the mean of λ̂,
    its standard deviation between runs, the standard error of one run (root mean square), the median ESS, the worst R-hat; and of
    all the sum of gradients and seconds.

    Raises:
        UserError: for a key that no run has.
    """
    known = choose.keys_of(rows)
    names = [(key, _of(key, known)) for key in keys] if rows else []
    groups = {}
    for row in rows:
        groups.setdefault(tuple(read(row) for _, read in names), []).append(row)
    order = sorted(
        groups, key=lambda values: [(v is None, isinstance(v, str), v if v is not None else 0) for v in values]
    )
    return [*keys, *GROUP_COLUMNS], [[*values, *_summary(groups[values])] for values in order]


def _of(key, known):
    """What a key is of a row: a column of the tidy table, or a setting."""
    if key in results.COLUMNS:
        return lambda row: _hashable(results.COLUMNS[key](row))
    name = choose.resolve(key, known)
    return lambda row: _hashable(row.values(name)[0])


def _hashable(value):
    return show(value) if isinstance(value, (list, tuple)) else value


def _summary(rows):
    done = [row for row in rows if row.state == "done"]
    counts = [sum(row.verdict == word for row in done) for word in ("ok", "warn", "bad")]
    used = [row.result for row in done if row.verdict != "bad" and row.result["llc_mean"] is not None]
    means = [one["llc_mean"] for one in used]
    errors = [one["llc_mcse"] for one in used if one["llc_mcse"] is not None]
    ess = [one["ess"] for one in used if one["ess"] is not None]
    rhat = [one["rhat"] for one in used if one["rhat"] is not None]
    return [
        len(rows),
        len(done),
        *counts,
        statistics.fmean(means) if means else None,
        statistics.stdev(means) if len(means) > 1 else None,
        math.sqrt(statistics.fmean(error**2 for error in errors)) if errors else None,
        statistics.median(ess) if ess else None,
        max(rhat, default=None),
        sum(row.result["total_fges"] for row in done),
        sum(row.result["walltime_sec"] for row in done),
    ]


def _grouped_table(header, lines, groups):
    titles = [
        "runs",
        "done",
        "ok",
        "warn",
        "bad",
        "λ̂, mean",
        "between runs",
        "MCSE of one",
        "ESS",
        "R-hat, worst",
        "gradients",
        "time",
    ]
    patterns = ["d", "d", "d", "d", "d", ".5g", ".3g", ".3g", ".0f", ".4f", ".0f", None]
    said = [
        [
            *map(_word, line[:groups]),
            *(
                duration(value) if pattern is None else tell.number(value, pattern)
                for value, pattern in zip(line[groups:], patterns, strict=True)
            ),
        ]
        for line in lines
    ]
    return tell.Table([*header[:groups], *titles], said, tuple(header[:groups]))
