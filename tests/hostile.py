"""Stores as somebody else may have left them: seeded mutations of a small real one, each resealed where that lets it in further."""

import json
import os
import random
import shutil
from pathlib import Path

import h5py
import numpy as np

from lambda_hat import store

SECRET = 987654.321
"""A number that stands only outside the root: wherever it shows, something outside was read."""

TEXTS = (
    "",
    " ",
    "nope",
    "\x1b[31mred\x1b[0m",
    "\x9b2J\x07\r\b",
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "a\nb",
    "\u202eevil",
    "x" * 100_000,
    "../../../outside/secret.json",
    "{}",
    "<script>alert(1)</script>",
    "%s",
    "ok",
    "\ud800",
    "7_7; rm -rf /",
)
NUMBERS = (0, -1, 1, 1e308, -1e308, 1e-320, 10**30, 2**63, 2**64, -(2**70), 0.5, 3)
RAW = ("NaN", "Infinity", "-Infinity", "1e400", "1" * 5000, "[" * 2000 + "]" * 2000, '{"a":' * 500 + "1" + "}" * 500)
"""JSON that is not to be had by dumping a value."""


def value(rng):
    """A value of any type; text that begins with a null byte stands for RAW."""
    kind = rng.randrange(7)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind == 2:
        return rng.choice(TEXTS)
    if kind == 3:
        return rng.choice(
            ([], [1], [None, None], ["a", 2], [[1, 2], [3]], [{"a": 1}], list(range(50)), [1e308, -1e308])
        )
    if kind == 4:
        return rng.choice(({}, {"a": 1}, {"a": {"b": {"c": [1]}}}, {"": ""}, {"\x1b[2J": 1}, {"=1": "@x"}))
    return "\0" + str(rng.randrange(len(RAW))) if kind == 5 else rng.choice(TEXTS)


def dump(record, path):
    """Write JSON with RAW parts in the place of the text that stands for them."""
    text = json.dumps(record)
    for number, raw in enumerate(RAW):
        text = text.replace(json.dumps(f"\0{number}"), raw)
    path.unlink(missing_ok=True)  # a link to the original's
    path.write_text(text, encoding="utf-8")


def places(record, path=()):
    """Every path into a JSON object."""
    items = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def mutate(rng, record):
    """Change one place of a JSON object: another value, no value, another key."""
    chosen = rng.choice(list(places(record)) or [("new",)])
    if rng.random() < 0.4:  # the top is where most readers look
        chosen = chosen[:1]
    parent = record
    for key in chosen[:-1]:
        parent = parent[key]
    act = rng.random()
    if act < 0.75 or isinstance(parent, list):
        parent[chosen[-1]] = value(rng)
    elif act < 0.9:
        parent.pop(chosen[-1], None)
    else:
        parent[rng.choice([text for text in TEXTS if text != "\ud800"])] = value(rng)
    return record


