"""Verifying, indexing, weighing, throwing away and promoting what is stored."""

import hashlib
import json
import os

import h5py
import pytest
from benchmarks.inspecting import copy
from test_cli import files, run_of

from lambda_hat import store
from lambda_hat.inspect import promotion
from lambda_hat.inspect.scan import scan


def bad_to(status, run):
    """Have a published run another verdict."""
    path = run / "analysis.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": status}))
    store.seal(run)


# --- verify -----------------------------------------------------------------------------------------------------------


def test_a_whole_store_is_verified(tiny, tool):
    outcome = tool("store", "verify")
    assert outcome.code == 0 and "3 directories" in outcome.out and "all are as they were published" in outcome.out


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = [
    ("{run}/trace.nc", _flip, "trace.nc does not match its hash"),
    ("{run}/diagnostics/rank.png", _flip, "diagnostics/rank.png does not match its hash"),
    ("{run}/config.yaml", lambda path: path.unlink(), "config.yaml is missing"),
    ("{run}/SHA256SUMS", lambda path: path.unlink(), "SHA256SUMS is missing"),
    ("{run}/note.txt", lambda path: path.write_text("mine"), "note.txt was not published with its directory"),
    ("{run}/SHA256SUMS", _flip, "SHA256SUMS is damaged"),
    ("curvature_nll.npz", _flip, "curvature_nll.npz cannot be read"),
    ("data.npz", _flip, "data.npz does not match its hash"),
    ("meta.json", _flip, "meta.json does not match its hash"),
]


@pytest.mark.parametrize(("name", "damage", "says"), DAMAGES)
def test_every_damage_is_named(tiny, tool, name, damage, says):
    damage(tiny / name.format(run=run_of(tiny, "hmc").name))
    outcome = tool("store", "verify")
    assert outcome.code == 1 and says in outcome.out and "1 of them damaged" in outcome.out
    found = json.loads(tool("store", "verify", "--json").out)
    assert len(found["damaged"]) == 1 and found["directories"] == 3


def test_what_joins_a_target_later_is_no_damage(tiny):
    assert list(tiny.glob("curvature_*.npz")) and (tiny / "_runs.jsonl").exists()
    assert list(store.damages(tiny)) == []


def test_a_configuration_that_is_not_its_name_is_damage_though_its_hashes_fit(tiny):
    run = run_of(tiny, "hmc")
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("draws: 8", "draws: 9"))
    store.seal(run)
    (said,) = store.damages(run)
    assert "not to its directory's name" in said


# --- reindex, du ------------------------------------------------------------------------------------------------------


def test_indexes_are_rebuilt_as_the_runs_wrote_them(tiny, tool, tmp_path):
    paths = [tmp_path / "runs" / "targets" / "_catalog.jsonl", tiny / "_runs.jsonl"]
    before = [store.read_lines(path) for path in paths]
    paths[0].write_text("not JSON\n")
    paths[1].unlink()
    outcome = tool("store", "reindex")
    assert outcome.code == 0 and "1 targets and 2 runs" in outcome.out
    assert [store.read_lines(path) for path in paths] == before


def test_an_index_has_no_line_for_a_damaged_run(tiny, tool):
    _flip(run_of(tiny, "hmc") / "analysis.json")
    outcome = tool("store", "reindex")
    assert outcome.code == 1 and run_of(tiny, "hmc").name in outcome.out
    assert [line["sampler"] for line in store.read_lines(tiny / "_runs.jsonl")] == ["mclmc"]


def test_du_adds_up(tiny, tool, tmp_path):
    found = json.loads(tool("store", "du", "--json").out)
    total = sum(path.stat().st_size for path in (tmp_path / "runs").rglob("*") if path.is_file())
    index = (tmp_path / "runs" / "targets" / "_catalog.jsonl").stat().st_size
    assert sum(found.values()) == total - index
    run = run_of(tiny, "hmc")
    assert found["runs, hmc"] == sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    assert json.loads(tool("store", "du", "sampler=hmc", "--json").out) == {
        f"{tiny.name}/{run.name}": found["runs, hmc"]
    }


# --- rm, restore ------------------------------------------------------------------------------------------------------


