"""bin/status.py: what is there, why it has its name, how two differ, what it said; stopping it, and sweeping up."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path

from lambda_hat import store, work
from lambda_hat.errors import StoreError, UserError
from lambda_hat.study import rows as looking
from lambda_hat.study import tell
from lambda_hat.study.rows import duration, show
from lambda_hat.study.tell import interval

SHARED_WIDTH = 118


def main(doc):
    """Entry point of bin/status.py."""
    parser = tell.parser(doc)
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
        return _explain(find(root, arguments.explain), arguments.json)
    if arguments.diff:
        return _diff(*(find(root, name) for name in arguments.diff), arguments.json)
    if arguments.log:
        return _log(root, arguments.log)
    root, rows = gather(arguments.words, arguments.sweep)
    if arguments.cancel:
        return _cancel(rows, arguments.yes)
    if arguments.prune:
        return _prune(root, rows, arguments.yes, everything=not filters and not arguments.sweep)
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
        from lambda_hat.study import sweep

        root, rows = sweep.rows(overrides, tell.split(words, None)[0])
        known = {row.name: row for row in looking.scan(root)} if root.is_dir() else {}
        rows = [known.get(row.name, row) for row in rows]
    else:
        rows = looking.scan(root)
    return root, looking.select(rows, filters)


def add_sweep(parser):
    """Take a sweep's overrides."""
    parser.add_argument(
        "-m",
        "--sweep",
        nargs="+",
        metavar="override",
        help="sample.py's words: shows each of these combinations, whether or not it has been begun",
    )


# --- the table --------------------------------------------------------------------------------------------------------


def blocks(rows, root):
    """What is shown of rows: how many, what they share, and a table for each target."""
    if not rows:
        return [f"{root}: nothing there fits."]
    differing = looking.varying(rows)
    said = [f"{root}: {counted(rows)}", *shared(rows, differing)]
    for target, mine in by_target(rows).items():
        own = [key for key in looking.varying(mine) if key != "sampler.name"]
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
        for state in looking.STATES
        if states[state]
    ]
    return ", ".join(words)


def shared(rows, differing):
    """Lines of settings that all rows (of a kind) have alike, a line for each group; `differing` names the others."""
    lines = []
    for group in looking.NEVER_NULL:
        kind = looking.KINDS.get(group)
        alike = {}
        for row in rows:
            if row.settings.get(kind) not in alike and looking.knows(row, group):
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
        if key.partition(".")[0] == group and key not in differing and key != looking.KINDS.get(group)
    ]
    if not words:
        return []
    if "=" not in title and (kind := settings.get(looking.KINDS.get(group))) and looking.KINDS[group] not in differing:
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
    found = row.result or row.work
    running = row.state == "running"
    return [
        row.word,
        row.sampler or "(target)",
        *(show(row.settings.get(key)) if row.settings else "?" for key in keys),
        tell.estimate(found.get("llc_mean", found.get("llc")), found.get("llc_mcse", found.get("mcse")))
        if row.result or running
        else "–",
        interval(*row.result["llc_interval95"]) if row.result else "–",
        tell.number(found.get("ess"), ".0f") if row.result or running else "–",
        tell.number(found.get("rhat"), ".4f") if row.result or running else "–",
        tell.number(row.result.get("total_fges"), ".0f"),
        duration(
            row.result.get("walltime_sec") if row.result else row.meta.get("walltime_sec") if not row.run_id else None
        ),
        row.run_id or row.target_id,
        "; ".join(note.replace("\n", " ") for note in row.notes),
    ]


def as_json(row):
    """A row as `--json` prints it."""
    result = {
        key: row.result.get(key)
        for key in (*looking.RESULT_KEYS[3:9], "truth", "total_fges", "walltime_sec", "created_at")
        if row.result
    }
    under_way = {
        key: row.work[key]
        for key in (
            "phase",
            "draw",
            "draws",
            "llc",
            "mcse",
            "ess",
            "rhat",
            "host",
            "pid",
            "slurm_job",
            "log",
            "command",
        )
        if key in row.work and row.work[key] is not None
    }
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


