"""What is stored says what it was made from: nothing that is copied, replaced or missing is taken for what it is not."""

import json
import shutil

import numpy as np
import problems  # noqa: F401  (starts JAX, in float64)
import pytest
from conftest import TINY
from test_cli import assert_one_sentence, run_of

from lambda_hat import store
from lambda_hat.analysis.summary import Summary
from lambda_hat.config import KINDS
from lambda_hat.inspect import maintenance
from lambda_hat.inspect.scan import scan
from lambda_hat.jobs import pipeline
from lambda_hat.system.errors import StoreError
from lambda_hat.targets import artifact


@pytest.fixture
def other(tiny):
    """Another target than the tiny one, of seed 1, that has nothing else of its own and no runs."""
    groups = store.open_config(tiny, "target") | {"seed": 1}
    directory = tiny.with_name(f"tgt_{store.digest('target', groups.values())}")
    directory.mkdir()
    for name in ("data.npz", "params.npz"):
        shutil.copy(tiny / name, directory)
    replace(directory / "data.npz")
    store.write_config(directory, groups)
    meta = store.read_json(tiny / "meta.json") | {"target_id": directory.name, "seed": 1, "hashes": tied(directory)}
    store.write_json(directory / "meta.json", meta)
    store.seal(directory)
    assert list(store.damages(directory)) == []
    return directory


def replace(path):
    """Write the arrays of a file into another one."""
    arrays = store.read_arrays(path)
    np.savez(path, **arrays, more=np.ones(3))


def tied(directory):
    return {name: store.sha256(directory / name) for name in ("data.npz", "params.npz")}


def damaged(root):
    """The last words of each sentence of verify, by directory."""
    return {path.name: sentences for path, sentences in maintenance.verify(root).damaged.items()}


def test_a_run_under_another_target_is_not_that_targets(tiny, other, command, tmp_path):
    run = run_of(tiny, "hmc")
    shutil.copytree(run, other / run.name)
    outcome = command("sample", *TINY, "sampler=hmc", "seed=1")
    assert_one_sentence(outcome, f"analysis.json is of something else: its target_id is '{tiny.name}', expected")
    assert outcome.code == 1 and "λ̂ =" not in outcome.out
    with pytest.raises(StoreError, match="is of something else"):
        Summary.read(other / run.name)
    (record,) = [record for record in scan(tmp_path / "runs") if record.target_id == other.name and record.run_id]
    assert record.state == "damaged" and "its target_id is" in record.notes[0]
    assert list(damaged(tmp_path / "runs")) == [run.name]


def test_a_run_of_a_target_whose_data_were_replaced_is_not_that_targets(tiny, tmp_path):
    """Though all files and lists of hashes agree with themselves."""
    replace(tiny / "data.npz")
    store.write_json(tiny / "meta.json", store.read_json(tiny / "meta.json") | {"hashes": tied(tiny)})
    seal_alone(tiny)
    with pytest.raises(StoreError, match=r"its hash of the target's data\.npz is"):
        Summary.read(run_of(tiny, "hmc"))
    found = damaged(tmp_path / "runs")
    assert {name[:4] for name in found} == {"tgt_", "run_"} and len(
        found
    ) == 3  # the curvature too is of the former data
    assert all("data.npz" in sentence for sentences in found.values() for sentence in sentences)


@pytest.mark.parametrize("name", ["data.npz", "params.npz"])
def test_a_part_that_was_replaced_and_listed_anew_is_found(tiny, compose, tmp_path, name):
    replace(tiny / name)
    seal_alone(tiny)
    config = compose(*TINY)
    with pytest.raises(StoreError, match=rf"{name} is of something else: its hash in meta\.json"):
        artifact.read(tiny, config.model, config.data)
    assert tiny.name in damaged(tmp_path / "runs")


def seal_alone(target):
    """List a target's own files, as when it was published."""
    aside = target.parent / "aside"
    aside.mkdir()
    joined = [path for path in target.iterdir() if path.name.startswith(("run_", "curvature_", "_runs"))]
    for path in joined:
        path.rename(aside / path.name)
    store.seal(target)
    for path in joined:
        (aside / path.name).rename(path)
    aside.rmdir()


def test_a_trace_of_another_run_is_found(tiny, tmp_path):
    hmc, mclmc = run_of(tiny, "hmc"), run_of(tiny, "mclmc")
    shutil.copy(mclmc / "trace.nc", hmc / "trace.nc")
    store.seal(hmc)
    (sentence,) = damaged(tmp_path / "runs")[hmc.name]
    assert f"trace.nc is of something else: its run_id is '{mclmc.name}'" in sentence