def load(path):
    """A JSON object from a file that no earlier mutation has spoilt."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > 10**7:
        raise ValueError("spoilt")
    return json.loads(path.read_text())


def reseal(directory):
    """Have the list of hashes fit what is in a directory, if it is plain files."""
    if all(not path.is_symlink() and path.stat().st_size < 10**7 for path in directory.rglob("*")):
        store.seal(directory)


# --- one mutation each: (rng, root, outside) → None -------------------------------------------------------------------


def pick_run(rng, root):
    runs = sorted(
        path for path in (root / "targets").glob("tgt_*/run_hmc_*") if path.is_dir() and not path.is_symlink()
    )
    return rng.choice(runs) if runs else None


def pick_target(rng, root):
    targets = sorted(path for path in (root / "targets").glob("tgt_*") if path.is_dir() and not path.is_symlink())
    return targets[-1] if targets else None


def record_of(directory):
    return directory / ("analysis.json" if directory.name.startswith("run_") else "meta.json")


def change_record(rng, root, outside):
    directory = rng.choice((pick_run, pick_run, pick_run, pick_target))(rng, root)
    path = record_of(directory)
    record = load(path)
    for _ in range(rng.choice((1, 1, 1, 3))):
        mutate(rng, record)
    dump(record, path)
    if rng.random() < 0.9:
        reseal(directory)


def change_settings(rng, root, outside):
    """Settings of odd types under the name that they hash to."""
    run = pick_run(rng, root)
    record = load(run / "analysis.json")
    group = rng.choice(("sampler_config", "posterior_config"))
    record[group][rng.choice((*record[group], "new"))] = rng.choice(
        (*NUMBERS, *TEXTS[:12], [1, "a"], [[1], {"a": 2}], {"a": [1]}, None, True)
    )
    try:
        name = store.digest("run", [record["sampler_config"], record["posterior_config"]])
    except ValueError:
        return
    dump(record, run / "analysis.json")
    (run / "config.yaml").unlink()
    try:
        store.write_config(run, {"sampler": record["sampler_config"], "posterior": record["posterior_config"]})
    except Exception:
        (run / "config.yaml").write_text("a: 1")
    reseal(run)
    if not (to := run.with_name(f"run_hmc_{name}")).exists():
        run.rename(to)


def change_file(rng, root, outside):
    """A file that is no file, or another's, or huge, or cut short."""
    directory = pick_run(rng, root) if rng.random() < 0.8 else pick_target(rng, root)
    path = rng.choice(sorted(path for path in directory.iterdir() if path.is_file() and not path.is_symlink()))
    data = path.read_bytes()[: 10**7] if path.stat().st_size < 10**7 else b""
    path.unlink()
    kind = rng.randrange(10)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(outside / rng.choice(("secret.json", "secret.nc", "fifo", "nothing")))
    elif kind == 3:
        path.symlink_to(path.name)
    elif kind == 4:
        path.symlink_to(rng.choice(("/dev/zero", "/dev/full", "/proc/self/mem")))
    elif kind == 5:
        path.write_bytes(rng.randbytes(rng.choice((0, 1, 100, 5000))))
    elif kind == 6:
        path.write_bytes(data[: len(data) // 2])
    elif kind == 7:
        place = rng.randrange(max(1, len(data)))
        path.write_bytes(data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :])
    elif kind == 8:
        path.write_bytes(data)
        os.truncate(path, 2**40)
    else:
        path.write_bytes(
            rng.choice(
                (b"[]", b"{}", b"null", b"\xff\xfe", b"\0" * 100, b"- a\n- b", b"&a [*a]", b"!!python/name:os.system")
            )
        )
    if rng.random() < 0.3 and kind in (5, 6, 7, 9) and path.name != store.SUMS:
        reseal(directory)


def change_sums(rng, root, outside):
    """A list of hashes that names what it should not."""
    import hashlib

    directory = rng.choice((pick_run, pick_target))(rng, root)
    if (
        (directory / store.SUMS).is_symlink()
        or not (directory / store.SUMS).is_file()
        or (directory / store.SUMS).stat().st_size > 10**7
    ):
        raise ValueError("spoilt")
    lines = (directory / store.SUMS).read_text().rpartition("# ")[0]
    name = rng.choice(
        (
            "../../../../outside/secret.json",
            str(outside / "secret.json"),
            "../" * 40 + "dev/zero",
            "\x1b[2J",
            "a  b",
            "",
        )
    )
    lines += f"{rng.choice(('0' * 64, 'x', hashlib.sha256(b'').hexdigest()))}  {name}\n" * rng.choice((1, 1000))
    (directory / store.SUMS).unlink()
    (directory / store.SUMS).write_text(f"{lines}# {hashlib.sha256(lines.encode()).hexdigest()}\n")


def change_config(rng, root, outside):
    directory = rng.choice((pick_run, pick_target))(rng, root)
    bomb = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
        for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)
    )
    text = rng.choice(
        (
            bomb,
            "[" * 3000,
            "a: b: c",
            "sampler: 3\nposterior: [1]",
            "!!python/object/apply:os.system [touch x]",
            "? [a]\n: b",
            "x: 2024-99-99",
        )
    )
    (directory / "config.yaml").unlink()
    (directory / "config.yaml").write_text(text)
    reseal(directory)