# --- one directory, two directories -----------------------------------------------------------------------------------


def find(root, name):
    """The published directory that is named by its path, its id, or <target id>/<run id> or <target id>.<run id>.

    Raises:
        StoreError: where there is none, or several.
    """
    given = Path(name)
    if store.is_done(given) and (
        looking.TARGET.fullmatch(given.resolve().name) or looking.RUN.fullmatch(given.resolve().name)
    ):
        return given.resolve() if given.name in ("", ".", "..") else given
    targets = root / "targets"
    direct = targets / name.replace(".run_", "/run_")
    found = [direct] if store.is_done(direct) else sorted(targets.glob(f"tgt_*/{given.name}"))
    if len(found) == 1:
        return found[0]
    if found:
        raise StoreError(
            f"{name} is in {len(found)} targets: {', '.join(p.parent.name for p in found)}; name one of them."
        )
    raise StoreError(f"{name}: there is no such target or run, neither as a path nor in {targets}.")


def _stage(directory):
    return "run" if directory.name.startswith("run_") else "target"


def _settings(directory):
    """What a directory was made with, checked against its name; a run's target's, too."""
    stage = _stage(directory)
    groups = store.open_config(directory, stage)
    if stage == "run":
        groups = store.open_config(directory.parent, "target") | groups
    return looking.flat(groups)


UNHASHED = {"run": ("created_at", "provenance"), "target": ("created_at", "code_sha", "pkg_versions", "hostname")}


def _unhashed(directory):
    """Where a result came from, which is recorded beside it and not in its name."""
    stage = _stage(directory)
    record = store.read_json(directory / ("analysis.json" if stage == "run" else "meta.json"))
    return looking.flat({key: record.get(key) for key in UNHASHED[stage]})


def _explain(directory, as_json):
    stage = _stage(directory)
    algorithm, length, version, keys = store.STAGES[stage]
    groups = store.open_config(directory, stage)
    payload = {"version": version} | looking.flat({key: groups[key] for key in keys})
    nulls = [
        f"{key}.{name}"
        for key in keys
        if isinstance(groups[key], dict)
        for name, value in groups[key].items()
        if value is None
    ]
    unhashed = _unhashed(directory)
    if as_json:
        tell.write_json({"directory": directory, "hashed": payload, "null": nulls, "not_hashed": unhashed})
        return
    lines = [
        f"{directory}",
        f"its name ends in the first {length} digits of the {algorithm} of these, as JSON with sorted keys and without spaces; "
        "they match",
        "",
        *(f"  {key:32} {show(value)}" for key, value in payload.items()),
    ]
    if nulls:
        lines += ["", f"null, and so left out: {', '.join(nulls)}"]
    if stage == "run":
        lines += ["", f"the target is in the path: {directory.parent.name}; see --explain {directory.parent}"]
    lines += ["", "recorded, not hashed:", "", *(f"  {key:32} {_flat_text(value)}" for key, value in unhashed.items())]
    tell.write("\n".join(lines))


def _flat_text(value):
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else show(value)


def _diff(a, b, as_json):
    parts = {}
    for title, read in (("hashed", _settings), ("not hashed", _unhashed)):
        here, there = read(a), read(b)
        keys = [key for key in dict.fromkeys((*here, *there)) if here.get(key) != there.get(key)]
        parts[title] = [(key, here.get(key), there.get(key)) for key in keys]
    if as_json:
        tell.write_json({title: {key: [x, y] for key, x, y in lines} for title, lines in parts.items()})
        return
    said = [f"A  {a}", f"B  {b}"]
    for title, lines in parts.items():
        if lines:
            said += [
                "",
                tell.Table(
                    [title, "A", "B"], [[k, _flat_text(x), _flat_text(y)] for k, x, y in lines], (title, "A", "B")
                ),
            ]
        else:
            said += ["", f"{title}: no difference"]
    tell.write(*said)


