"""Stores as somebody else may have left them, and what every view makes of them.

Seeded mutations of a small real store, each resealed where that lets it in further.
`python tests/hostile.py STORE FIRST LAST` tries the seeds from FIRST up to LAST on copies of the store in the directory STORE.
"""

import contextlib
import csv
import faulthandler
import importlib
import io
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import h5py
import numpy as np

from lambda_hat import store
from lambda_hat.store import lease

SECONDS, LONGEST = 10, 120
"""Seconds of processor time that one command may take, and of any time: others may be busy on the machine."""

MEMORY = 3 * 2**30
"""Bytes of address space that the whole may take."""

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
    plain = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
    if all(not path.is_symlink() and path.is_file() and path.stat().st_size < 10**7 for path in plain):
        store.seal(directory)


# --- one mutation each: (rng, root, outside) → None -------------------------------------------------------------------


def pick_run(rng, root):
    runs = sorted(path for path in (root / "targets").glob("tgt_*/run_hmc_*") if path.is_dir())
    runs = [path for path in runs if not path.is_symlink() and not path.parent.is_symlink()]
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
    if directory.parent.is_symlink():
        raise ValueError("spoilt")
    directory.mkdir(parents=True)
    victim = json.loads((outside / "process.json").read_text())
    for part in rng.sample(sorted(NOTES), rng.randrange(1, 5)):
        path = root / "failures" / f"{name}.json" if part == "failed" else directory / f"{part}.json"
        path.parent.mkdir(exist_ok=True)
        if path.parent.is_symlink():
            raise ValueError("spoilt")
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


def change_version(rng, root, outside):
    """A run of an earlier version of the estimator."""
    run = pick_run(rng, root)
    record = load(run / "analysis.json")
    name = store.digest("run", [record["sampler_config"], record["posterior_config"]], rng.choice((1, 2)))
    if rng.random() < 0.7:
        record = record | {"estimator": 1, "run_id": f"run_hmc_{name}"}
        if rng.random() < 0.5:
            mutate(rng, record)
        dump(record, run / "analysis.json")
        reseal(run)
    run.rename(run.with_name(f"run_hmc_{name}"))


MUTATIONS = (
    *(change_record,) * 8,
    *(change_work,) * 4,
    *(change_trace,) * 3,
    *(change_file,) * 3,
    *(change_settings,) * 2,
    *(change_directory,) * 2,
    *(change_version, change_sums, change_config, change_rooms, change_log),
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
        except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError):  # an earlier one spoilt it
            names.append(f"({mutation.__name__})")
        else:
            names.append(mutation.__name__)
    return root, names


# --- views of it ------------------------------------------------------------------------------------------------------

VIEWS = (
    ("status", "{root}", "--json"),
    ("status", "{root}"),
    ("results", "{root}", "--csv"),
    ("results", "{root}", "groupby=sampler,seed", "--csv"),
    ("report", "{root}"),
    ("plot", "{root}", "x=seed"),
    ("plot", "{root}", "--calibration"),
    ("store", "verify", "{root}"),
    ("store", "du", "{root}"),
    ("store", "reindex", "{root}"),
    ("accuracy", "{root}", "--json"),
    ("promote", "gallery", "{root}", "--to", "{place}/promoted", "--allow-bad"),
    ("status", "{root}", "--cancel", "--yes"),
    ("status", "{root}", "--log", "{run}"),
    ("status", "{root}", "--explain", "{run}"),
    ("status", "{root}", "--diff", "{run}", "{other}"),
    ("store", "migrate", "{root}"),
    ("store", "rm", "{root}", "status=damaged"),
    ("status", "{root}", "--prune", "--yes"),
)
"""Every one of them in order, the ones that move and remove last."""


class Hung(BaseException):
    """A command took too long."""


def command(name, *argv):
    """Run a command in this process; its exit code, standard output and standard error."""
    module = importlib.import_module(f"lambda_hat.commands.{name}")
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [f"{name}.py", *argv]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(LONGEST)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            module.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        err.write(stop.code if isinstance(stop.code, str) else "")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        sys.argv = before
    return code or 0, out.getvalue(), err.getvalue()


