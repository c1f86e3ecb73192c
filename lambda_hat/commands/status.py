"""bin/status.py: what is there, why it has its name, how two differ, what it said; stopping it, and sweeping up."""

from collections import Counter

from lambda_hat.inspect import choose, explain, stop, tell
from lambda_hat.inspect import rows as looking
from lambda_hat.inspect.row import STATES, duration, show
from lambda_hat.inspect.tell import interval

DOC = """What is there: every run's status, λ̂ ± its error, and its warnings.

    %(prog)s                                    # everything under runs/
    %(prog)s /data/runs sampler=hmc status=bad,failed data.n_data=500
    %(prog)s -m sampler=hmc,sgld seed=1,2,3     # this sweep, and what of it is missing
    %(prog)s --diff run_hmc_3c7d73da run_hmc_f047d87a
"""

SHARED_WIDTH = 118


def main():
    """Entry point of bin/status.py and of lambda-hat-status."""
    parser = tell.parser(DOC)
    tell.add_words(parser)
    add_sweep(parser)
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--explain", metavar="DIR", help="what is hashed into this directory's name, and what is not")
    ways.add_argument("--diff", nargs=2, metavar=("A", "B"), help="why two directories differ")
    ways.add_argument("--log", metavar="DIR", help="what the command said that made it, or failed to")
    ways.add_argument(
        "--cancel", action="store_true", help="stop what is running or queued (shows it; does so with --yes)"
    )
    ways.add_argument("--prune", action="store_true", help="remove leftovers (shows them; does so with --yes)")
    parser.add_argument("--yes", action="store_true", help="with --cancel and --prune: do it")
    tell.run(_act, parser)


def _act(arguments):
    root, filters = tell.split(arguments.words)
    if arguments.explain:
        return explain.explain(explain.find(root, arguments.explain), arguments.json)
    if arguments.diff:
        return explain.diff(*(explain.find(root, name) for name in arguments.diff), arguments.json)
    if arguments.log:
        return explain.log(root, arguments.log)
    root, rows = gather(arguments.words, arguments.sweep)
    if arguments.cancel:
        return stop.cancel(rows, arguments.yes)
    if arguments.prune:
        return stop.prune(root, rows, arguments.yes, everything=not filters and not arguments.sweep)
    if arguments.json:
        tell.write_json([as_json(row) for row in rows])
    else:
        tell.write(*blocks(rows, root))
    return 0


def gather(words, overrides=None):
    """The root and the rows that a command line asks for.

    Arguments:
        words: root and filters.
        overrides: of a sweep, whose combinations are then the rows, begun or not.
    """
    root, filters = tell.split(words)
    if overrides:
        from lambda_hat.commands import sweep

        root, rows = sweep.rows(overrides, tell.split(words, None)[0])
        known = {row.name: row for row in looking.scan(root)} if root.is_dir() else {}
        rows = [known.get(row.name, row) for row in rows]
    else:
        rows = looking.scan(root)
    return root, choose.select(rows, filters)


def add_sweep(parser):
    """Take a sweep's overrides."""
    parser.add_argument(
        "-m",
        "--sweep",
        nargs="+",
        metavar="override",
        help="a sweep's overrides, as for sampling: shows each combination, whether or not it has been begun",
    )


# --- the table --------------------------------------------------------------------------------------------------------


def blocks(rows, root):
    """What is shown of rows: how many, what they share, and a table for each target."""
    if not rows:
        return [f"{root}: nothing there fits."]
    differing = choose.varying(rows)
    said = [f"{root}: {counted(rows)}", *shared(rows, differing)]
    for target, mine in by_target(rows).items():
        own = [key for key in choose.varying(mine) if key != "sampler.name"]
        said += [
            "",
            f"{target}  {describe_target(mine, [key for key in differing if key not in own])}".rstrip(),
            _table(mine, own),
        ]
    return said


def counted(rows):
    """How many there are of each status."""
    states = Counter(row.state for row in rows)
    verdicts = Counter(row.verdict for row in rows if row.state == "done" and row.verdict)
    detail = ", ".join(f"{verdicts[word]} {word}" for word in ("ok", "warn", "bad") if verdicts[word])
    words = [
        f"{states[state]} {state}" + (f" ({detail})" if state == "done" and detail else "")
        for state in STATES
        if states[state]
    ]
    return ", ".join(words)


