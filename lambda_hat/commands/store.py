"""bin/store.py: seeing that the store is whole, its indexes right, how large it is; putting runs in the trash."""

import contextlib
import json
import os
import uuid
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from lambda_hat import store
from lambda_hat.inspect import choose, tell
from lambda_hat.inspect import rows as looking
from lambda_hat.inspect.row import RUN, TARGET
from lambda_hat.inspect.stop import used
from lambda_hat.system.errors import UserError

DOC = """Care for what is stored: check that it is whole, how large it is; move runs into the trash.

    %(prog)s verify                         # reads every file again; exit code 1 where one is damaged
    %(prog)s reindex                        # _catalog.jsonl and _runs.jsonl, from the directories
    %(prog)s du
    %(prog)s rm status=bad sampler=sgld     # moves to <root>/trash/
    %(prog)s restore runs/trash/20260101T120000_000000
"""


def main():
    """Entry point of bin/store.py and of lambda-hat-store."""
    parser = tell.parser(DOC)
    meanings = "; ".join(f"{name}: {act.__doc__.strip()}" for name, act in _ACTIONS.items())
    parser.add_argument("action", choices=_ACTIONS, help=meanings)
    tell.add_words(parser)
    parser.add_argument("--targets", action="store_true", help="rm: whole targets, with their runs")
    tell.run(lambda arguments: _ACTIONS[arguments.action](arguments, *tell.split(arguments.words)), parser)


# --- verify -----------------------------------------------------------------------------------------------------------


def published(root):
    """Every published directory under a root: targets, each followed by its runs."""
    targets = Path(root) / "targets"
    for target in looking.names(targets, TARGET):
        yield targets / target
        for run in looking.names(targets / target, RUN):
            yield targets / target / run


def _verify(arguments, root, filters):
    """read every file again and name what is damaged; exit code 1 where something is"""
    rows = {row.directory for row in choose.select(looking.scan(root), filters)} if filters else None
    found, count, size = {}, 0, 0
    for directory in published(root):
        if rows is None or directory in rows:
            count, size = count + 1, size + _own_size(directory)
            if wrong := list(store.damages(directory)):
                found[directory] = wrong
    if arguments.json:
        tell.write_json({"directories": count, "bytes": size, "damaged": {str(d): wrong for d, wrong in found.items()}})
    else:
        lines = [line for wrong in found.values() for line in wrong]
        verdict = f"{len(found)} of them damaged" if found else "all are as they were published"
        tell.write(*lines, f"{root}: {count} directories, {tell.size(size)}: {verdict}")
        if found:
            tell.write("restore those files, or redo a run with force=true (a target with bin/build_target.py)")
    return int(bool(found))


def _own_size(directory):
    runs = looking.names(directory, RUN)
    return used(directory) - sum(used(directory / run) for run in runs)


# --- reindex ----------------------------------------------------------------------------------------------------------


def reindex(root, targets=None):
    """Write the indexes anew from the directories, each in one step; damaged directories are left out and returned.

    A line that a run appends at this very moment may be lost from the index, which is never the truth.

    Arguments:
        targets: ids of those whose index of runs is to be written; None for all, and the catalog.
    """
    rows = looking.scan(root)
    left_out = [row for row in rows if row.state == "damaged"]
    metas = {row.target_id: row.meta for row in rows if row.meta}
    for target_id in metas if targets is None else targets:
        runs = [row for row in rows if row.target_id == target_id and row.result]
        _write_lines(store.Paths(root, target_id).runs, [_run_line(row) for row in runs])
    if targets is None and (root / "targets").is_dir():
        _write_lines(store.Paths(root, "").catalog, [_target_line(meta) for meta in metas.values()])
    return left_out


def _target_line(meta):
    return {
        "target_id": meta["target_id"],
        "created_at": meta.get("created_at"),
        "model": meta["model_cfg"],
        "data": meta["data_cfg"],
        "seed": meta["seed"],
    }


def _run_line(row):
    return {
        "target_id": row.target_id,
        "sampler": row.sampler,
        "hyperparams": {"sampler": row.result["sampler_config"], "posterior": row.result["posterior_config"]},
        "walltime_sec": row.result["walltime_sec"],
        "artifact_path": str(row.directory),
        "created_at": row.result["created_at"],
    }


def _write_lines(path, records):
    records = sorted(records, key=lambda record: record["created_at"] or "")
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        hidden.write_text("".join(json.dumps(store.finite(record), allow_nan=False) + "\n" for record in records))
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)


