"""Whatever a store holds, every view of it ends with a table or a sentence, soon, and touches nothing outside.

LAMBDA_HAT_HOSTILE says how many stores the long test tries (3000).
"""

import contextlib
import csv
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from hostile import SECRET, build_outside, mutated
from test_cli import run_of

from lambda_hat.store import lease

STORES = int(os.environ.get("LAMBDA_HAT_HOSTILE", "3000"))

SECONDS = 10
"""Longest that one command may take."""

VIEWS = (
    ("status", "--json"),
    ("status",),
    ("results", "--csv"),
    ("results", "groupby=sampler,seed", "--csv"),
    ("report",),
    ("store", "verify"),
    ("store", "du"),
    ("store", "reindex"),
    ("accuracy", "--json"),
    ("promote", "gallery", "--to", "{place}/promoted", "--allow-bad"),
    ("status", "--cancel", "--yes"),
    ("status", "--log", "{run}"),
    ("status", "--explain", "{run}"),
    ("status", "--diff", "{run}", "{other}"),
    ("store", "rm", "status=damaged"),
    ("status", "--prune", "--yes"),
)
"""Every one of them in order, the ones that move and remove last."""


class Hung(BaseException):
    """A command took too long."""


def command(monkeypatch, name, *argv):
    """Run a command in this process; its exit code, standard output and standard error."""
    module = importlib.import_module(f"lambda_hat.commands.{name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *argv])
    out, err = io.StringIO(), io.StringIO()
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            module.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        err.write(stop.code if isinstance(stop.code, str) else "")
    finally:
        signal.alarm(0)
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


@pytest.fixture
def hostile(tiny, tmp_path, monkeypatch):
    """`hostile(seed)`: make a mutated store and look at it with every view; what was wrong, a sentence each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")  # no SLURM is to hear of it
    base = tmp_path / "base"
    (tmp_path / "runs").rename(base)
    target = base / "targets" / tiny.name
    run, intact = run_of(target, "hmc"), run_of(target, "mclmc")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(10000)"])
    owner = lease.this_process() | {"pid": process.pid, "started": lease._started(process.pid)}
    outside = tmp_path / "outside"
    build_outside(outside, run, target, owner)
    before, llc = snapshot(outside), json.loads((intact / "analysis.json").read_text())["llc_mean"]

    def alarmed(*_):
        raise Hung

    monkeypatch.setattr(signal, "raise_signal", None, raising=False)
    previous = signal.signal(signal.SIGALRM, alarmed)
    place = tmp_path / "place"

    def look(seed):
        place.mkdir()
        wrong = []
        try:
            root, names = mutated(seed, base, place, outside)
            for view in VIEWS:
                vt = time.monotonic()
                words = [word.format(place=place, run=f"{tiny.name}/{run.name}", other=f"{tiny.name}/{intact.name}") for word in view]
                said = f"seed {seed} {names} {' '.join(words[:2])}"
                try:
                    code, out, err = command(monkeypatch, words[0], str(root), *words[1:]) if words[0] not in ("store", "promote") else command(
                        monkeypatch, words[0], words[1], str(root), *words[2:]
                    )
                except Hung:
                    wrong.append(f"{said}: more than {SECONDS} s")
                    continue
                except Exception as error:
                    import traceback

                    wrong.append(f"{said}: {type(error).__name__}: {str(error)[:200]} {traceback.format_exc()[-600:]}")
                    continue
                if time.monotonic() - vt > 1: print("slow", said, time.monotonic() - vt, flush=True)
                wrong += [f"{said}: {each}" for each in _judge(words, code, out, err, llc, tiny.name, names)]
            if (root / "report.html").is_file() and "987654" in (root / "report.html").read_text(errors="replace"):
                wrong.append(f"seed {seed} {names}: the report shows what lies outside")
            if snapshot(outside) != before:
                wrong.append(f"seed {seed} {names}: something outside has changed")
            if process.poll() is not None:
                wrong.append(f"seed {seed} {names}: a process was stopped")
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return wrong

    yield look
    signal.signal(signal.SIGALRM, previous)
    process.kill()
    process.wait()


def _judge(words, code, out, err, llc, target_id, names):
    if code not in (0, 1) or (code == 1 and not (out + err).strip()):
        yield f"exit code {code}: {err[:200]}"
    if "Traceback" in out + err:
        yield "a traceback"
    if f"{SECRET:.0f}"[:6] in out + err:
        yield "shows what lies outside"
    if raw := re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", out + err):
        yield f"a raw {ascii(raw[0])}"
    if "--csv" in words and code == 0:
        for line in csv.reader(io.StringIO(out)):
            for cell in line:
                if cell.startswith(("=", "+", "-", "@")) and not re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", cell):
                    yield f"a formula: {cell[:40]}"
    if words[:2] == ["status", "--json"]:
        rows = json.loads(out) if code == 0 else []
        intact = [row for row in rows if row["target_id"] == target_id and row.get("llc_mean") == llc]
        if not intact:
            yield f"the untouched run is not shown: {err[:300]}"


def _try(hostile, seeds):
    began, wrong = time.monotonic(), []
    for seed in seeds:
        t=time.monotonic()
        wrong += hostile(seed)
        if time.monotonic()-t > 2: print("slow", seed, time.monotonic()-t, flush=True)
    print(f"{len(seeds)} stores, {len(VIEWS)} views of each: {len(wrong)} wrong, {time.monotonic() - began:.0f} s")
    assert not wrong, "\n".join(wrong[:20])


def test_any_store_is_shown_or_refused_in_a_sentence(hostile):
    _try(hostile, range(20))


@pytest.mark.soak
def test_thousands_of_stores_are_shown_or_refused_in_a_sentence(hostile):
    _try(hostile, range(20, 20 + STORES))