@pytest.mark.parametrize("name", ["trace.nc", "analysis.json", "config.yaml", "data.npz", "meta.json", "params.npz"])
def test_a_part_that_is_not_even_listed_is_missed(tiny, tmp_path, name):
    run = run_of(tiny, "hmc")
    directory = run if (run / name).exists() else tiny
    (directory / name).unlink()
    seal_alone(directory)
    assert any(f"{name} is not in the list" in sentence for sentence in damaged(tmp_path / "runs")[directory.name])


def test_a_curvature_of_another_target_is_refused(tiny, other, compose, tmp_path):
    shutil.copy(tiny / "curvature_nll.npz", other)
    config = compose(*TINY, "seed=1")
    target = artifact.read(other, config.model, config.data)
    with pytest.raises(StoreError, match=rf"curvature_nll\.npz is of something else: its target_id is '{tiny.name}'"):
        artifact.curvature(other, target, config.posterior, tmp_path / "scratch")
    (sentence,) = damaged(tmp_path / "runs")[other.name]
    assert "curvature_nll.npz is of something else" in sentence


def test_a_curvature_of_another_loss_is_refused(tiny, compose, tmp_path):
    shutil.copy(tiny / "curvature_nll.npz", tiny / "curvature_mse.npz")
    config = compose(*TINY, "posterior.loss=mse", "data.noise_scale=0.5")
    target = artifact.read(tiny, config.model, config.data)
    with pytest.raises(StoreError, match=r"curvature_mse\.npz is of something else: its loss is 'nll', expected 'mse'"):
        artifact.curvature(tiny, target, config.posterior, tmp_path / "scratch")


def test_a_curvature_that_names_no_target_is_computed_anew(tiny, compose, tmp_path):
    """As earlier versions wrote them: it could be any target's."""
    path = tiny / "curvature_nll.npz"
    arrays = store.read_sealed_arrays(path)
    maker = store.take_maker(path, arrays)
    with open(path, "wb") as file:
        store.write_sealed_arrays(file, {name: 2 * value for name, value in arrays.items() if value.dtype.kind == "f"})
    assert tiny.name not in damaged(tmp_path / "runs")
    config = compose(*TINY)
    artifact.curvature(tiny, artifact.read(tiny, config.model, config.data), config.posterior, tmp_path / "scratch")
    anew = store.read_sealed_arrays(path)
    assert store.take_maker(path, anew) == maker == {"target_id": tiny.name, "loss": "nll", **tied(tiny)}
    for name, value in arrays.items():
        np.testing.assert_array_equal(anew[name], value)


def test_a_mistyped_root_is_an_error(tiny, tool, tmp_path):
    outcome = tool("store", "verify", "rnus")
    assert outcome.code == 1 and "there is no such directory" in outcome.text
    (tmp_path / "empty").mkdir()
    outcome = tool("store", "verify", "empty")
    assert outcome.code == 1 and "nothing is published there" in outcome.text


# --- the output layout ------------------------------------------------------------------------------------------------

AGGREGATION = """
import json
from pathlib import Path

import pandas as pd

rows = []
for target_dir in sorted(Path("runs/targets").glob("tgt_*")):
    meta = json.loads((target_dir / "meta.json").read_text())
    for run_dir in sorted(target_dir.glob("run_*")):
        analysis = json.loads((run_dir / "analysis.json").read_text())
        rows.append(
            {
                "target_id": meta["target_id"],
                "depth": meta["model_cfg"].get("depth"),
                "n_data": meta["data_cfg"]["n_data"],
                "p": meta["dims"]["p"],
                "L0": meta["metrics"]["L0"],
                "seed": meta["seed"],
                "sampler": run_dir.name.split("_")[1],
                "llc_mean": analysis["llc_mean"],
                "llc_std": analysis["llc_std"],
                "ess": analysis["ess"],
                "rhat": analysis["rhat"],
                "walltime_sec": analysis["walltime_sec"],
            }
        )
table = pd.DataFrame(rows)
means = table.groupby(["n_data", "p", "sampler"])["llc_mean"].agg(["mean", "std", "count"])
"""
"""The output layout's script."""

NETWORK = """
import jax.numpy as jnp

def make():
    return (lambda key: {"w": jnp.zeros((3, 1))}), (lambda params, x: x @ params["w"])
"""


def aggregated(directory, monkeypatch):
    monkeypatch.chdir(directory)
    names = {}
    exec(AGGREGATION, names)
    return names["table"], names["means"]


def test_the_aggregation_script_runs_as_it_is(tiny, tmp_path, monkeypatch):
    table, means = aggregated(tmp_path, monkeypatch)
    assert sorted(table["sampler"]) == ["hmc", "mclmc"] and set(table["target_id"]) == {tiny.name}
    assert means["count"].tolist() == [1, 1] and np.isfinite(table[["llc_mean", "llc_std", "walltime_sec", "L0"]]).all(
        axis=None
    )
    assert set(table["n_data"]) == {60} and set(table["p"]) == {2} and set(table["seed"]) == {0}


