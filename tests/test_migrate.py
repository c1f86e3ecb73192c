"""Runs of an earlier estimator: shown as old, never averaged with others, recomputed where their traces allow it."""

import json
import shutil

import h5py
import pytest
from test_cli import files, run_of

from lambda_hat import store
from lambda_hat.analysis.summary import ESTIMATOR, Summary
from lambda_hat.inspect import migration
from lambda_hat.inspect.scan import scan

WRITTEN_SINCE = (
    "schema",
    "estimator",
    "llc_raw",
    "findings",
    "migrated_from",
    "noise_scale",
    "distance2_ess",
    "distance2_rhat",
)
"""What analysis.json of version 2 did not have."""


def make_old(run):
    """Turn a published run into what version 2 of its stage had published: the plain mean, under that version's name."""
    path = run / "analysis.json"
    analysis = json.loads(path.read_text())
    name = store.digest("run", [analysis["sampler_config"], analysis["posterior_config"]], 2)
    old = run.with_name(f"run_{analysis['sampler']}_{name}")
    analysis |= {"llc_mean": analysis["llc_raw"], "run_id": old.name, "curvature_fges": 0.0}
    path.unlink()
    store.write_json(path, {key: value for key, value in analysis.items() if key not in WRITTEN_SINCE})
    with h5py.File(run / "trace.nc", "r+") as trace:
        trace.attrs["run_id"] = old.name
    run.rename(old)
    store.seal(old)
    return old


@pytest.fixture
def old(tiny):
    """The tiny store's run of hmc as version 2 made it, and the summary that it has today."""
    run = run_of(tiny, "hmc")
    summary = Summary.read(run)
    return make_old(run), run, summary


def states(root):
    return {record.run_id: record.word for record in scan(root)}


def test_an_old_run_is_shown_as_old_and_never_averaged(old, tiny, tool, tmp_path):
    directory, _, summary = old
    shutil.copytree(directory, tmp_path / "kept")
    assert states(tmp_path / "runs")[directory.name] == "old"
    assert "store.py migrate" in tool("status", "status=old").out
    assert tool("store", "verify").code == 0  # it is as it was published
    assert tool("store", "migrate").code == 0
    shutil.copytree(tmp_path / "kept", directory)  # beside what it has become
    groups = json.loads(tool("results", "groupby=sampler", "sampler=hmc", "--json").out)
    assert [(group["estimator"], group["done"], group["llc_mean"]) for group in groups] == [
        (1, 0, None),
        (ESTIMATOR, 1, summary.llc_mean),
    ]
    assert tool("report").code == 0
    assert len(json.loads(tool("accuracy", "sampler=hmc", "--json").out)) == 1


def test_migrating_gives_what_todays_estimator_says_of_the_same_draws(old, tiny, tool, tmp_path):
    directory, today, summary = old
    outcome = tool("store", "migrate")
    assert outcome.code == 0 and f"{directory.name} -> {today.name}" in outcome.out, outcome
    migrated = Summary.read(today)
    for name in (
        "llc_mean",
        "llc_interval95",
        "llc_mcse",
        "llc_raw",
        "status",
        "estimator",
        "estimand",
        "error",
        "run_id",
    ):
        assert getattr(migrated, name) == getattr(summary, name), name
    assert migrated.migrated_from == directory.name
    assert states(tmp_path / "runs")[today.name] == summary.status and directory.name not in states(tmp_path / "runs")
    assert (today / "diagnostics" / "running_llc.png").is_file()
    assert tool("store", "verify").code == 0
    assert {line["artifact_path"].rpartition("/")[2] for line in store.read_lines(tiny / "_runs.jsonl")} == {
        today.name,
        run_of(tiny, "mclmc").name,
    }
    (kept,) = (tmp_path / "runs" / "replaced").iterdir()
    assert directory.name in kept.name and (kept / "trace.nc").is_file()
    before = files(tmp_path)
    again = tool("store", "migrate")
    assert again.code == 0 and "nothing there is old" in again.out and files(tmp_path) == before


class Killed(BaseException):
    """In the place of a signal that nobody survives."""


@pytest.mark.parametrize("step", ["_write", "publish", "after publish", "set_aside", "after set_aside", "reindex"])
def test_a_migration_that_is_killed_is_finished_by_the_same_command(old, tool, tmp_path, monkeypatch, step):
    _, today, summary = old
    place = migration if step in ("_write", "reindex") else migration.store
    name = step.removeprefix("after ")
    act = getattr(place, name)

    def killed(*arguments):
        if step.startswith("after"):
            act(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(place, name, killed)
        with pytest.raises(Killed):
            migration.migrate(tmp_path / "runs", scan(tmp_path / "runs"))
    published = [
        record for record in scan(tmp_path / "runs") if record.state in ("old", "done") and record.sampler == "hmc"
    ]
    assert published and all(record.summary.llc_raw is not None or record.state == "old" for record in published)
    tool("store", "migrate")
    assert Summary.read(today).llc_mean == summary.llc_mean
    assert set(states(tmp_path / "runs").values()) <= {"ok", "warn", "bad"} and len(states(tmp_path / "runs")) == 2
    assert tool("store", "verify").code == 0


def _without_stein(directory):
    import h5py

    data = (directory / "trace.nc").read_bytes()
    (directory / "trace.nc").unlink()
    (directory / "trace.nc").write_bytes(data)
    with h5py.File(directory / "trace.nc", "r+") as file:
        del file["sample_stats/stein_curvature"]
    store.seal(directory)


def _flip(directory):
    data = bytearray((directory / "trace.nc").read_bytes())
    data[-1] ^= 1
    (directory / "trace.nc").unlink()
    (directory / "trace.nc").write_bytes(data)


@pytest.mark.parametrize(("spoil", "reason"), [(_without_stein, "stein_curvature"), (_flip, "does not match its hash")])
def test_what_its_trace_does_not_allow_stays_old(old, tool, tmp_path, spoil, reason):
    directory, _, _ = old
    spoil(directory)
    before = files(tmp_path)
    outcome = tool("store", "migrate")
    assert outcome.code == 1 and "stays old: " in outcome.out and reason in outcome.out
    assert files(tmp_path) == before and states(tmp_path / "runs")[directory.name] == "old"