def snapshot(directory):
    """Names and contents of all files, links not followed."""
    found = {}
    for here, directories, names in os.walk(directory):
        for name in (*directories, *names):
            path = os.path.join(here, name)
            regular = os.path.isfile(path) and not os.path.islink(path)
            with open(path, "rb") if regular else contextlib.nullcontext() as file:
                found[path] = file.read() if file else os.readlink(path) if os.path.islink(path) else None
    return found


class Examiner:
    """Looks at mutated copies of a store with every view.

    Arguments:
        base: the store, in a directory of its own; its target has runs of hmc, which are mutated, and of mclmc, which are not.
        place: a directory for the copies.
    """

    def __init__(self, base, place):
        self.base, self.place, self.outside = base, place / "copy", place / "outside"
        (self.target,) = (base / "targets").glob("tgt_*")
        (self.run,), (self.intact,) = self.target.glob("run_hmc_*"), self.target.glob("run_mclmc_*")
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(10000)"])
        owner = lease.this_process() | {"pid": self.process.pid, "started": lease._started(self.process.pid)}
        build_outside(self.outside, self.run, self.target, owner)
        self.before = snapshot(self.outside)
        self.llc = json.loads((self.intact / "analysis.json").read_text())["llc_mean"]
        for number in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, self._alarmed)

    def close(self):
        self.process.kill()
        self.process.wait()

    @staticmethod
    def _alarmed(*_):
        raise Hung

    def examine(self, seed):
        """What is wrong with how a mutated store is shown, a sentence each."""
        self.place.mkdir()
        try:
            faulthandler.dump_traceback_later(3 * LONGEST, exit=True)  # what no signal interrupts
            signal.alarm(LONGEST)
            root, names = mutated(seed, self.base, self.place, self.outside)
            signal.alarm(0)
            return [f"seed {seed} {names} {each}" for each in self._examine(root)]
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
            shutil.rmtree(self.place, ignore_errors=True)

    def _examine(self, root):
        names = {"run": f"{self.target.name}/{self.run.name}", "other": f"{self.target.name}/{self.intact.name}"}
        for view in VIEWS:
            words = [word.format(root=root, place=self.place, **names) for word in view]
            try:
                outcome = command(*words)
            except Hung:
                yield f"{view}: more than {SECONDS} s"
            except Exception:  # whatever it is, it is what is looked for
                yield f"{view}: {traceback.format_exc()[-1500:]}"
            else:
                yield from (f"{view}: {each}" for each in self._judge(words, *outcome))
        if (root / "report.html").is_file() and "987654" in (root / "report.html").read_text(errors="replace"):
            yield "the report shows what lies outside"
        if (after := snapshot(self.outside)) != self.before:
            self.before = after
            yield "something outside has changed"
        if self.process.poll() is not None:
            yield "a process was stopped"

    def _judge(self, words, code, out, err):
        if code not in (0, 1) or (code == 1 and not (out + err).strip()):
            yield f"exit code {code}: {err[:200]}"
        if "Traceback" in out + err:
            yield "a traceback"
        if f"{SECRET:.0f}"[:6] in out + err:
            yield "shows what lies outside"
        if raw := re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", out + err):
            yield f"a raw {raw[0]!a}"
        if "--csv" in words and code == 0:
            for cell in itertools.chain.from_iterable(csv.reader(io.StringIO(out))):
                if cell.startswith(("=", "+", "-", "@")) and not re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", cell):
                    yield f"a formula: {cell[:40]}"
        if words[:1] + words[2:] == ["status", "--json"]:
            rows = json.loads(out) if code == 0 else []
            if not any(row["target_id"] == self.target.name and row.get("llc_mean") == self.llc for row in rows):
                yield f"the untouched run is not shown: {err[:300]}"


def main():
    """Try seeds; a sentence for each thing that is wrong, then counts."""
    base, first, last = Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.environ["PATH"] = ""  # no SLURM is to hear of it
    began, wrong = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        shutil.copytree(base, "base", symlinks=True)
        examiner = Examiner(Path(place, "base"), Path(place))
        try:
            for seed in range(first, last):
                for each in examiner.examine(seed):
                    wrong += 1
                    print(each, flush=True)
        finally:
            examiner.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = time.monotonic() - began
    print(f"{last - first} stores, {len(VIEWS)} views of each: {wrong} wrong, {seconds:.0f} s, {peak:.0f} MiB at most")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
