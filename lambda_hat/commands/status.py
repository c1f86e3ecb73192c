"""bin/status.py: what a root holds, why a directory has its name, how two differ, logs; stopping work, removing leftovers."""

import shlex
from typing import Any

from lambda_hat.commands import console
from lambda_hat.inspect import explanation, formats, maintenance, overview
from lambda_hat.inspect.groups import by_target, varying
from lambda_hat.inspect.records import Record
from lambda_hat.system.errors import StoreError, UserError
from lambda_hat.system.terminal import printable

DOC = """What is there: every run's status, λ̂ ± its error, and its warnings.

    %(prog)s                                    # everything under runs/
    %(prog)s /data/runs sampler=hmc status=bad,failed data.n_data=500
    %(prog)s -m sampler=hmc,sgld seed=1,2,3     # this sweep, and what of it is missing
    %(prog)s --watch                            # one screen, renewed every 2 s until Ctrl-C
    %(prog)s --diff run_hmc_3c7d73da run_hmc_f047d87a
"""


def main():
    """Entry point of bin/status.py and of lambda-hat-status."""
    parser = console.parser(DOC)
    console.add_words(parser)
    console.add_sweep(parser)
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--explain", metavar="DIR", help="show which settings this directory's name is the hash of")
    ways.add_argument("--diff", nargs=2, metavar=("A", "B"), help="show in which settings two directories differ")
    ways.add_argument("--log", metavar="DIR", help="print the log of the job that made it or failed")
    ways.add_argument("--cancel", action="store_true", help="stop what is running or queued (only shown without --yes)")
    ways.add_argument("--prune", action="store_true", help="remove leftovers (only shown without --yes)")
    ways.add_argument(
        "--watch",
        nargs="?",
        const="2",
        metavar="SECONDS",
        help="one screen that is renewed every 2 seconds, or as many as given, until Ctrl-C",
    )
    parser.add_argument("--yes", action="store_true", help="with --cancel and --prune: do it")
    console.run(_act, parser)


def _act(arguments):
    root, filters = console.split(arguments)
    if arguments.explain is not None:
        return _explain(explanation.find(root, arguments.explain), arguments.json)
    if arguments.diff is not None:
        first, second = (explanation.find(root, name) for name in arguments.diff)
        return _diff(first, second, arguments.json)
    if arguments.log is not None:
        return _log(explanation.find_log(root, arguments.log))
    if arguments.watch is not None:
        return _watch(arguments)
    root, records = console.gather(arguments)
    if arguments.cancel:
        return _cancel(records, arguments.yes)
    if arguments.prune:
        return _prune(root, records, arguments.yes, everything=not filters and not arguments.sweep)
    if arguments.json:
        console.write_json([as_json(record) for record in records])
    else:
        console.write(*_blocks(records, root))


def _watch(arguments):
    from lambda_hat.commands import watch  # rich, which nothing else here needs

    if arguments.json:
        raise UserError("--watch draws on a terminal, and --json is for programs: give one of them.")
    every = watch.seconds(arguments.watch)
    root, look = console.looking(arguments, watch.Asked())
    return watch.watch(root, look, every)


# --- the table --------------------------------------------------------------------------------------------------------


def _blocks(records, root):
    """How many there are, what they share, and a table for each target."""
    if not records:
        return [f"{root}: nothing there matches."]
    differing = varying(records)
    lines = [f"{root}: {overview.counted(records)}", *overview.wrapped(overview.shared(records, differing))]
    for target, members in by_target(records).items():
        keys = [key for key in varying(members) if key != "sampler.name"]
        about = overview.describe_target(members, [key for key in differing if key not in keys])
        lines += ["", f"{target}  {about}".rstrip(), _table(members, keys)]
    return lines


COLUMNS = ("λ̂ ± MCSE", "95 %", "ESS", "R-hat", "gradients", "time", "run", "warnings")


def _table(records, keys):
    lines = [_line(record, keys) for record in records]
    return console.Table(["status", "sampler", *keys, *COLUMNS], lines, ("status", "sampler", *keys, *COLUMNS[-2:]))


def _line(record, keys):
    summary = record.summary
    mean, error, ess, rhat = record.current
    walltime = (
        summary.walltime_sec if summary else record.meta.walltime_sec if record.meta and not record.run_id else None
    )
    return [
        record.word,
        record.sampler or "(target)",
        *(formats.setting(record.settings.get(key)) if record.settings else "?" for key in keys),
        formats.estimate(mean, error),
        formats.interval(*summary.llc_interval95) if summary else formats.DASH,
        formats.number(ess, ".0f"),
        formats.number(rhat, ".4f"),
        formats.number(summary.total_fges if summary else None, ".0f"),
        formats.duration(walltime),
        record.run_id or record.target_id,
        "; ".join(record.notes),
    ]


