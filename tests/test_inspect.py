"""What is under a root, as status and results tell it: every state, every filter, no number that is not in a whole file."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from benchmarks.inspecting import copy
from conftest import ROOT, TINY
from test_cli import files, run_of

import lambda_hat
from lambda_hat import store
from lambda_hat.commands import console
from lambda_hat.inspect import formats, maintenance, records
from lambda_hat.inspect.scan import scan
from lambda_hat.store import lease as leases
from lambda_hat.system.errors import StoreError

GONE = {"host": "here", "machine": leases._machine(), "pid": 1, "started": -1}
"""An owner on this machine that is dead."""

ELSEWHERE = {"host": "node7", "machine": "another", "pid": 4242, "started": 1}


def begun(root, name, **parts):
    """A work directory as a run under way leaves it: the given files, by name without .json."""
    directory = root / "work" / name
    directory.mkdir(parents=True)
    for part, values in parts.items():
        store.write_note(directory / f"{part}.json", values)
    return directory


@pytest.fixture
def unfinished(tiny, tmp_path):
    """Beside the two runs of the tiny store: one running, one failed, one stale, each named by `names`."""
    root = tmp_path / "runs"
    names = {
        state: f"{tiny.name}.run_hmc_{digit * 8}"
        for digit, state in zip("abc", ("running", "failed", "stale"), strict=True)
    }
    progress = {
        "beat": 3,
        "phase": "sample",
        "draw": 250,
        "draws": 1000,
        "llc": 1.25,
        "mcse": 0.03,
        "ess": 300.2,
        "rhat": 1.004,
    }
    begun(root, names["running"], owner=leases.this_process() | {"token": "t", "slurm_job": None}, progress=progress)
    begun(root, names["stale"], owner=GONE | {"token": "t"})
    checkpoint = root / "work" / names["stale"] / "checkpoint" / "t"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.npz").write_bytes(b"x" * 5000)
    (root / "failures").mkdir()
    record = {
        "error": "no luck\nat all",
        "kind": "UserError",
        "log": "runs/logs/a/0/log.txt",
        "command": ["bin/sample.py", "-m", "seed=1,2"],
    }
    store.write_note(root / "failures" / f"{names['failed']}.json", record)
    return names


def by_name(root):
    return {row.name: row for row in scan(root)}


# --- states -----------------------------------------------------------------------------------------------------------


def test_every_state_is_told_from_the_files(unfinished, tiny, tmp_path):
    rows = by_name(tmp_path / "runs")
    assert {rows[name].state: name for name in unfinished.values()} == unfinished
    done = [row for row in rows.values() if row.state == "done"]
    assert {row.sampler for row in done} == {"hmc", "mclmc"} and len(rows) == 5
    for row in done:
        analysis = store.read_json(row.directory / "analysis.json")
        assert (row.summary.llc_mean, row.verdict) == (analysis["llc_mean"], analysis["status"])
        assert row.settings["model.dim"] == 2 and row.settings["sampler.draws"] == 8
    assert "sample 250/1000 draws (25 %)" in rows[unfinished["running"]].notes[0]
    assert rows[unfinished["failed"]].notes == [
        "UserError: no luck; log: runs/logs/a/0/log.txt; to retry: python bin/sample.py -m seed=1,2"
    ]
    assert "resumes from its checkpoint" in rows[unfinished["stale"]].notes[0]
    assert all(rows[name].settings["model.dim"] == 2 for name in unfinished.values())


def test_what_is_published_is_done_whatever_else_is_there(unfinished, tiny, tmp_path):
    (tmp_path / "runs" / "failures" / f"{tiny.name}.{run_of(tiny, 'hmc').name}.json").write_text('{"error": "old"}')
    begun(tmp_path / "runs", f"{tiny.name}.{run_of(tiny, 'mclmc').name}", owner=GONE)
    begun(tmp_path / "runs", tiny.name, owner=GONE)
    states = [row.state for row in scan(tmp_path / "runs") if row.name not in unfinished.values()]
    assert states == ["done", "done"]


@pytest.mark.parametrize(
    ("age", "queued", "state"),
    [(5, "", "running"), (500, "", "stale"), (500, "77_3|RUNNING", "running"), (500, "78|RUNNING", "stale")],
)
def test_an_owner_elsewhere_lives_while_its_heart_beats_or_slurm_says_so(
    tiny, tmp_path, monkeypatch, age, queued, state
):
    directory = begun(
        tmp_path / "runs",
        f"{tiny.name}.run_hmc_aaaaaaaa",
        owner=ELSEWHERE | {"slurm_job": "77_3"},
        submitted={"slurm_job": "77_3"},
        progress={"beat": 1},
    )
    os.utime(directory / "progress.json", (time.time() - age,) * 2)
    fake_squeue(tmp_path, monkeypatch, queued)
    (row,) = (row for row in scan(tmp_path / "runs") if row.run_id == "run_hmc_aaaaaaaa")
    assert row.state == state


def fake_squeue(tmp_path, monkeypatch, says, code=0, err=""):
    """A squeue that answers so and counts how often it is asked."""
    path = tmp_path / "bin" / "squeue"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\necho \"$@\" >> {tmp_path}/asked\necho '{says}'\necho '{err}' >&2\nexit {code}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def test_slurm_is_asked_once_for_all_jobs(tiny, tmp_path, monkeypatch):
    fake_squeue(tmp_path, monkeypatch, "9_1|PENDING\n9_2|RUNNING")
    for number in range(1, 4):
        begun(tmp_path / "runs", f"{tiny.name}.run_hmc_{str(number) * 8}", submitted={"slurm_job": f"9_{number}"})
    rows = {row.run_id: row for row in scan(tmp_path / "runs") if row.state != "done"}
    assert [rows[f"run_hmc_{digit * 8}"].state for digit in "123"] == ["queued", "running", "stale"]
    assert rows["run_hmc_11111111"].notes == ["SLURM job 9_1: pending"]
    assert "SLURM job 9_3 is gone" in rows["run_hmc_33333333"].notes[0]
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    assert "-j 9 " in asked


def test_a_run_whose_target_failed_is_told_from_one_that_begins_anew(tiny, tmp_path, monkeypatch):
    fake_squeue(tmp_path, monkeypatch, "9_2|PENDING|Dependency\n9_3|COMPLETING|None\n9_4|CANCELLED|None")
    targets = ["tgt_bbbbbbbbbbbb", *3 * [tiny.name]]
    for number, target in enumerate(targets, 1):
        begun(tmp_path / "runs", f"{target}.run_hmc_{str(number) * 8}", submitted={"slurm_job": f"9_{number}"})
    record = {"error": "not finite", "kind": "BrokeDown", "log": "a.out", "command": ["build_target.py", "seed=1"]}
    (tmp_path / "runs" / "failures").mkdir(exist_ok=True)
    (tmp_path / "runs" / "failures" / "tgt_bbbbbbbbbbbb.json").write_text(json.dumps(record))
    rows = [row for row in scan(tmp_path / "runs") if row.run_id and row.state != "done"]
    found = {row.run_id[-1]: (row.state, row.notes[0]) for row in rows}
    assert found["1"] == (
        "failed",
        "not started: its target failed: BrokeDown: not finite; log: a.out; to retry: python build_target.py seed=1",
    )
    assert found["2"] == ("queued", "SLURM job 9_2: pending (Dependency)")
    assert found["3"] == ("running", "SLURM job 9_3: completing")
    assert found["4"][0] == "stale" and "SLURM job 9_4 was cancelled" in found["4"][1]


@pytest.mark.parametrize(("failed_in", "later", "shown"), [("8", 1, "stale"), ("8", -1, "failed"), ("9", 1, "failed")])
def test_a_failure_before_the_submission_does_not_hide_how_its_job_ended(
    tiny, tmp_path, monkeypatch, failed_in, later, shown
):
    fake_squeue(tmp_path, monkeypatch, "9|CANCELLED|None")
    name = f"{tiny.name}.run_hmc_aaaaaaaa"
    failure = tmp_path / "runs" / "failures" / f"{name}.json"
    failure.parent.mkdir(exist_ok=True)
    failure.write_text(json.dumps({"error": "no memory", "kind": "BrokeDown", "slurm_job": failed_in}))
    directory = begun(tmp_path / "runs", name, submitted={"slurm_job": "9"})
    os.utime(directory / "submitted.json", (time.time() + 5 * later,) * 2)
    (row,) = (row for row in scan(tmp_path / "runs") if row.run_id == "run_hmc_aaaaaaaa")
    assert row.state == shown
    assert ("SLURM job 9 was cancelled" if shown == "stale" else "no memory") in row.notes[0]


@pytest.mark.parametrize(
    ("code", "err", "state"),
    [(1, "slurm_load_jobs error: Invalid job id specified", "stale"), (1, "Unable to contact slurm", "queued")],
)
def test_a_squeue_that_knows_no_such_job_is_told_from_one_that_does_not_answer(
    tiny, tmp_path, monkeypatch, code, err, state
):
    fake_squeue(tmp_path, monkeypatch, "", code, err)
    begun(tmp_path / "runs", f"{tiny.name}.run_hmc_aaaaaaaa", submitted={"slurm_job": "9"})
    (row,) = (row for row in scan(tmp_path / "runs") if row.run_id == "run_hmc_aaaaaaaa")
    assert row.state == state


def _edit(path):
    path.write_text(path.read_text().replace('"llc_mean": ', '"llc_mean": 1'))


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("damage", [_edit, _truncate, lambda path: path.unlink(), lambda path: path.write_text("[]")])
def test_a_damaged_result_is_shown_as_damaged_and_without_a_number(tiny, tool, tmp_path, damage):
    path = run_of(tiny, "hmc") / "analysis.json"
    value = json.loads(path.read_text())["llc_mean"]
    damage(path)
    (row,) = (row for row in scan(tmp_path / "runs") if row.sampler == "hmc")
    assert row.state == "damaged" and row.summary is None and "analysis.json" in row.notes[0]
    for name in ("status", "results"):
        outcome = tool(name)
        assert "damaged" in outcome.out and f"{value:.3f}" not in outcome.out
    assert lambda_hat.load_results(tmp_path / "runs", sampler="hmc")["llc_mean"].isna().all()


def test_a_run_under_another_name_is_damaged(tiny, tmp_path):
    run_of(tiny, "hmc").rename(tiny / "run_hmc_00000000")
    (row,) = (row for row in scan(tmp_path / "runs") if row.sampler == "hmc")
    assert row.state == "damaged" and "was renamed" in row.notes[0]


def test_what_is_moved_away_while_one_looks_is_not_there(tiny, tmp_path, monkeypatch):
    run, read = run_of(tiny, "hmc"), records.read_content

    def removing(directory, name):
        if name == "analysis.json" and run.exists():
            shutil.rmtree(run)
        return read(directory, name)

    monkeypatch.setattr("lambda_hat.inspect.scan.read_content", removing)
    assert [(row.sampler, row.state) for row in scan(tmp_path / "runs")] == [("mclmc", "done")]


def test_a_damaged_target_is_named_beside_its_runs(tiny, tmp_path):
    _truncate(tiny / "meta.json")
    states = (
        ["run" if row.run_id else "target" for row in scan(tmp_path / "runs")],
        [row.state for row in scan(tmp_path / "runs")],
    )
    assert states == (["target", "run", "run"], ["damaged", "done", "done"])
    assert all("its target is damaged" in row.notes for row in scan(tmp_path / "runs") if row.run_id)


# --- the table --------------------------------------------------------------------------------------------------------


def test_status_tells_shared_settings_once_and_what_differs_by_row(unfinished, tiny, tool):
    copy(run_of(tiny, "hmc"), 7)
    outcome = tool("status")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].startswith("runs: 3 done (") and "1 running, 1 failed, 1 stale" in lines[0]
    assert outcome.out.count("n_data=60") == 1 and outcome.out.count("warmup=2") == 1
    header = next(line for line in lines if line.startswith("status"))
    assert "sampler.seed" in header and "sampler.draws" not in header
    (running,) = (line for line in lines if line.startswith("running"))
    assert "1.250 ± 0.030" in running and "300" in running and "25 %" in running
    analysis = store.read_json(run_of(tiny, "mclmc") / "analysis.json")
    (mclmc,) = (line for line in lines if " mclmc " in line and "run_mclmc_" in line)
    assert formats.estimate(analysis["llc_mean"], analysis["llc_mcse"]) in mclmc
    assert analysis["status_reasons"][0] in mclmc and mclmc.startswith(analysis["status"])
    assert not any("\x1b" in line or "─" in line for line in lines)


def test_json_has_what_the_table_has(unfinished, tool):
    found = json.loads(tool("status", "--json").out)
    assert [row["status"] for row in found].count("done") == 2
    (running,) = (row for row in found if row["status"] == "running")
    assert (running["work"]["draw"], running["work"]["llc"]) == (250, 1.25)
    assert all(row["llc_interval95"][0] < row["llc_mean"] for row in found if row["status"] == "done")


FILTERS = [
    ("sampler=hmc", 4),
    ("sampler=mclmc", 1),
    ("status=done", 2),
    ("status=running,failed", 2),
    ("status=ok,warn,bad", 2),
    ("n_data=60", 5),
    ("data.n_data=61", 0),
    ("model.dim=2.0", 5),
    ("run=run_mclmc", 1),
    ("model=quadratic", 5),
    ("sampler.save_params=false", 2),
    ("sampler.metric=identity", 2),
]


@pytest.mark.parametrize(("given", "count"), FILTERS)
def test_filters_take_settings_and_states(unfinished, tool, given, count):
    assert len(json.loads(tool("status", given, "--json").out)) == count


def test_filters_are_all_to_be_met_and_a_target_may_be_named_by_its_beginning(unfinished, tiny, tool):
    found = json.loads(tool("status", f"target={tiny.name[:9]}", "status=done", "sampler=hmc", "--json").out)
    assert [row["run_id"] for row in found] == [run_of(tiny, "hmc").name]


REFUSED = [
    (("status", "sampler.drows=3"), "sampler.drows: no run here has such a setting"),
    (("status", "seeds=3"), "Did you mean"),
    (("status", "dtype=float32"), "dtype may mean sampler.dtype or training.dtype"),
    (("status", "status=finished"), "status=finished: there is no such status"),
    (("status", "nowhere"), "nowhere: there is no such directory"),
    (("status", "a", "b"), "a and b: one root at a time"),
    (("status", "--explain", "run_x"), "run_x: there is no such target or run"),
    (("status", "-m", "modl=small"), "modl: there is no such setting"),
    (("status", "-m", "model.depth=-1"), "model.depth must be ≥ 1"),
    (("results", "groupby=smapler"), "Did you mean sampler?"),
    (("results", "-o", "x.xls"), "ends in .csv, .json, .parquet; got .xls"),
    (("results", "-o", "/dev/null/x.csv"), "cannot be written"),
    (("store", "rm"), "rm needs a filter"),
    (("store", "reindex", "sampler=hmc"), "reindex takes no filter"),
    (("store", "restore", "runs"), "give a directory of <root>/trash/"),
    (("promote", "single", "--to", "runs", "--allow-bad"), "runs is there, and was not made by lambda-hat-promote"),
    (
        ("promote", "single", "--to", "x", "--figure", "nope", "--allow-bad"),
        "nope: none of these runs has such a figure",
    ),
    (("promote", "single", "--to", "x", "sampler=sgld"), "nothing to promote"),
    (("report", "sampler=sgld"), "nothing to report"),
]


@pytest.mark.parametrize(("argv", "sentence"), REFUSED)
def test_a_wrong_command_line_ends_in_one_sentence_and_changes_nothing(tiny, tool, tmp_path, argv, sentence):
    before = files(tmp_path)
    outcome = tool(*argv)
    assert outcome.code == 1 and sentence in outcome.err
    assert outcome.out == "" and outcome.err.count("\n") == 1 and outcome.err[-2] in ".?"
    assert files(tmp_path) == before


ROOTS = ["./a=b", "{tmp_path}/a=b", "--root=a=b", "root=a=b", "store.root=a=b", "~/a=b", "root=~/a=b", "a b/ü"]
"""Ways to name a root, relative to a directory that is HOME as well."""


@pytest.mark.parametrize("given", ROOTS)
def test_a_root_may_have_any_name(tiny, tool, tmp_path, monkeypatch, given):
    root = tmp_path / ("a b/ü" if "ü" in given else "a=b")
    root.parent.mkdir(exist_ok=True)
    (tmp_path / "runs").rename(root)
    monkeypatch.setenv("HOME", str(tmp_path))
    word = given.format(tmp_path=tmp_path)
    for argv in (
        ("status", word),
        ("results", word, "--csv"),
        ("store", "verify", word),
        ("report", word, "-o", "r.html"),
        ("promote", "single", word, "--to", "~/p=q", "--allow-bad"),
        ("accuracy", word, "--json"),
    ):
        outcome = tool(*argv)
        assert outcome.code == 0 and outcome.out, (argv, outcome)
    assert (tmp_path / "p=q" / "hmc.png").is_file() and not (tmp_path / "~").exists()


def test_a_root_that_reads_like_a_filter_is_asked_about(tiny, tool, tmp_path):
    (tmp_path / "runs").rename(tmp_path / "a=b")
    outcome = tool("store", "rm", "a=b")
    assert (
        outcome.code == 1
        and outcome.err == "a=b is a directory and reads like a filter: write ./a=b for the directory.\n"
    )


EMPTY = [
    ("store", "rm", "target="),
    ("store", "rm", "target=tgt_", "--targets"),
    ("store", "rm", "run=run_"),
    ("store", "rm", "status=bad,"),
    ("store", "rm", "sampler= "),
    ("store", "rm", "--root="),
    ("store", "verify", "run="),
    ("status", "--prune", "--yes", "status="),
    ("status", "--cancel", "--yes", "sampler="),
    ("status", "--log", ""),
    ("status", "--explain", " "),
    ("results", "groupby="),
    ("results", "groupby=sampler,"),
    ("report", "target="),
    ("promote", "single", "sampler=", "--to", "x"),
    ("promote", "single", "--to", ""),
]


@pytest.mark.parametrize("argv", EMPTY)
def test_an_empty_value_fits_nothing_and_is_refused(unfinished, tiny, tool, tmp_path, argv):
    """As an empty variable of the shell gives."""
    before = files(tmp_path)
    outcome = tool(*argv)
    assert outcome.code == 1 and outcome.out == "" and outcome.err.count("\n") == 1
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "argv", [("status", "--nope"), ("store",), ("store", "burn"), ("promote", "single"), ("status", "--diff", "a")]
)
def test_what_argparse_refuses_exits_with_2(tiny, tool, argv):
    assert tool(*argv).code == 2


COMPLETED = [
    ("status", "targ", {"target=", "target_seed="}),
    ("status", "sampler=", {"sampler=hmc", "sampler=mclmc"}),
    ("status", "status=d", {"status=done", "status=damaged"}),
    ("results", "sampler.dr", {"sampler.draws="}),
    ("results", "data.n_data=", {"data.n_data=60"}),
    ("status", "--pr", {"--prune"}),
    ("store", "re", {"reindex", "restore"}),
    ("promote", "g", {"gallery"}),
    ("status", "nothing=", set()),
]


@pytest.mark.parametrize(("name", "word", "choices"), COMPLETED)
def test_tab_completes_options_filters_and_their_values(tiny, tool, monkeypatch, name, word, choices):
    """As Hydra's hook in the shell asks."""
    line = f"python bin/{name}.py {word}"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    outcome = tool(name, "-sc", "query=bash")
    assert outcome.code == 0 and set(outcome.out.split()) == choices