def test_rm_moves_to_the_trash_and_restore_takes_back(tiny, tool, tmp_path):
    before = files(tmp_path)
    outcome = tool("store", "rm", "sampler=hmc")
    assert outcome.code == 0 and "1 moved to runs/trash/" in outcome.out
    assert [row.sampler for row in scan(tmp_path / "runs")] == ["mclmc"]
    assert [line["sampler"] for line in store.read_lines(tiny / "_runs.jsonl")] == ["mclmc"]
    (trash,) = (tmp_path / "runs" / "trash").iterdir()
    assert f"bin/store.py restore runs/trash/{trash.name}" in outcome.out
    assert tool("store", "restore", f"runs/trash/{trash.name}").code == 0
    changed = {name for name, value in files(tmp_path).items() if before.get(name) != value}
    assert files(tmp_path).keys() == before.keys() and changed <= {
        f"runs/targets/{tiny.name}/_runs.jsonl",
        "runs/targets/_catalog.jsonl",
    }
    assert len(store.read_lines(tiny / "_runs.jsonl")) == 2


def test_rm_of_a_target_takes_its_runs_along(tiny, tool, tmp_path):
    assert tool("store", "rm", "model.dim=2", "--targets").code == 0
    assert scan(tmp_path / "runs") == [] and store.read_lines(tmp_path / "runs" / "targets" / "_catalog.jsonl") == []
    (trash,) = (tmp_path / "runs" / "trash").iterdir()
    assert tool("store", "restore", f"runs/trash/{trash.name}").code == 0
    assert len(scan(tmp_path / "runs")) == 2 and not trash.exists()


def test_a_target_that_is_being_sampled_is_not_thrown_away(tiny, tool, tmp_path):
    from lambda_hat.store import lease as leases

    directory = tmp_path / "runs" / "work" / f"{tiny.name}.run_hmc_aaaaaaaa"
    directory.mkdir(parents=True)
    store.write_note(directory / "owner.json", leases.this_process())
    before = files(tmp_path)
    outcome = tool("store", "rm", "model.dim=2", "--targets")
    assert outcome.code == 1 and "in progress" in outcome.err and files(tmp_path) == before


def test_restore_does_not_overwrite_what_was_made_anew(tiny, tool, tmp_path):
    run = run_of(tiny, "hmc")
    copied = copy(run, 9)
    assert tool("store", "rm", "sampler.seed=9").code == 0
    assert copy(run, 9) == copied
    (trash,) = (tmp_path / "runs" / "trash").iterdir()
    outcome = tool("store", "restore", f"runs/trash/{trash.name}")
    assert (
        outcome.code == 1
        and "has been made again meanwhile" in outcome.out
        and (trash / tiny.name / copied.name).is_dir()
    )


# --- promote ----------------------------------------------------------------------------------------------------------


def test_single_promotes_one_figure_a_sampler_with_a_manifest(tiny, tool, tmp_path):
    outcome = tool("promote", "single", "--to", "docs/figures", "--allow-bad")
    assert outcome.code == 0
    place = tmp_path / "docs" / "figures"
    assert {path.name for path in place.iterdir()} == {"hmc.png", "mclmc.png", "table.md", "manifest.json"}
    run = run_of(tiny, "hmc")
    assert (place / "hmc.png").read_bytes() == (run / "diagnostics" / "running_llc.png").read_bytes()
    manifest = json.loads((place / "manifest.json").read_text())
    for name, said in manifest["files"].items():
        assert said["sha256"] == hashlib.sha256((place / name).read_bytes()).hexdigest()
    assert manifest["files"]["hmc.png"]["from"] == f"{tiny.name}/{run.name}/diagnostics/running_llc.png"
    assert manifest["samplers"]["hmc"]["llc_mean"] == store.read_json(run / "analysis.json")["llc_mean"]
    assert f"`{tiny.name}/{run.name}`" in (place / "table.md").read_text()
    assert [path.name for path in place.parent.iterdir()] == ["figures"]


def test_a_gallery_shows_every_figure_that_it_holds(tiny, tool, tmp_path):
    argv = ("promote", "gallery", "--to", "g", "--allow-bad", "--figure", "trace", "--figure", "energy")
    assert tool(*argv).code == 0
    text = (tmp_path / "g" / "README.md").read_text()
    figures = {path.name for path in (tmp_path / "g").glob("*.png")}
    assert figures == {"hmc_trace.png", "hmc_energy.png", "mclmc_trace.png"}  # MCLMC has no energy
    assert all(f"]({name})" in text for name in figures) and text.count("](") == 3 and "| hmc |" in text


def have_trace_name_its_run(directory):
    """A copy's trace is a link to that of the run which it is a copy of, and names that."""
    path = directory / "trace.nc"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    with h5py.File(path, "a") as file:
        file.attrs["run_id"] = directory.name


