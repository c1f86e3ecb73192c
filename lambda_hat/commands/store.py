"""bin/store.py: verifying a store, its indexes, its size; moving runs to the trash and back; migration; sharing a study."""

from pathlib import Path

from lambda_hat.commands import console
from lambda_hat.inspect import formats, maintenance, migration, sharing
from lambda_hat.inspect.filters import select
from lambda_hat.inspect.scan import scan
from lambda_hat.system.errors import UserError
from lambda_hat.system.terminal import program

DOC = """Look after stored results: verify them, rebuild the indexes, measure their size, move runs to the trash, share a study.

    %(prog)s verify                         # reads every file; exit code 1 if one is damaged
    %(prog)s reindex                        # _catalog.jsonl and _runs.jsonl, from the directories
    %(prog)s du
    %(prog)s rm status=bad sampler=sgld     # moves to <root>/trash/
    %(prog)s restore runs/trash/20260101T120000_000000
    %(prog)s migrate                        # recomputes runs of an earlier estimator
    %(prog)s export data.n_data=500 --to study.zip   # finished runs with their targets, and a table to cite
    %(prog)s import study.zip runs          # verified first; what is there is left alone
"""


def main():
    """Entry point of bin/store.py and of lambda-hat-store."""
    parser = console.parser(DOC)
    meanings = "; ".join(f"{name}: {act.__doc__.strip()}" for name, act in _ACTIONS.items())
    parser.add_argument("action", choices=_ACTIONS, help=meanings)
    console.add_words(parser)
    parser.add_argument("--to", metavar="FILE.zip", help="export: the archive to write")
    parser.add_argument("--targets", action="store_true", help="rm: whole targets, with their runs")
    console.run(_act, parser)


def _act(arguments):
    if (arguments.to is not None) != (arguments.action == "export"):
        raise UserError("export needs --to, such as --to study.zip, and no other action takes it.")
    if arguments.action == "import":
        if not arguments.words:
            raise UserError("import needs an archive that export wrote, and then a root: import study.zip runs.")
        arguments.archive = Path(arguments.words.pop(0)).expanduser()
    return _ACTIONS[arguments.action](arguments, *console.split(arguments))


def _verify(arguments, root, filters):
    """read every file and list the damaged ones; exit code 1 if there are any"""
    directories, size, damaged = maintenance.verify(root, select(scan(root), filters) if filters else None)
    if arguments.json:
        damages = {str(directory): wrong for directory, wrong in damaged.items()}
        console.write_json({"directories": directories, "bytes": size, "damaged": damages})
    else:
        verdict = f"{len(damaged)} of them damaged" if damaged else "all are as they were published"
        lines = [line for wrong in damaged.values() for line in wrong]
        console.write(*lines, f"{root}: {directories} directories, {formats.size(size)}: {verdict}")
        if damaged:
            console.write(
                f"restore those files, or redo a run with force=true (a target with {program('build_target')}); a trajectory's are "
                "trained again when they are needed"
            )
    return int(bool(damaged))


def _reindex(arguments, root, filters):
    """rebuild the indexes (_catalog.jsonl, _runs.jsonl) from the directories"""
    if filters:
        raise UserError("reindex takes no filter: an index has a line for everything that is there.")
    left_out = maintenance.reindex(root)
    published = list(maintenance.published(root))
    runs = sum(path.name.startswith("run_") for path in published)
    targets = len(published) - runs
    if arguments.json:
        left = [str(record.directory) for record in left_out]
        console.write_json({"targets": targets, "runs": runs, "left_out": left})
    else:
        lines = [f"left out, damaged: {record.directory}" for record in left_out]
        console.write(f"{root}: indexes of {targets} targets and {runs} runs written", *lines)
    return int(bool(left_out))


def _du(arguments, root, filters):
    """disk space by kind"""
    sizes = maintenance.disk_usage(root, select(scan(root), filters) if filters else None)
    if arguments.json:
        console.write_json(dict(sizes))
        return
    lines = [[formats.size(size), name] for name, size in sizes.most_common()]
    console.write(console.Table(["size", "of"], [*lines, [formats.size(sizes.total()), "total"]], ("of",)))