@pytest.mark.parametrize("name", ["status", "results", "report", "plot", "store", "promote"])
def test_help_and_an_empty_root(tool, tmp_path, name):
    outcome = tool(name, "--help")
    assert outcome.code == 0 and f"bin/{name}.py" in outcome.out
    (tmp_path / "runs").mkdir()
    action = {"store": ["du"], "promote": ["single", "--to", "x"]}.get(name, [])
    assert tool(name, *action).code == (1 if name in ("report", "plot", "promote") else 0)


def test_a_sweep_shows_what_is_missing(tiny, tool):
    words = ("-m", *TINY, "sampler=hmc,mclmc,sgld", "sampler.seed=0,1")
    found = json.loads(tool("status", "--json", *words).out)
    states = {(row["settings"]["sampler.name"], row["settings"]["sampler.seed"]): row["status"] for row in found}
    done = {("hmc", 0), ("mclmc", 0)}
    assert states == {(s, i): "done" if (s, i) in done else "missing" for s in ("hmc", "mclmc", "sgld") for i in (0, 1)}
    outcome = tool("status", "status=missing", *words)
    assert outcome.out.startswith("runs: 4 missing") and outcome.out.count("not begun") == 4
    assert not os.path.exists("outputs") and not os.path.exists("multirun")


def test_a_sweep_of_an_experiment_has_the_experiments_combinations(tool):
    found = json.loads(tool("status", "--json", "-m", "experiment=truth_smoke").out)
    assert len(found) == 9 and {row["status"] for row in found} == {"missing"}