def change_directory(rng, root, outside):
    """Directories that are links, files, copies under another name."""
    kind = rng.randrange(8)
    run, target = pick_run(rng, root), pick_target(rng, root)
    other = target.parent / "tgt_000000000000"
    if kind == 0:
        shutil.rmtree(run)
        run.symlink_to(outside / "run")
    elif kind == 1:
        other.symlink_to(outside / "target")
    elif kind == 2:
        (target / "run_hmc_00000000").symlink_to(rng.choice((outside / "run", Path("."), Path(".."), Path("nothing"))))
    elif kind == 3:
        (target / "run_hmc_00000000").write_text("a file")
    elif kind == 4:
        os.mkfifo(target.parent / "tgt_111111111111")
    elif kind == 5:
        run.rename(run.with_name("run_hmc_0a0a0a0a"))
    elif kind == 6:
        shutil.copytree(run, other / run.name)
    else:
        deep = target / "run_hmc_12345678"
        for _ in range(60):
            deep = deep / "deep"
        deep.mkdir(parents=True)


def change_trace(rng, root, outside):
    """A trace.nc whose arrays lie elsewhere, or are not what the record says."""
    run = pick_run(rng, root)
    path = run / "trace.nc"
    if path.is_symlink() or not path.is_file() or path.stat().st_size > 10**7:
        raise ValueError("spoilt")
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    group, name = rng.choice((("posterior", "llc"), ("sample_stats", "gradient_evaluations"), ("sample_stats", "time")))
    with h5py.File(path, "r+") as file:
        where = file[group]
        shape = where[name].shape
        del where[name]
        kind = rng.randrange(13)
        if kind == 0:
            size = int(np.prod(shape)) * 8
            where.create_dataset(name, shape, "f8", external=[(str(outside / "secret.raw"), 0, size)])
        elif kind == 1:
            where[name] = h5py.ExternalLink(str(outside / "secret.nc"), "/posterior/llc")
        elif kind == 2:
            layout = h5py.VirtualLayout(shape, "f8")
            layout[...] = h5py.VirtualSource(str(outside / "secret.nc"), "posterior/llc", shape)
            where.create_virtual_dataset(name, layout)
        elif kind == 3:
            where[name] = h5py.SoftLink(rng.choice(("/nothing", f"/{group}/{name}", "/posterior/L")))
        elif kind == 4:
            where.create_dataset(name, (2**20, 2**20, 2**10), "f8", chunks=(1, 1, 2**10))
        elif kind == 5:
            where.create_dataset(name, shape, rng.choice((h5py.string_dtype(), "S8", "c16", "i1", "f2")))
        elif kind == 6:
            where[name] = np.full(shape, rng.choice((np.nan, np.inf, -np.inf, 1e308, -1e308, 0.0)))
        elif kind == 7:
            where[name] = np.random.default_rng(rng.randrange(99)).normal(size=shape) * rng.choice(
                (1e99, 1e101, 1e-300)
            )
        elif kind == 8:
            where[name] = np.zeros(rng.choice(((0,), (0, 0), (1, 1), (), (3, 5), (2, 8, 2))))
        elif kind == 9:
            where.create_group(name)
        elif kind == 10:
            del file["posterior"]
        elif kind == 11:
            where[name] = file  # a cycle
    if kind == 12:
        data = bytearray(path.read_bytes())
        for _ in range(20):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(rng.choice((bytes(data), rng.randbytes(500), b"\x89HDF\r\n\x1a\n")))
    if rng.random() < 0.9:
        reseal(run)


NOTES = {
    "owner": {"token": "t", "slurm_job": None, "log": None, "command": ["sample.py"], "cwd": "/", "since": "2026"},
    "progress": {
        "beat": 3,
        "phase": "sample",
        "draw": 250,
        "draws": 1000,
        "llc": 1.2,
        "mcse": 0.1,
        "ess": 300.2,
        "rhat": 1.0,
    },
    "submitted": {"slurm_job": "77_3", "user": "x", "log": "l", "settings": {"model": {"dim": 2}}, "command": ["a"]},
    "failed": {"error": "no luck", "kind": "UserError", "log": "l", "command": ["a"], "settings": {"seed": 1}},
}


