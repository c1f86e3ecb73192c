"""What a directory was made of, why two differ, and what was said when one was made."""

from pathlib import Path

from lambda_hat import store
from lambda_hat.inspect import rows as looking
from lambda_hat.inspect import tell
from lambda_hat.inspect.row import RUN, TARGET, flat, show
from lambda_hat.system.errors import StoreError


def find(root, name):
    """The published directory that is named by its path, its id, or <target id>/<run id> or <target id>.<run id>.

    Raises:
        StoreError: where there is none, or several.
    """
    given = Path(name)
    if store.is_done(given) and (TARGET.fullmatch(given.resolve().name) or RUN.fullmatch(given.resolve().name)):
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
    return flat(groups)


UNHASHED = {"run": ("created_at", "provenance"), "target": ("created_at", "code_sha", "pkg_versions", "hostname")}


def _unhashed(directory):
    """Where a result came from, which is recorded beside it and not in its name."""
    stage = _stage(directory)
    record = store.read_json(directory / ("analysis.json" if stage == "run" else "meta.json"))
    return flat({key: record.get(key) for key in UNHASHED[stage]})


def explain(directory, as_json):
    """Print what is hashed into a directory's name, and what is recorded beside it."""
    stage = _stage(directory)
    algorithm, length, version, keys = store.STAGES[stage]
    groups = store.open_config(directory, stage)
    payload = {"version": version} | flat({key: groups[key] for key in keys})
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


def diff(a, b, as_json):
    """Print in which settings, and in what else that is recorded, two directories differ."""
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


def log(root, name):
    """Print the log of what made a directory, or failed to."""
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