def test_status_imports_nothing_heavy(tiny, tmp_path):
    argv = [sys.executable, "-X", "importtime", str(ROOT / "bin" / "status.py")]
    outcome = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in outcome.stderr.splitlines()}
    assert "lambda_hat.inspect.scan" in imported
    assert not imported & {"jax", "numpy", "pandas", "xarray", "hydra", "omegaconf", "matplotlib", "rich"}


def test_a_reader_that_has_seen_enough_is_no_error(tiny, tmp_path):
    run = run_of(tiny, "hmc")
    for number in range(60):
        copy(run, 100 + number)
    program = f"{sys.executable} {ROOT}/bin/results.py --csv | head -1; echo ${{PIPESTATUS[0]}}"
    outcome = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert outcome.stderr == "" and outcome.stdout.splitlines()[-1] == "0"


def test_a_terminal_gets_a_drawn_table(tiny, tmp_path):
    import pty

    leader, follower = pty.openpty()
    env = {**os.environ, "COLUMNS": "200", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, ROOT / "bin" / "status.py"], cwd=tmp_path, stdout=follower, env=env)
    os.close(follower)
    text = b""
    while chunk := _read(leader):
        text += chunk
    assert process.wait(timeout=60) == 0
    assert "─" in text.decode() and "\x1b[" in text.decode() and run_of(tiny, "mclmc").name in text.decode()


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