OF_RESULT = (
    *("llc_mean", "llc_interval95", "llc_mcse", "llc_std", "llc_raw", "ess", "rhat"),
    *("total_fges", "walltime_sec", "created_at"),
)
OF_WORK = ("phase", "draw", "draws", "llc", "mcse", "ess", "rhat", "host", "pid", "slurm_job", "log", "command")
"""What `--json` has of a result, and of work in progress."""


def as_json(record: Record) -> dict[str, Any]:
    """A record as `--json` prints it."""
    summary, attempt = record.summary, record.attempt
    result = {key: getattr(summary, key) for key in OF_RESULT} | {"truth": _truth(summary)} if summary else {}
    under_way = {key: value for key in OF_WORK if attempt and (value := getattr(attempt, key)) is not None}
    return {
        "status": record.state,
        "verdict": record.verdict,
        "target_id": record.target_id,
        "run_id": record.run_id,
        "directory": record.directory,
        "notes": record.notes,
        **result,
        "work": under_way or None,
        "settings": record.settings,
    }


def _truth(summary):
    truth = summary.truth
    return {"lambda": truth.learning_coefficient, "finite": truth.finite} if truth else None


# --- one directory, two directories, a log ----------------------------------------------------------------------------


def _explain(directory, as_json):
    explained = explanation.explain(directory)
    if as_json:
        hashed, null, not_hashed, _ = explained
        console.write_json({"directory": directory, "hashed": hashed, "null": null, "not_hashed": not_hashed})
        return
    lines = [str(directory), explained.recipe, "", *_pairs(explained.hashed)]
    if explained.null:
        lines += ["", f"null, so left out: {', '.join(explained.null)}"]
    if directory.name.startswith("run_"):
        lines += ["", f"the target is in the path: {directory.parent.name}; see --explain {directory.parent}"]
    console.write("\n".join([*lines, "", "recorded, not hashed:", "", *_pairs(explained.not_hashed)]))


def _pairs(values):
    return [f"  {key:32} {explanation.value_text(value)}" for key, value in values.items()]


def _diff(a, b, as_json):
    parts = explanation.differences(a, b)
    if as_json:
        console.write_json({title: {key: [x, y] for key, x, y in lines} for title, lines in parts.items()})
        return
    blocks = [f"A  {a}", f"B  {b}"]
    for title, lines in parts.items():
        if lines:
            cells = [[key, explanation.value_text(x), explanation.value_text(y)] for key, x, y in lines]
            blocks += ["", console.Table([title, "A", "B"], cells, (title, "A", "B"))]
        else:
            blocks += ["", f"{title}: no difference"]
    console.write(*blocks)


def _log(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            print(printable(f"{path}:\n"), end="")
            for line in file:
                print(printable(line), end="")
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}).") from error


# --- stopping, removing leftovers -------------------------------------------------------------------------------------


def _cancel(records, yes):
    plan = maintenance.cancellation(records)
    if not plan:
        console.write("nothing that matches is running or queued")
        return 0
    if yes:
        plan.act()
    verb = "stopped" if yes else "would stop"
    lines = list(plan.beyond)
    lines += [f"{verb} SLURM job {job}: {', '.join(names)}" for job, names in plan.jobs.items()]
    for pid, (attempt, names) in plan.processes.items():
        lines.append(
            f"{verb} process {pid} ({shlex.join(attempt.command or ())}), making {', '.join(names)} and the rest of its sweep"
        )
    console.write(*lines, *([] if yes else ["nothing was stopped; add --yes"]))
    return int(yes and bool(plan.beyond))


def _prune(root, records, yes, everything):
    sizes = maintenance.leftovers(root, records, everything)
    if not sizes:
        console.write("nothing to remove")
        return
    console.write(
        console.Table(["size", "path"], [[formats.size(size), str(path)] for path, size in sizes.items()], ("path",))
    )
    if not yes:
        console.write(
            f"would remove {len(sizes)} of these, {formats.size(sum(sizes.values()))}; nothing was removed; add --yes"
        )
        return
    gone, busy = maintenance.prune(root, sizes)
    lines = [f"{path} stays: it is in progress again" for path in busy]
    console.write(*lines, f"removed {len(gone)} of these, {formats.size(sum(sizes[path] for path in gone))}")
