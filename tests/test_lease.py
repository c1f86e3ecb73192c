"""Leases: who is taken for dead and is not stops, and two owners never write one journal.

Machines are suspended, and cut off from their file system: here a process is stopped by SIGSTOP, another, which sees it as on
another machine, takes over, and the first one goes on at a random moment. LAMBDA_HAT_STOPS says how many moments are tried (8,
with --soak).
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TINY
from test_cli import assert_same_analysis, assert_same_draws, run_of

from lambda_hat import store
from lambda_hat.inspect.scan import scan
from lambda_hat.store import lease as leases
from lambda_hat.store.journal import Journal
from lambda_hat.system.errors import Deposed, Stopped

STOPS = int(os.environ.get("LAMBDA_HAT_STOPS", "8"))

ELSEWHERE = """
import sys
from lambda_hat.store import lease
lease.BEAT, lease.DEAD_AFTER, machine = 0.05, 0.6, sys.argv.pop(1)
lease._machine = lambda: machine
"""
"""A process on a machine of its own, whose word is its heartbeat alone."""

COUNTING = (
    ELSEWHERE
    + """
import random, time
from functools import partial
from pathlib import Path
import numpy as np
from lambda_hat import store
from lambda_hat.store.journal import Journal
from lambda_hat.system.errors import UserError

TOTAL, SECONDS = 200, 0.8
root = Path(sys.argv[1])
final = root / "targets" / "tgt_x"

def work(journal):
    numbers, state = [], np.array(0)
    def compute(start):
        count = min(random.randint(1, 9), TOTAL - int(start))
        time.sleep(SECONDS * count / TOTAL)
        return {"x": np.arange(start, start + count)}, {"next": np.asarray(start + count)}
    while len(numbers) < TOTAL:
        result, carry = journal.passing("draws", partial(compute, state), follows=bool(numbers))
        numbers += result["x"].tolist()
        state = None if carry is None else carry["next"]
    return numbers

try:
    with lease.hold(root / "work" / "tgt_x", lambda: store.is_done(final), print) as held:
        if held is not None:
            with Journal(held.checkpoint, {}, 0, print, held.check) as journal, store.workspace(held.build) as hidden:
                numbers = journal.attempt(lambda: work(journal))
                store.write_json(hidden / "numbers.json", {"x": numbers})
                held.check()
                store.publish(hidden, final)
except UserError as error:
    sys.exit(str(error))