# --- one directory, two directories -----------------------------------------------------------------------------------


def test_explain_shows_the_payload_that_gives_the_name(tiny, tool):
    run = run_of(tiny, "hmc")
    found = json.loads(tool("status", "--explain", f"{tiny.name}/{run.name}", "--json").out)
    groups = {"sampler": {}, "posterior": {}}
    for key, value in found["hashed"].items():
        group, _, name = key.partition(".")
        if name:
            groups[group][name] = value
    assert f"run_hmc_{store.digest('run', groups.values())}" == run.name
    assert "sampler.thin" not in found["null"] and "posterior.beta" in found["null"]
    text = tool("status", "--explain", run).out
    assert "sampler.draws                    8" in text and "sha1" in text and "provenance.log" in text


def test_diff_says_why_two_runs_differ(tiny, tool):
    run = run_of(tiny, "hmc")
    other = copy(run, 5)
    found = json.loads(tool("status", "--diff", run, other, "--json").out)
    assert found["hashed"] == {"sampler.seed": [0, 5]}
    assert "hashed: no difference" in tool("status", "--diff", other, other).out.replace(
        "not hashed: no difference", "", 1
    )


def test_an_edited_run_is_not_explained(tiny, tool):
    path = run_of(tiny, "hmc") / "config.yaml"
    path.write_text(path.read_text().replace("draws: 8", "draws: 9"))
    outcome = tool("status", "--explain", run_of(tiny, "hmc"))
    assert outcome.code == 1 and "was edited" in outcome.err