def _rm(arguments, root, filters):
    """move matching runs to <root>/trash/, from which they can be restored"""
    if not filters:
        raise UserError("rm needs a filter, such as status=bad or run=run_hmc_3c7d73da: it will not take everything.")
    moved, trash, size = maintenance.move_to_trash(root, select(scan(root), filters), arguments.targets)
    if arguments.json:
        console.write_json({"moved": [str(path) for path in moved], "to": str(trash), "bytes": size})
    elif not moved:
        console.write(f"{root}: nothing there matches.")
    else:
        console.write(
            *map(str, moved),
            f"{len(moved)} moved to {trash}, {formats.size(size)}; nothing is deleted. To undo: {program('store')} restore "
            f"{trash}; to delete for good: {program('status')} {root} --prune --yes",
        )


def _restore(arguments, trash, filters):
    """restore what rm moved to a directory of <root>/trash/, given in place of the root"""
    if filters:
        raise UserError(f"{trash}: give a directory of <root>/trash/, and no filter: all of it is restored.")
    restored, left = maintenance.restore(Path(trash))
    if arguments.json:
        console.write_json({"restored": [str(path) for path in restored], "left": left})
    else:
        console.write(*left, f"{len(restored)} restored to {Path(trash).parent.parent / 'targets'}")
    return int(bool(left))


def _migrate(arguments, root, filters):
    """recompute runs of an earlier estimator from their draws; exit code 1 if some stay old"""
    migrated, left = migration.migrate(root, select(scan(root), filters))
    if arguments.json:
        names = {str(old): str(new) for old, new in migrated.items()}
        console.write_json({"migrated": names, "left": {str(old): reason for old, reason in left.items()}})
        return int(bool(left))
    lines = [f"{old} -> {new.name}" for old, new in migrated.items()]
    lines += [f"stays old: {reason}" for reason in left.values()]
    if not lines:
        console.write(f"{root}: nothing there is old.")
        return 0
    kept = f"; the old ones are in {root / 'replaced'}" if migrated else ""
    console.write(*lines, f"{len(migrated)} recomputed{kept}; {len(left)} stay old and are never averaged with others")
    return int(bool(left))


def _export(arguments, root, filters):
    """write finished runs with their targets, and a table of them, into the archive --to"""
    to = Path(arguments.to).expanduser()
    exported = sharing.export(root, select(scan(root), filters), filters, to)
    size = to.stat().st_size
    if arguments.json:
        console.write_json({"archive": to, "bytes": size, **vars(exported)})
    else:
        lines = [f"left out: {name}" for name in exported.left_out]
        console.write(
            *lines,
            f"{to}: {exported.targets} targets and {exported.runs} runs, {formats.size(size)}; to take it in elsewhere: "
            f"{program('store')} import {to.name}",
        )


def _import(arguments, root, filters):
    """add what an archive of export holds to a root, once all of it is verified; exit code 1 if something else is there"""
    if filters:
        raise UserError("import takes no filter: all of an archive is taken in.")
    imported = sharing.take_in(arguments.archive, root)
    if arguments.json:
        paths = {name: [str(path) for path in getattr(imported, name)] for name in ("added", "there")}
        console.write_json(paths | {"kept": imported.kept})
    else:
        numbers = [f"{_count(imported.added)} added"] + [f"{_count(imported.there)} already there"] * bool(
            imported.there
        )
        console.write(*imported.kept, f"{root}: {', '.join(numbers)}; see them with {program('status')} {root}")
    return int(bool(imported.kept))


def _count(directories):
    runs = sum(path.name.startswith("run_") for path in directories)
    return f"{len(directories) - runs} targets and {runs} runs"


_ACTIONS = {
    "verify": _verify,
    "reindex": _reindex,
    "du": _du,
    "rm": _rm,
    "restore": _restore,
    "migrate": _migrate,
    "export": _export,
    "import": _import,
}