def test_bad_runs_are_refused_and_the_best_or_the_newest_is_chosen(tiny, tool, tmp_path):
    run = run_of(tiny, "hmc")
    newer, better = copy(run, 1), copy(run, 2)
    changes = {run: {}, newer: {"created_at": 32472144000.0}, better: {"llc_mcse": 1e-9, "status": "ok"}}
    for directory, change in changes.items():
        path = directory / "analysis.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "warn"} | change))
        have_trace_name_its_run(directory)
        store.seal(directory)
    bad_to("bad", run_of(tiny, "mclmc"))
    outcome = tool("promote", "single", "--to", "x")
    assert outcome.code == 1 and "is bad" in outcome.err and not (tmp_path / "x").exists()
    for pick, expected in (("newest", newer), ("best", better)):
        assert tool("promote", "single", "sampler=hmc", "--to", "x", "--pick", pick).code == 0
        manifest = json.loads((tmp_path / "x" / "manifest.json").read_text())
        assert manifest["samplers"]["hmc"]["run"].endswith(expected.name)


def test_a_damaged_run_is_not_promoted_and_the_place_stays_as_it_was(tiny, tool, tmp_path):
    assert tool("promote", "single", "--to", "x", "--allow-bad").code == 0
    before = files(tmp_path / "x")
    _flip(run_of(tiny, "hmc") / "diagnostics" / "trace.png")
    outcome = tool("promote", "gallery", "--to", "x", "--allow-bad")
    assert outcome.code == 1 and "trace.png does not match its hash" in outcome.err and files(tmp_path / "x") == before


def test_a_place_that_cannot_take_its_name_keeps_what_it_had(tiny, tool, tmp_path, monkeypatch):
    assert tool("promote", "single", "--to", "x", "--allow-bad").code == 0
    before, replace = files(tmp_path / "x"), os.replace

    def failing(source, to):
        if str(to).endswith("x/manifest.json"):
            raise OSError(5, "Input/output error", str(to))
        replace(source, to)

    monkeypatch.setattr(promotion.os, "replace", failing)
    outcome = tool("promote", "gallery", "--to", "x", "--allow-bad")
    assert outcome.code == 1 and "x cannot be written" in outcome.err
    assert (
        files(tmp_path / "x") == before
        and [path.name for path in tmp_path.iterdir() if path.name.startswith(".x")] == []
    )


def test_promoting_again_leaves_what_it_did_not_make(tiny, tool, tmp_path):
    place = tmp_path / "x"
    argv = ("promote", "gallery", "--to", "x", "--allow-bad")
    assert tool(*argv).code == 0
    (place / "NOTES.md").write_text("mine")
    (place / ".git").mkdir()
    (place / ".git" / "HEAD").write_text("ref")
    (place / "other.png").symlink_to("NOTES.md")
    assert tool("promote", "single", "--to", "x", "--allow-bad").code == 0
    assert {path.name for path in place.iterdir()} == {
        *("hmc.png", "mclmc.png", "table.md", "manifest.json"),
        *("NOTES.md", ".git", "other.png"),
    }
    assert (place / "NOTES.md").read_text() == "mine" and (place / ".git" / "HEAD").read_text() == "ref"


def test_promoting_into_a_link_fills_the_directory_that_it_leads_to(tiny, tool, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "x").symlink_to("real")
    assert tool("promote", "single", "--to", "x", "--allow-bad").code == 0
    assert (tmp_path / "x").is_symlink() and (tmp_path / "real" / "hmc.png").is_file()


def _edit_table(place):
    (place / "table.md").write_text("mine")


def _link_figure(place):
    (place / "NOTES.md").write_text("mine")
    (place / "hmc_trace.png").unlink(missing_ok=True)
    (place / "hmc_trace.png").symlink_to("NOTES.md")


@pytest.mark.parametrize("spoil", [_edit_table, _link_figure, lambda place: (place / "README.md").write_text("mine")])
def test_a_file_that_somebody_made_or_changed_is_not_replaced(tiny, tool, tmp_path, spoil):
    assert tool("promote", "single", "--to", "x", "--allow-bad").code == 0
    spoil(tmp_path / "x")
    before = files(tmp_path)
    outcome = tool("promote", "gallery", "--to", "x", "--allow-bad")
    assert outcome.code == 1 and "was not made by lambda-hat-promote, or has been changed since" in outcome.err
    assert files(tmp_path) == before


def test_a_place_that_was_not_promoted_to_stays_as_it_is(tiny, tool, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "NOTES.md").write_text("mine")
    before = files(tmp_path)
    outcome = tool("promote", "single", "--to", "x", "--allow-bad")
    assert outcome.code == 1 and "choose another place" in outcome.err and files(tmp_path) == before