def test_the_log_of_a_run_is_found_even_where_the_store_was_moved(tiny, tool, tmp_path):
    outcome = tool("status", "--log", run_of(tiny, "hmc"))
    assert outcome.code == 0 and "hmc: tuned" in outcome.out
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    assert (
        "hmc: tuned"
        in tool(
            "status", "moved", "--log", f"{tiny.name}/{run_of(tmp_path / 'moved' / 'targets' / tiny.name, 'hmc').name}"
        ).out
    )


def test_the_log_of_failed_work_is_found(unfinished, tool, tmp_path):
    log = tmp_path / "runs" / "logs" / "a" / "0" / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("what went wrong\n")
    assert tool("status", "--log", unfinished["failed"]).out.endswith("what went wrong\n")


# --- stopping, sweeping up --------------------------------------------------------------------------------------------


def test_prune_shows_and_removes_leftovers_and_never_a_result(unfinished, tool, tmp_path):
    root = tmp_path / "runs"
    (root / "replaced" / "tgt_old").mkdir(parents=True)
    before = files(tmp_path)
    shown = tool("status", "--prune")
    assert "would remove 3 of these" in shown.out and "add --yes" in shown.out and files(tmp_path) == before
    assert unfinished["running"] not in shown.out
    removed = tool("status", "--prune", "--yes")
    assert "removed 3 of these" in removed.out
    gone = {name for name in before if name not in files(tmp_path)}
    assert gone and all(name.startswith(("runs/work/", "runs/failures/")) for name in gone)
    assert not any(unfinished["running"] in name for name in gone) and not list((root / "replaced").iterdir())
    assert "nothing to remove" in tool("status", "--prune", "--yes").out


def test_prune_leaves_what_has_been_taken_up_since_it_looked(unfinished, tool, tmp_path, monkeypatch):
    monkeypatch.setattr(maintenance, "is_running", lambda root, name: name == unfinished["stale"])
    outcome = tool("status", "--prune", "--yes")
    assert "it is in progress again" in outcome.out and "removed 1 of these" in outcome.out
    assert (tmp_path / "runs" / "work" / unfinished["stale"] / "checkpoint").is_dir()


def test_prune_with_a_filter_takes_only_what_fits(unfinished, tool, tmp_path):
    (tmp_path / "runs" / "replaced" / "tgt_old").mkdir(parents=True)
    assert "removed 1 of these" in tool("status", "status=failed", "--prune", "--yes").out
    assert (tmp_path / "runs" / "work" / unfinished["stale"]).is_dir() and (
        tmp_path / "runs" / "replaced" / "tgt_old"
    ).is_dir()