def change_work(rng, root, outside):
    """Work in progress whose files say odd things, among them that a process of somebody else's makes it."""
    target = pick_target(rng, root)
    name = rng.choice((f"{target.name}.run_hmc_{rng.randrange(16**8):08x}", f"tgt_{rng.randrange(16**12):012x}"))
    directory = root / "work" / name
    directory.mkdir(parents=True)
    victim = json.loads((outside / "process.json").read_text())
    for part in rng.sample(sorted(NOTES), rng.randrange(1, 5)):
        path = root / "failures" / f"{name}.json" if part == "failed" else directory / f"{part}.json"
        path.parent.mkdir(exist_ok=True)
        note = json.loads(json.dumps(NOTES[part]))
        if part == "owner":
            note |= victim
        kind = rng.randrange(8)
        if kind == 0:
            os.mkfifo(path)
        elif kind == 1:
            path.symlink_to(rng.choice((outside / "secret.json", Path("/dev/zero"), Path("nothing"))))
        elif kind == 2:
            path.write_bytes(rng.choice((b"", b"[]", b"{", b"\xff", b"null", b"3")))
        elif kind == 3:
            path.mkdir()
        elif kind == 4:
            dump(note, path)
        else:
            dump(mutate(rng, note), path)
    if rng.random() < 0.3:
        (directory / "checkpoint").symlink_to(outside)


def change_rooms(rng, root, outside):
    """Rooms of the store that are links out of it."""
    room = root / rng.choice(("work", "failures", "trash", "replaced", "logs", "accuracy", "trajectories"))
    shutil.rmtree(room, ignore_errors=True)
    kind = rng.randrange(3)
    if kind == 0:
        room.symlink_to(outside)
    elif kind == 1:
        room.write_text("a file")
    else:
        room.mkdir()
        (room / f"{pick_target(rng, root).name}.run_hmc_aaaaaaaa").symlink_to(outside)


def change_log(rng, root, outside):
    run = pick_run(rng, root)
    record = load(run / "analysis.json")
    record["provenance"]["log"] = rng.choice(
        (str(outside / "secret.json"), "/etc/hostname", "runs/logs/../../outside/secret.json", 3, None, "a/logs/x")
    )
    dump(record, run / "analysis.json")
    reseal(run)


MUTATIONS = (
    *(change_record,) * 8,
    *(change_work,) * 4,
    *(change_trace,) * 3,
    *(change_file,) * 3,
    *(change_settings,) * 2,
    *(change_directory,) * 2,
    *(change_sums, change_config, change_rooms, change_log),
)


def build_outside(outside: Path, run: Path, target: Path, process: dict) -> None:
    """What lies outside the root, and must neither be read nor change."""
    outside.mkdir()
    record = json.loads((run / "analysis.json").read_text()) | {
        "llc_mean": SECRET,
        "llc_interval95": [SECRET - 1, SECRET + 1],
    }
    (outside / "secret.json").write_text(json.dumps(record))
    (outside / "process.json").write_text(json.dumps(process))
    shutil.copytree(target, outside / "target", ignore=shutil.ignore_patterns("run_mclmc_*"))
    shutil.copytree(run, outside / "run")
    for directory in (outside / "run", *(outside / "target").glob("run_*")):
        (directory / "analysis.json").write_text(json.dumps(record))
        store.seal(directory)
    with h5py.File(run / "trace.nc") as file:
        shape = file["posterior/llc"].shape
    with h5py.File(outside / "secret.nc", "w") as file:
        file["posterior/llc"] = np.full(shape, SECRET)
    (outside / "secret.raw").write_bytes(np.full(shape, SECRET).tobytes())
    os.mkfifo(outside / "fifo")


def mutated(seed: int, base: Path, place: Path, outside: Path) -> tuple[Path, list[str]]:
    """A copy of a store with one to three mutations.

    Returns:
        its root and the names of the mutations.
    """
    rng = random.Random(seed)
    root = place / "runs"
    shutil.copytree(base, root, symlinks=True)
    names = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        mutation = rng.choice(MUTATIONS)
        try:
            mutation(rng, root, outside)
        except (OSError, KeyError, ValueError, IndexError, TypeError, AttributeError):  # what an earlier one has spoilt
            names.append(f"({mutation.__name__})")
        else:
            names.append(mutation.__name__)
    return root, names
