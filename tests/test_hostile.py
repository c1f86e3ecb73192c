"""Whatever a store holds, every view of it ends with a table or a sentence, soon, and touches nothing outside.

LAMBDA_HAT_HOSTILE says how many stores the long test tries (3000).
"""

import contextlib
import csv
import importlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback

import pytest
from hostile import SECRET, build_outside, mutated
from test_cli import run_of

from lambda_hat.store import lease

STORES = int(os.environ.get("LAMBDA_HAT_HOSTILE", "3000"))

SECONDS = 10
"""Longest that one command may take."""

VIEWS = (
    ("status", "{root}", "--json"),
    ("status", "{root}"),
    ("results", "{root}", "--csv"),
    ("results", "{root}", "groupby=sampler,seed", "--csv"),
    ("report", "{root}"),
    ("store", "verify", "{root}"),
    ("store", "du", "{root}"),
    ("store", "reindex", "{root}"),
    ("accuracy", "{root}", "--json"),
    ("promote", "gallery", "{root}", "--to", "{place}/promoted", "--allow-bad"),
    ("status", "{root}", "--cancel", "--yes"),
    ("status", "{root}", "--log", "{run}"),
    ("status", "{root}", "--explain", "{run}"),
    ("status", "{root}", "--diff", "{run}", "{other}"),
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
        self.run, self.intact = run_of(self.target, "hmc"), run_of(self.target, "mclmc")
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(10000)"])
        owner = lease.this_process() | {"pid": self.process.pid, "started": lease._started(self.process.pid)}
        build_outside(self.outside, self.run, self.target, owner)
        self.before = snapshot(self.outside)
        self.llc = json.loads((self.intact / "analysis.json").read_text())["llc_mean"]
        self._previous = signal.signal(signal.SIGALRM, self._alarmed)

    def close(self):
        signal.signal(signal.SIGALRM, self._previous)
        self.process.kill()
        self.process.wait()

    @staticmethod
    def _alarmed(*_):
        raise Hung

    def examine(self, seed):
        """What is wrong with how a mutated store is shown, a sentence each."""
        self.place.mkdir()
        try:
            signal.alarm(SECONDS)
            root, names = mutated(seed, self.base, self.place, self.outside)
            signal.alarm(0)
            return [f"seed {seed} {names} {each}" for each in self._examine(root)]
        finally:
            signal.alarm(0)
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
        if snapshot(self.outside) != self.before:
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


@pytest.fixture
def examiner(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")  # no SLURM is to hear of it
    examiner = Examiner(tmp_path / "runs", tmp_path)
    yield examiner
    examiner.close()


def _try(examiner, seeds):
    began, wrong = time.monotonic(), []
    for seed in seeds:
        wrong += examiner.examine(seed)
    print(f"{len(seeds)} stores, {len(VIEWS)} views of each: {len(wrong)} wrong, {time.monotonic() - began:.0f} s")
    assert not wrong, "\n".join(wrong[:20])


def test_any_store_is_shown_or_refused_in_a_sentence(examiner):
    _try(examiner, range(20))


@pytest.mark.soak
def test_thousands_of_stores_are_shown_or_refused_in_a_sentence(examiner):
    _try(examiner, range(20, 20 + STORES))