def shared(rows, differing):
    """Lines of settings that all rows (of a kind) have alike, a line for each group; `differing` names the others."""
    lines = []
    for group in choose.NEVER_NULL:
        kind = choose.KINDS.get(group)
        alike = {}
        for row in rows:
            if row.settings.get(kind) not in alike and choose.knows(row, group):
                alike[row.settings.get(kind)] = row.settings
        everywhere = [
            key for key in next(iter(alike.values()), {}) if all(key in s and _same(alike, key) for s in alike.values())
        ]
        lines += _wrapped(group, group, everywhere, next(iter(alike.values()), {}), differing)
        for name, settings in alike.items() if len(alike) > 1 else ():
            lines += _wrapped(
                f"{group}={name}", group, [k for k in settings if k not in everywhere], settings, differing
            )
    return lines


def _same(alike, key):
    values = [settings.get(key) for settings in alike.values()]
    return all(value == values[0] for value in values)


def _wrapped(title, group, keys, settings, differing):
    import textwrap

    words = [
        f"{key.partition('.')[2] or key}={show(settings[key])}"
        for key in keys
        if key.partition(".")[0] == group and key not in differing and key != choose.KINDS.get(group)
    ]
    if not words:
        return []
    if "=" not in title and (kind := settings.get(choose.KINDS.get(group))) and choose.KINDS[group] not in differing:
        title = f"{group}={kind}"
    text = textwrap.fill(" ".join(words), SHARED_WIDTH - 18, break_long_words=False, break_on_hyphens=False)
    return [f"{title:17} " + text.replace("\n", "\n" + 18 * " ")]


def by_target(rows):
    """Rows by target id, in their order."""
    found = {}
    for row in rows:
        found.setdefault(row.target_id, []).append(row)
    return found


def describe_target(rows, keys):
    """What tells a target's rows from the others, of the settings `keys`, and the target's dimensions, in words."""
    settings = {key: value for row in rows for key, value in row.settings.items()}
    words = [f"{key}={show(settings[key])}" for key in keys if key in settings and key != "sampler.name"]
    meta = next((row.meta for row in rows if row.meta), None)
    if meta:
        words += [f"p = {meta['dims']['p']}", f"n = {meta['dims']['n']}", f"L0 = {meta['metrics']['L0']:.4g}"]
        if meta["truth"]:
            words.append(f"λ = {meta['truth']['lambda']:g}")
    return "  ".join(words)


COLUMNS = ("λ̂ ± MCSE", "95 %", "ESS", "R-hat", "gradients", "time", "run", "what is to be said")


def _table(rows, keys):
    lines = [_line(row, keys) for row in rows]
    return tell.Table(["status", "sampler", *keys, *COLUMNS], lines, ("status", "sampler", *keys, *COLUMNS[-2:]))


def _line(row, keys):
    found = row.result or (row.work if row.state == "running" else {})
    return [
        row.word,
        row.sampler or "(target)",
        *(show(row.settings.get(key)) if row.settings else "?" for key in keys),
        tell.estimate(found.get("llc_mean", found.get("llc")), found.get("llc_mcse", found.get("mcse"))),
        interval(*row.result["llc_interval95"]) if row.result else "–",
        tell.number(found.get("ess"), ".0f"),
        tell.number(found.get("rhat"), ".4f"),
        tell.number(row.result.get("total_fges"), ".0f"),
        duration((row.result if row.run_id else row.meta).get("walltime_sec")),
        row.run_id or row.target_id,
        "; ".join(note.replace("\n", " ") for note in row.notes),
    ]


OF_RESULT = (
    *("llc_mean", "llc_std", "llc_mcse", "llc_interval95", "ess", "rhat"),
    *("truth", "total_fges", "walltime_sec", "created_at"),
)
OF_WORK = ("phase", "draw", "draws", "llc", "mcse", "ess", "rhat", "host", "pid", "slurm_job", "log", "command")
"""What `--json` tells of a result, and of work under way."""


def as_json(row):
    """A row as `--json` prints it."""
    result = {key: row.result[key] for key in OF_RESULT if row.result}
    under_way = {key: row.work[key] for key in OF_WORK if row.work.get(key) is not None}
    return {
        "status": row.state,
        "verdict": row.verdict,
        "target_id": row.target_id,
        "run_id": row.run_id,
        "directory": row.directory,
        "notes": row.notes,
        **result,
        "work": under_way or None,
        "settings": row.settings,
    }