def _log(root, name):
    try:
        directory = find(root, name)
    except StoreError:  # what is not finished has a name, too
        name = name.rstrip("/").removeprefix(f"{root}/targets/").replace("/run_", ".run_")
        left = [row for row in looking.scan(root) if row.work and name in (row.name, row.run_id)]
        if len(left) != 1:
            raise
        log = left[0].work.get("log")
    else:
        record = store.read_json(directory / ("analysis.json" if _stage(directory) == "run" else "meta.json"))
        log = (record.get("provenance") or {}).get("log")
    if log is None:
        raise StoreError(f"{name}: the log that it was made with is not recorded; look in {root / 'logs'}.")
    path = Path(log)
    if not path.is_file():  # the store was moved, or the command ran elsewhere
        path = root / "logs" / log.rpartition("/logs/")[2] if "/logs/" in log else path
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise StoreError(f"{log} cannot be read ({error.strerror}); it may be on another machine.") from error
    print(f"{path}:\n{text}", end="")


# --- stopping and sweeping up -----------------------------------------------------------------------------------------


def _cancel(rows, yes):
    """Stop what runs or waits; with `yes` false, only say what that would be."""
    jobs, processes, beyond = {}, {}, []
    for row in rows:
        if row.state not in ("running", "queued"):
            continue
        if row.work.get("slurm_job"):
            jobs.setdefault(str(row.work["slurm_job"]), []).append(row.short)
        elif row.work.get("owner_is_alive"):
            processes.setdefault(row.work["pid"], []).append(row)
        else:
            beyond.append(row)
    if not jobs and not processes and not beyond:
        tell.write("nothing that fits is running or queued")
        return 0
    for row in beyond:
        tell.write(f"{row.short}: is made on {row.work.get('host')}; stop process {row.work.get('pid')} there")
    verb = "stopped" if yes else "would stop"
    for job, names in jobs.items():
        tell.write(f"{verb} SLURM job {job}: {', '.join(names)}")
    for pid, mine in processes.items():
        command = looking.words(mine[0].work.get("command") or [])
        tell.write(f"{verb} process {pid} ({command}), at {', '.join(row.short for row in mine)} and all that follows")
    if not yes:
        tell.write("nothing was stopped; add --yes")
        return 0
    if jobs:
        _scancel(jobs)
    for pid, mine in processes.items():
        if work.is_alive(mine[0].work):  # still the same one
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    return 1 if beyond else 0


def _scancel(jobs):
    try:
        done = subprocess.run(["scancel", *jobs], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"scancel could not be run ({error}); type: scancel {' '.join(jobs)}") from error
    if done.returncode:
        raise UserError(f"scancel failed: {done.stderr.strip()}")


def _prune(root, rows, yes, everything):
    """Remove what is left of stopped and failed work and, where nothing was filtered, what was put aside or thrown away."""
    left = []
    for row in rows:
        if row.state in ("stale", "failed", "missing"):
            left += [root / "work" / row.name, *(root / "failures" / f"{row.name}.{kind}" for kind in ("json", "npz"))]
    if everything:
        for name in ("replaced", "trash"):
            with contextlib.suppress(FileNotFoundError):
                left += sorted((root / name).iterdir())
    left = [path for path in left if path.exists()]
    sizes = {path: used(path) for path in left}
    if left:
        tell.write(
            tell.Table(["size", "path"], [[tell.size(size), str(path)] for path, size in sizes.items()], ("path",))
        )
    total = tell.size(sum(sizes.values()))
    if not left:
        tell.write("nothing to remove")
    elif not yes:
        tell.write(f"would remove {len(left)} of these, {total}; nothing was removed; add --yes")
    else:
        for path in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        tell.write(f"removed {len(left)} of these, {total}")
    return 0


def used(path):
    """Bytes that a file, or all below a directory, take."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                total += (
                    used(entry.path)
                    if entry.is_dir(follow_symlinks=False)
                    else entry.stat(follow_symlinks=False).st_size
                )
    return total