@pytest.mark.soak
def test_the_aggregation_script_runs_with_every_kind_of_model_data_and_sampler(tmp_path, script, monkeypatch):
    (tmp_path / "net.py").write_text(NETWORK)
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "xy.npz", X=generator.standard_normal((60, 3)), Y=generator.standard_normal(60))
    np.savez(tmp_path / "w.npz", w=np.ones((3, 1)))
    rest = ("training.steps=20", "training.polish_steps=2", "runtime.figures=false", "runtime.devices=1")
    samplers = set(KINDS["sampler"])
    own = ("model=custom", "model.source=net.py:make", "data=file", "data.path=xy.npz", "data.noise_scale=1")
    sweeps = [
        ("model=small,deep_linear,quadratic,monomial,normal_crossing", "sampler=laplace", "data.n_data=60", *rest),
        ("data=whitened", "sampler=laplace", "model=small", "data.n_data=60", *rest),
        (
            "data=digits",
            "model=small",
            "model.in_dim=64",
            "model.out_dim=10",
            "sampler=laplace",
            "data.n_data=60",
            *rest,
        ),
        (*own, "training=given", "training.path=w.npz", "sampler=laplace", "runtime.devices=1"),
        (*own, f"sampler={','.join(samplers - {'laplace'})}", "sampler.draws=8", "sampler.warmup=2", *rest),
    ]
    for words in sweeps:
        outcome = script("sample", "-m", *words)
        assert outcome.code == 0, outcome.text
    table, means = aggregated(tmp_path, monkeypatch)
    assert set(table["sampler"]) == samplers
    assert table[["n_data", "p", "L0", "seed", "walltime_sec"]].notna().all(axis=None) and len(means) > len(samplers)
    lines = store.read_lines(tmp_path / "runs" / "targets" / "_catalog.jsonl")
    assert {line["model_cfg"]["kind"] for line in lines} == set(KINDS["model"])
    assert {line["data_cfg"]["kind"] for line in lines} == set(KINDS["data"])


def test_the_indexes_are_as_the_layout_has_them(tiny, tool, tmp_path):
    path = tmp_path / "runs" / "targets" / "_catalog.jsonl"
    (line,) = store.read_lines(path)
    meta = json.loads((tiny / "meta.json").read_text())
    assert (line["target_id"], line["model"], line["data"], line["seed"]) == (tiny.name, "quadratic", "small", 0)
    assert line["model_cfg"] == meta["model_cfg"] and line["data_cfg"] == meta["data_cfg"]
    assert isinstance(meta["created_at"], float) and line["created_at"] == meta["created_at"] > 1.7e9
    runs = store.read_lines(tiny / "_runs.jsonl")
    assert all(isinstance(run["created_at"], float) and run["created_at"] > 1.7e9 for run in runs)
    before = path.read_bytes(), (tiny / "_runs.jsonl").read_bytes()
    assert tool("store", "reindex").code == 0
    assert (path.read_bytes(), (tiny / "_runs.jsonl").read_bytes()) == before


def test_a_samplers_name_holds_no_underscore(compose):
    assert all(store.RUN_ID.fullmatch(f"run_{name}_{'0' * 8}") for name in KINDS["sampler"])


# --- indexes and disks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "options"), [("target", ()), ("run", ("sampler=hmc",))])
def test_a_line_that_could_not_be_written_is_added_later(tiny, compose, command, monkeypatch, tmp_path, stage, options):
    """The disk was full after the directory had its name."""
    job = pipeline.job(stage, compose(*TINY, *options, "runtime.compilation_cache=null", "store.root=runs"))
    index = (tmp_path / "runs" / "targets" / "_catalog.jsonl") if stage == "target" else tiny / "_runs.jsonl"
    published, append = tmp_path / "published", store.append_line
    (tmp_path / job.directory).rename(published)
    index.write_text("")

    def publish(job, lease, gpus):
        lease.is_unindexed = True
        published.rename(job.directory)
        pipeline._index(job)

    def full(path, line):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(pipeline._STAGES, stage, publish)
    monkeypatch.setattr(store, "append_line", full)
    with pytest.raises(StoreError, match="No space left on device"):
        pipeline.make(job)
    words = [word for word in options if stage == "run"]
    assert command({"target": "build_target", "run": "sample"}[stage], *TINY, *words).code == 0  # still full
    assert store.read_lines(index) == []
    monkeypatch.setattr(store, "append_line", append)
    assert command({"target": "build_target", "run": "sample"}[stage], *TINY, *words).code == 0
    (line,) = store.read_lines(index)
    assert line["target_id"] == tiny.name
    assert list((tmp_path / "runs" / "work").iterdir()) == []