"""
)
"""Work of random pieces, each a step of the journal, that is published: as a run, but with nothing to compute."""


def started(directory, program, *argv):
    return subprocess.Popen(
        [sys.executable, "-c", program, *argv],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process, timeout=240):
    """Exit code and output of a process that has finished its work, or has said why it stops."""
    out, err = process.communicate(timeout=timeout)
    assert "Traceback" not in out + err, out + err
    if process.returncode:
        assert process.returncode == 1 and "has taken this work over" in out + err, (process.returncode, out, err)
        assert "the same command waits for the result" in out + err
    return process.returncode, out + err


def suspended(directory, program, argv, generator, seconds):
    """Start the work, stop its process somewhere, start it elsewhere, let the first go on; how many were deposed."""
    first = started(directory, program, "one", *argv)
    time.sleep(generator.uniform(0, seconds))
    first.send_signal(signal.SIGSTOP)
    second = started(directory, program, "two", *argv)
    time.sleep(generator.uniform(0, seconds + 1))
    first.send_signal(signal.SIGCONT)
    if generator.random() < 0.3:  # and the other way round
        second.send_signal(signal.SIGSTOP)
        time.sleep(generator.uniform(0, seconds))
        second.send_signal(signal.SIGCONT)
    deposed = sum(ended(process)[0] for process in (first, second))
    third = started(directory, program, "three", *argv)
    assert ended(third)[0] == 0  # whatever the two have left
    return deposed


def assert_counted(root):
    assert store.read_json(root / "targets" / "tgt_x" / "numbers.json") == {"x": list(range(200))}
    assert list((root / "work").iterdir()) == []


@pytest.mark.parametrize("seed", range(3))
def test_an_owner_that_was_taken_for_dead_stops(tmp_path, seed):
    (tmp_path / "targets").mkdir()
    suspended(tmp_path, COUNTING, [str(tmp_path)], random.Random(seed), 1.2)
    assert_counted(tmp_path)


@pytest.mark.soak
def test_owners_suspended_at_many_moments_never_spoil_the_work(tmp_path):
    generator, deposed = random.Random(0), 0
    for number in range(STOPS):
        root = tmp_path / str(number)
        (root / "targets").mkdir(parents=True)
        deposed += suspended(tmp_path, COUNTING, [str(root)], generator, 1.2)
        assert_counted(root)
    print(f"{STOPS} moments, {deposed} owners deposed")
    assert deposed > STOPS / 10


@pytest.mark.soak
def test_runs_suspended_at_many_moments_end_as_undisturbed(tmp_path, cache):
    """The command itself, with training before it, and a checkpoint after every step."""
    program = ELSEWHERE + "from lambda_hat.commands import main\nmain.main('run')\n"
    tiny = [word for word in TINY if not word.startswith("sampler.draws")]
    options = [*tiny, "sampler=hmc", "sampler.draws=400", "runtime.checkpoint_minutes=0", cache]
    reference = tmp_path / "reference"
    reference.mkdir()
    began = time.monotonic()
    assert ended(started(reference, program, "zero", *options))[0] == 0
    seconds = time.monotonic() - began
    (theirs,) = (reference / "runs" / "targets").glob("tgt_*")
    generator, deposed = random.Random(0), 0
    for number in range(STOPS):
        directory = tmp_path / str(number)
        directory.mkdir()
        deposed += suspended(directory, program, options, generator, seconds)
        (ours,) = (directory / "runs" / "targets").glob("tgt_*")
        assert_same_draws(run_of(ours, "hmc"), run_of(theirs, "hmc"))
        assert_same_analysis(run_of(ours, "hmc"), run_of(theirs, "hmc"))
        assert list((directory / "runs" / "work").iterdir()) == []
        assert not list((directory / "runs").glob("failures/*"))
        shutil.rmtree(directory)
    print(f"{STOPS} moments, {deposed} owners deposed")


# --- what a lease is made of ------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch):
    """Every owner is on another machine and was silent for long."""
    monkeypatch.setattr(leases, "is_alive", lambda owner: None)
    monkeypatch.setattr(leases, "DEAD_AFTER", 0.0)
    monkeypatch.setattr(leases, "PATIENCE", 0.1)


def held(directory):
    return leases.hold(directory, lambda: False, lambda line: None)


def steps(journal, count):
    for i in range(count):
        journal.step(f"step {i}", lambda i=i: {"x": i})


def test_who_takes_over_has_the_journal_and_who_had_it_writes_no_more(tmp_path, elsewhere):
    directory = tmp_path / "work" / "tgt_x"
    with pytest.raises(Deposed, match="has taken this work over"), held(directory) as first:
        journal = Journal(first.checkpoint, {}, 0, check=first.check)
        steps(journal, 3)
        with held(directory) as second:
            assert not first.is_held() and second.is_held()
            theirs = Journal(second.checkpoint, {}, 0, check=second.check)
            steps(theirs, 4)
            before = {path: path.read_bytes() for path in directory.rglob("*.npz")}
            with pytest.raises(Deposed):
                journal.step("another", lambda: {"x": 9})
            with pytest.raises(Deposed):
                first._is_deposed = True  # as its next heartbeat finds
                first.report(phase="sample")
            assert {path: path.read_bytes() for path in directory.rglob("*.npz")} == before
            assert len(before) == 4 and {path.parent for path in before} == {second.checkpoint}
        raise OSError("could not be written")  # for whatever reason: this one is why
    assert not directory.exists()


def test_what_was_stopped_keeps_its_settings(tmp_path):
    name = f"tgt_{'0' * 12}.run_hmc_{'0' * 8}"
    directory = tmp_path / "work" / name
    with pytest.raises(Stopped), leases.hold(directory, lambda: False, lambda line: None, "a.log") as lease:
        lease.report(settings={"posterior": {"beta": 0.5}})
        steps(Journal(lease.checkpoint, {}, 0), 2)
        raise Stopped(15)
    (record,) = scan(tmp_path)
    assert record.state == "stale" and record.settings["posterior.beta"] == 0.5
    assert record.attempt.log == "a.log" and "the same command resumes from its checkpoint" in record.notes[0]
    with held(directory) as lease:
        assert [path.name for path in (directory / "checkpoint").iterdir()] == [lease.checkpoint.name]


def test_what_was_stopped_before_a_checkpoint_leaves_nothing(tmp_path):
    with pytest.raises(Stopped), held(tmp_path / "work" / "tgt_x") as lease:
        lease.report(settings={})
        raise Stopped(15)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_heartbeat_of_a_deposed_owner_does_not_hide_the_next_ones(tmp_path, elsewhere):
    directory = tmp_path / "work" / "tgt_x"
    with held(directory) as first, held(directory) as second:
        second.report(phase="sample", now=True)
        first.report(phase="adapt")
        first._beat()
        assert store.read_note(directory / "progress.json")["phase"] == "sample"
        with pytest.raises(Deposed):
            first.report(phase="adapt")


def test_a_lease_that_is_not_there_for_a_moment_is_held_all_the_same(tmp_path, monkeypatch):
    directory = tmp_path / "work" / "tgt_x"
    with held(directory) as lease:
        (directory / "owner.json").rename(directory / "aside")
        monkeypatch.setattr(
            leases.time, "sleep", lambda seconds: (directory / "aside").rename(directory / "owner.json")
        )
        lease.check()


def test_a_root_that_is_gone_is_another_error(tmp_path):
    with pytest.raises(FileNotFoundError), held(tmp_path / "work" / "tgt_x") as lease:
        (tmp_path / "work").rename(tmp_path / "elsewhere")
        lease.check()


@pytest.mark.parametrize("kind", ["file", "link out", "pipe"])
def test_a_checkpoint_that_is_no_directory_is_set_aside(tmp_path, kind):
    directory, outside = tmp_path / "work" / "tgt_x", tmp_path / "outside"
    directory.mkdir(parents=True)
    (outside / "token").mkdir(parents=True)
    (outside / "token" / "kept").write_text("theirs")
    place = directory / "checkpoint"
    {"file": place.touch, "link out": lambda: place.symlink_to(outside), "pipe": lambda: os.mkfifo(place)}[kind]()
    with held(directory) as lease:
        steps(Journal(lease.checkpoint, {}, 0, check=lease.check), 2)
        assert lease.checkpoint.is_dir() and not place.is_symlink()
    assert (outside / "token" / "kept").read_text() == "theirs"
    assert [path.name for path in outside.iterdir()] == ["token"]


def test_the_fullest_checkpoint_is_resumed_from(tmp_path):
    for token, count in (("aaa", 2), ("bbb", 4), ("ccc", 1)):
        steps(Journal(tmp_path / "checkpoint" / token, {}, 0), count)
    said = []
    with held(tmp_path) as lease:
        steps(Journal(lease.checkpoint, {}, 0, said.append), 4)
        assert said == ["going on from a checkpoint of 4 steps"]
        assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == [lease.checkpoint.name]
        assert json.loads((tmp_path / "owner.json").read_text())["token"] == lease.checkpoint.name