def test_cancel_stops_slurm_jobs_and_processes_and_only_with_yes(tiny, tool, tmp_path, monkeypatch):
    fake_squeue(tmp_path, monkeypatch, "9_1|PENDING")
    scancel = tmp_path / "bin" / "scancel"
    scancel.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/cancelled\n')
    scancel.chmod(0o755)
    begun(tmp_path / "runs", f"{tiny.name}.run_hmc_11111111", submitted={"slurm_job": "9_1"})
    (tmp_path / "sample.py").write_text("import time; time.sleep(60)")
    process = subprocess.Popen([sys.executable, tmp_path / "sample.py", "seed=1"])
    owner = {"host": "here", "machine": leases._machine(), "pid": process.pid, "started": leases._started(process.pid)}
    begun(
        tmp_path / "runs",
        f"{tiny.name}.run_hmc_22222222",
        owner=owner | {"command": [str(tmp_path / "sample.py"), "seed=1"], "slurm_job": "8"},
    )
    begun(tmp_path / "runs", f"{tiny.name}.run_hmc_33333333", owner=ELSEWHERE, progress={"beat": 1})
    try:
        shown = tool("status", "--cancel")
        assert "would stop SLURM job 9_1" in shown.out and f"would stop process {process.pid}" in shown.out
        assert process.poll() is None and not (tmp_path / "cancelled").exists()
        done = tool("status", "--cancel", "--yes")
        assert done.code == 1 and "stop process 4242 there" in done.out  # which only somebody there can
        assert process.wait(timeout=20) == -signal.SIGTERM
        assert (tmp_path / "cancelled").read_text() == "9_1\n"
    finally:
        process.kill()


def test_a_run_is_seen_while_it_works_and_can_be_stopped(tmp_path, start, finish, tool):
    """A real one, whose chunks of draws take a second or so."""
    options = (
        "model=quadratic",
        "model.dim=50",
        "data.n_data=60",
        "sampler=mclmc",
        "sampler.mcse_target=null",
        "runtime.figures=false",
    )
    process = start(tmp_path, "sample", *options, "sampler.draws=100000", "sampler.warmup=20")
    try:
        (tmp_path / "runs").mkdir(exist_ok=True)
        deadline, seen = time.monotonic() + 300, None
        while time.monotonic() < deadline and not seen:
            time.sleep(0.2)
            for row in json.loads(tool("status", "--json").out):
                if row["run_id"] and (row["work"] or {}).get("draw"):
                    seen = row
        assert seen, "the run reported no draw within five minutes"
        assert seen["status"] == "running" and seen["work"]["llc"] > 0 and seen["work"]["draws"] == 100000
        assert seen["settings"]["model.dim"] == 50 and seen["settings"]["sampler.warmup"] == 20
        assert tool("status", "status=running", "--cancel", "--yes").code == 0
        outcome = finish(process)
        assert outcome.code == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert not [row for row in scan(tmp_path / "runs") if row.state == "running"]


def test_a_failure_of_a_real_command_says_what_to_type_again(script, tool):
    outcome = script(
        "build_target",
        "data.n_data=60",
        "training=sgd",
        "training.learning_rate=100",
        "training.steps=20",
        "runtime.devices=1",
    )
    assert outcome.code == 1
    (row,) = json.loads(tool("status", "--json").out)
    assert row["status"] == "failed" and row["settings"]["training.learning_rate"] == 100
    assert "training.learning_rate=100" in row["notes"][0] and "to retry: python" in row["notes"][0]
    assert (
        "Traceback" in tool("status", "--log", row["target_id"]).out
        or "failed" in tool("status", "--log", row["target_id"]).out
    )


# --- results ----------------------------------------------------------------------------------------------------------

ASKED = "target_id model n_data target_params L0 seed sampler llc_mean llc_std ess rhat walltime_sec".split()


def test_load_gives_a_tidy_frame(tiny, unfinished, tmp_path):
    copy(run_of(tiny, "hmc"), 3)
    frame = lambda_hat.load_results(tmp_path / "runs")
    assert set(ASKED) <= set(frame.columns) and len(frame) == 6 and frame["llc_mean"].dtype == float
    done = frame[frame["llc_mean"].notna()].set_index("run_id")
    assert len(done) == 3
    for run_id, line in done.iterrows():
        analysis = store.read_json(tiny / run_id / "analysis.json")
        assert line["llc_mean"] == analysis["llc_mean"] and line["llc_high95"] == analysis["llc_interval95"][1]
        assert line["status"] == analysis["status"] and line["truth"] == analysis["truth"]["lambda"] == 1.0
        assert line["target_params"] == 2 and line["n_data"] == 60
    assert sorted(frame["status"].replace(["ok", "warn", "bad"], "done")) == ["done"] * 3 + [
        "failed",
        "running",
        "stale",
    ]
    assert sorted(done["sampler_seed"]) == [0, 0, 3]
    assert len(lambda_hat.load_results(tmp_path / "runs", sampler=["hmc"], status=["ok", "warn", "bad"])) == 2
    assert len(lambda_hat.load_results(tmp_path / "runs", n_data=61)) == 0
    with pytest.raises(StoreError, match="no run here has such a setting"):
        lambda_hat.load_results(tmp_path / "runs", nonsense=1)