def _reindex(arguments, root, filters):
    """write the indexes (_catalog.jsonl, _runs.jsonl) anew from the directories"""
    if filters:
        raise UserError("reindex takes no filter: an index has a line for everything that is there.")
    left_out = reindex(root)
    counts = Counter(directory.name[:4] for directory in published(root))
    said = f"{root}: indexes of {counts['tgt_']} targets and {counts['run_']} runs written"
    if arguments.json:
        tell.write_json(
            {"targets": counts["tgt_"], "runs": counts["run_"], "left_out": [str(row.directory) for row in left_out]}
        )
    else:
        tell.write(said, *(f"left out, damaged: {row.directory}" for row in left_out))
    return int(bool(left_out))


# --- du ---------------------------------------------------------------------------------------------------------------


def _du(arguments, root, filters):
    """how much space is taken, by what"""
    rows = choose.select(looking.scan(root), filters)
    sizes = Counter()
    if filters:
        for row in rows:
            if row.directory.is_dir():
                sizes[row.short] = used(row.directory)
    else:
        for directory in published(root):
            kind = (
                "targets"
                if directory.name.startswith("tgt_")
                else directory.name.rpartition("_")[0].replace("run_", "runs, ")
            )
            sizes[kind] += _own_size(directory)
        for name in sorted(os.listdir(root)):
            if name != "targets":
                sizes[name] = used(root / name)
    if arguments.json:
        tell.write_json(dict(sizes))
        return
    lines = [[tell.size(size), name] for name, size in sizes.most_common()]
    total = [tell.size(sizes.total()), "together"]
    tell.write(tell.Table(["size", "of"], [*lines, total], ("of",)))


# --- rm ---------------------------------------------------------------------------------------------------------------


def _rm(arguments, root, filters):
    """put the runs that fit into <root>/trash/, from where they can be taken back"""
    if not filters:
        raise UserError("rm needs a filter, such as status=bad or run=run_hmc_3c7d73da: it will not take everything.")
    rows = choose.select(looking.scan(root), filters)
    if arguments.targets:
        chosen = sorted({row.target_id for row in rows})
        moves = [root / "targets" / target_id for target_id in chosen]
        busy = [row.short for row in looking.scan(root) if row.state == "running" and row.target_id in chosen]
        if busy:
            raise UserError(f"{', '.join(busy)}: still being made; stop that first, with bin/status.py --cancel.")
    else:
        moves = [row.directory for row in rows if row.run_id and row.state in ("done", "damaged")]
    if not moves:
        tell.write(f"{root}: nothing there fits.")
        return 0
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S_%f")
    trash = root / "trash" / stamp
    size = sum(map(used, moves))
    for directory in moves:
        to = trash / directory.relative_to(root / "targets")
        to.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another rm was first
            os.rename(directory, to)
    reindex(root, None if arguments.targets else {path.parent.name for path in moves})
    if arguments.json:
        tell.write_json({"moved": [str(path) for path in moves], "to": str(trash), "bytes": size})
        return 0
    tell.write(
        *map(str, moves),
        f"{len(moves)} moved to {trash}, {tell.size(size)}; nothing is deleted. Back again: bin/store.py restore "
        f"{trash}; for good: bin/status.py {root} --prune --yes",
    )
    return 0


def _restore(arguments, trash, filters):
    """take back what rm put into a directory of <root>/trash/, which is given in the root's place"""
    if filters or trash.parent.name != "trash" or not trash.is_dir():
        raise UserError(f"{trash}: give a directory of <root>/trash/, and no filter: all of it is taken back.")
    root = trash.parent.parent
    moves = [path for path in sorted(trash.glob("tgt_*")) if (path / store.SUMS).exists()]
    moves += [path for path in sorted(trash.glob("tgt_*/run_*")) if path.parent not in moves]
    left = []
    for path in moves:
        to = root / "targets" / path.relative_to(trash)
        if store.is_done(to):
            left.append(f"{path} stays: {to} was made anew meanwhile")
        elif path.name.startswith("run_") and not store.is_done(to.parent):
            left.append(f"{path} stays: its target is gone; take that back first, or make it with bin/build_target.py")
        else:
            os.rename(path, to)
    for path in (*trash.glob("tgt_*"), trash):
        with contextlib.suppress(OSError):
            path.rmdir()
    reindex(root)
    tell.write(*left, f"{len(moves) - len(left)} taken back to {root / 'targets'}")
    return int(bool(left))


_ACTIONS = {"verify": _verify, "reindex": _reindex, "du": _du, "rm": _rm, "restore": _restore}