def test_every_setting_that_varies_has_a_column(tiny, script, tmp_path):
    assert script("sample", *TINY[:3], "sampler.draws=9", *TINY[4:], "sampler=hmc", "posterior.gamma=50").code == 0
    frame = lambda_hat.load_results(tmp_path / "runs", sampler="hmc")
    assert sorted(frame["sampler.draws"]) == [8, 9] and sorted(frame["posterior.gamma"]) == [50, 100]
    assert "sampler.warmup" not in frame.columns


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_files_hold_what_load_gives(tiny, tool, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    outcome = tool("results", "-o", f"out/table{suffix}")
    assert outcome.code == 0 and "2 lines" in outcome.out
    read = {".csv": pd.read_csv, ".json": pd.read_json, ".parquet": pd.read_parquet}[suffix]
    frame, expected = read(tmp_path / "out" / f"table{suffix}"), lambda_hat.load_results("runs")
    assert list(frame.columns) == list(expected.columns)
    np.testing.assert_allclose(frame["llc_mean"], expected["llc_mean"], rtol=1e-9)
    assert list(frame["directory"]) == list(expected["directory"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"table{suffix}"]


def test_csv_goes_to_a_pipe(tiny, tool):
    lines = list(csv.DictReader(io.StringIO(tool("results", "--csv", "sampler=hmc").out)))
    assert [line["sampler"] for line in lines] == ["hmc"] and float(lines[0]["llc_mean"]) > 0


def test_groups_are_summarised(tiny, tool):
    run = run_of(tiny, "hmc")
    made = {run: (1.0, "ok"), copy(run, 1): (2.0, "warn"), copy(run, 2): (4.0, "bad")}
    for directory, (mean, status) in made.items():
        path = directory / "analysis.json"
        analysis = json.loads(path.read_text()) | {"status": status, "llc_mean": mean, "llc_mcse": 0.1}
        path.write_text(json.dumps(analysis))
        store.seal(directory)
    hmc, mclmc = json.loads(tool("results", "groupby=sampler,n_data", "--json").out)
    assert [hmc[key] for key in ("sampler", "n_data", "runs", "ok", "warn", "bad")] == ["hmc", 60, 3, 1, 1, 1]
    assert (
        hmc["llc_mean"] == 1.5
        and hmc["llc_scatter"] == pytest.approx(2**-0.5)
        and hmc["llc_mcse"] == pytest.approx(0.1)
    )
    assert hmc["total_fges"] == pytest.approx(3 * analysis["total_fges"])
    assert mclmc["sampler"] == "mclmc" and mclmc["llc_scatter"] is None
    assert "1.5" in tool("results", "groupby=sampler").out


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beta", 0.5),
        ("gamma", 1.0),
        ("loss", "mse"),
        ("n", 61),
        ("noise_scale", 0.2),
        ("dtype", "float32"),
        ("student_t_df", 9.0),
    ],
)
def test_runs_that_estimate_something_else_are_never_pooled(tiny, tool, tmp_path, key, value):
    first, other = run_of(tiny, "hmc"), copy(run_of(tiny, "hmc"), 1)
    for run, mean in ((first, 1.0), (other, 4.0)):
        analysis = json.loads((run / "analysis.json").read_text()) | {"llc_mean": mean, "status": "ok", "loss": "nll"}
        analysis |= {"noise_scale": 0.1, "dtype": "float64"}
        if run == other:
            analysis |= {key: value}
            if key == "student_t_df":
                analysis["posterior_config"] |= {key: value}
        store.write_json(run / "analysis.json", analysis)
        store.write_config(run, {group: analysis[f"{group}_config"] for group in ("sampler", "posterior")})
        name = store.digest("run", [analysis["sampler_config"], analysis["posterior_config"]])
        store.write_json(run / "analysis.json", analysis | {"run_id": f"run_hmc_{name}"})
        store.seal(run)
        run.rename(run.with_name(f"run_hmc_{name}"))
    groups = json.loads(tool("results", "groupby=sampler", "sampler=hmc", "--json").out)
    assert sorted(group["llc_mean"] for group in groups) == [1.0, 4.0]
    assert len({group["posterior.student_t_df" if key == "student_t_df" else key] for group in groups}) == 2
    comparison = tool("accuracy", "sampler=hmc").out
    assert " 4.0000 " in comparison and " 2.5000 " not in comparison
    assert tool("report", "sampler=hmc").code == 0
    overview = (tmp_path / "runs" / "report.html").read_text().partition("</table>")[0]
    assert "<td>1</td>" in overview and "<td>4</td>" in overview and "<td>2.5</td>" not in overview


def test_runs_of_an_earlier_versions_targets_are_never_pooled_with_others(tiny, tool, tmp_path):
    meta = json.loads((tiny / "meta.json").read_text())
    groups = [meta[f"{key}_cfg"] for key in ("model", "data", "training")]
    old = tiny.with_name(f"tgt_{store.digest('target', [*groups, meta['seed']], 1)}")
    shutil.copytree(tiny, old)
    store.write_json(old / "meta.json", meta | {"target_id": old.name})
    for run in old.glob("run_*"):
        analysis = json.loads((run / "analysis.json").read_text())
        store.write_json(run / "analysis.json", analysis | {"target_id": old.name})
        store.seal(run)
    lines = (old / "SHA256SUMS").read_text().rpartition("# ")[0].splitlines()
    shutil.copytree(old, tmp_path / "sealed", ignore=shutil.ignore_patterns("run_*", "_runs.jsonl", "curvature_*"))
    store.seal(tmp_path / "sealed")
    assert len(lines) == len(store.hashes(tmp_path / "sealed"))
    shutil.copy(tmp_path / "sealed" / "SHA256SUMS", old)
    found = json.loads(tool("results", "groupby=sampler", "sampler=hmc", "--json").out)
    assert [(group["target_version"], group["runs"]) for group in found] == [(1, 1), (2, 1)]


# --- one run, one target ----------------------------------------------------------------------------------------------


def test_a_run_is_opened_and_its_arrays_are_read_when_they_are_asked_for(tiny, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(records.Trace, "_read", lambda trace, file, name: read.append(name) or np.zeros((2, 8)))
    run = lambda_hat.open_run(run_of(tiny, "hmc"))
    assert (run.state, run.sampler, run.target_id) == ("done", "hmc", tiny.name)
    low, high = run.summary.llc_interval95
    assert low <= run.summary.llc_mean <= high and run.settings["sampler.draws"] == 8
    assert {"llc", "L", "distance2", "gradient_evaluations"} <= set(run.trace) and read == []
    assert run.trace["llc"].shape == (2, 8) and run.trace["llc"] is run.trace["llc"] and read == ["llc"]
    with pytest.raises(KeyError):
        run.trace["nothing"]


def test_what_a_run_and_its_target_hold_is_what_was_published(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = lambda_hat.open_run(f"~/runs/targets/{tiny.name}/{run_of(tiny, 'hmc').name}")
    assert run.trace["llc"].mean() == pytest.approx(run.summary.llc_raw)
    assert run.trace["L"].mean() - run.summary.L0 == pytest.approx(run.summary.llc_raw / run.summary.estimand.nbeta)
    target = lambda_hat.open_target(str(tiny))
    assert target.meta.dims.p == sum(value.size for value in target.params.values()) == 2
    assert {len(value) for value in target.data.values()} == {target.meta.dims.n} == {60}
    assert run.target == target


def test_a_notebook_shows_what_a_run_and_a_target_are(tiny):
    run, target = lambda_hat.open_run(run_of(tiny, "hmc")), lambda_hat.open_target(tiny)
    summary, shown = run.result, run._repr_html_()
    for text in (
        formats.estimate(summary.llc_mean, summary.llc_mcse),
        formats.interval(*summary.llc_interval95),
        f"exact λ̂ {summary.truth.finite:.5g}",
        f"γ = {summary.estimand.gamma:g}",
        f"{summary.total_fges:.0f} full-data gradients",
        f"{tiny.name}/{run.run_id}",
        "sampler.draws",
    ):
        assert text in shown, text
    assert f'">{run.word}' in shown and "color: #" in shown
    run.summary = replace(summary, truth=None, llc_mcse=None, ess=None)
    assert "exact" not in run._repr_html_() and "± ?" in run._repr_html_()
    shown = target._repr_html_()
    for text in (
        tiny.name,
        "quadratic",
        "p = 2 parameters, n = 60 pairs",
        f"{target.meta.metrics.L0:.5g}",
        "λ = 1",
        "data.n_data",
    ):
        assert text in shown, text


def test_no_name_or_reason_reaches_a_notebook_as_html(tiny):
    run, target = lambda_hat.open_run(run_of(tiny, "hmc")), lambda_hat.open_target(tiny)
    hostile = "<img src=x onerror=alert(1)>\x1b[2J\"'&"
    for record in (run, target):
        record.directory = record.directory / hostile
        record.notes = [hostile]
        record.settings = {"model.kind": hostile, "data.kind": "x", hostile: [hostile]}
        shown = record._repr_html_()
        assert "<img" not in shown and "\x1b" not in shown and shown.count("&lt;img src=x onerror") >= 5
        assert set(re.findall(r"<(\w+)", shown)) <= {"table", "tr", "th", "td", "details", "summary"}
    run.summary, run.state = None, "running"
    assert "running" in run._repr_html_() and "λ̂" not in run._repr_html_()


def test_what_is_damaged_is_a_sentence_when_it_is_asked_for(tiny, tmp_path):
    run, target = lambda_hat.open_run(run_of(tiny, "hmc")), lambda_hat.open_target(tiny)
    for path in (run.directory / "trace.nc", tiny / "params.npz", tiny / "data.npz"):
        _truncate(path)
    for read in (lambda: run.trace, lambda: target.params, lambda: target.data):
        with pytest.raises(StoreError, match="does not match its hash"):
            read()
    (run.directory / "analysis.json").write_text("[]")
    with pytest.raises(StoreError, match=r"analysis\.json"):
        lambda_hat.open_run(run.directory)
    for path in (tmp_path, tmp_path / "runs" / "targets" / "tgt_000000000000", run.directory):
        with pytest.raises(StoreError, match="there is no such target"):
            lambda_hat.open_target(path)
    with pytest.raises(StoreError, match="there is no such run"):
        lambda_hat.open_run(tiny)


def test_a_table_that_a_terminal_has_no_room_for_is_paragraphs(monkeypatch, capsys):
    """No word is broken; what is not known is left out."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    block = console.Table(
        ["target_id", "λ 95 %", "fit", "known", "status"],
        [["tgt_0ba2ae26b480", "9.335 [9.27, 9.40]", "linear", "–", "ok"], ["tgt_b", "0.5", "bad fit", "0.5", "bad"]],
        ("target_id",),
    )
    for width, expected in (
        (
            30,
            "target_id tgt_0ba2ae26b480\n  λ 95 % 9.335 [9.27, 9.40]\n  fit linear  status ok\ntarget_id tgt_b  λ 95 % 0.5\n",
        ),
        (60, "target_id tgt_0ba2ae26b480  λ 95 %"),
    ):
        monkeypatch.setenv("COLUMNS", str(width))
        console.write(block)
        out = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
        out = "\n".join(line.rstrip() for line in out.splitlines()) + "\n"
        assert (expected in out) == (width == 30) and all(len(line) <= width for line in out.splitlines())
        assert "tgt_0ba2ae26b480" in out
