"""The store: names that are hashes, directories that appear whole, records that survive anything."""

import hashlib
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from lambda_hat import store
from lambda_hat.jobs import pipeline
from lambda_hat.system.errors import ConfigError, StoreError

TARGET = ({"kind": "toy", "widths": [8, 8], "scale": 0.1}, {"n": 10}, {"lr": 1e-3}, 0)
RUN = ({"name": "hmc", "draws": 1000, "step_size": None}, {"beta": None, "gamma": 100.0})


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "values", "golden"),
    [("target", TARGET, "fd0b8a76e985"), ("run", RUN, "d5759837")],
)
def test_digests_are_what_they_have_always_been(stage, values, golden):
    assert store.digest(stage, values) == golden


def test_digest_is_the_hash_of_canonical_json():
    text = '{"data":{"n":10},"model":{"kind":"toy","scale":0.1,"widths":[8,8]},"seed":0,"training":{"lr":0.001},"version":2}'
    assert store.digest("target", TARGET) == hashlib.sha256(text.encode()).hexdigest()[:12]
    text = '{"posterior":{"gamma":100.0},"sampler":{"draws":1000,"name":"hmc"},"version":3}'
    assert store.digest("run", RUN) == hashlib.sha1(text.encode()).hexdigest()[:8]


def test_digest_ignores_the_order_of_keys_and_keys_that_are_null():
    sampler, posterior = RUN
    shuffled = dict(reversed(sampler.items())) | {"a_later_setting": None}
    assert store.digest("run", (shuffled, posterior)) == store.digest("run", RUN)


def test_digest_tells_a_list_from_its_reverse_and_one_from_one_point_zero():
    digests = {store.digest("run", ({"v": value}, {})) for value in ([1, 2], [2, 1], 1, 1.0, True, "1")}
    assert len(digests) == 6


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_digest_refuses_what_json_does_not_have(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.digest("run", ({"step_size": value}, {}))


def test_the_resolver_agrees_with_the_dataclasses(compose):
    config = compose("sampler=sgld", "model.widths=[4,4]", "seed=3")
    hashed = [getattr(config, key) for key in ("model", "data", "training", "seed")]
    assert config.store.target_id == "tgt_" + store.digest("target", hashed)
    assert config.store.run_id == "run_sgld_" + store.digest("run", (config.sampler, config.posterior))


@pytest.mark.parametrize("typed", ["posterior.gamma=100", "posterior.gamma=100.0", "posterior.gamma=1e2"])
def test_a_number_hashes_the_same_however_it_is_typed(compose, typed):
    assert compose(typed).store == replace(compose().store, log_dir=compose(typed).store.log_dir)


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("model.bias=false", {"target"}),
        ("data.n_data=1999", {"target"}),
        ("training.steps=9999", {"target"}),
        ("seed=1", {"target"}),
        ("sampler.seed=1", {"run"}),
        ("sampler.draws=999", {"run"}),
        ("posterior.gamma=99", {"run"}),
        ("sampler=sgld", {"run"}),
        ("store.root=elsewhere", set()),
        ("runtime.platform=cpu", set()),
        ("runtime.devices=1", set()),
        ("runtime.compilation_cache=null", set()),
        ("runtime.progress=false", set()),
        ("force=true", set()),
        ("strict=true", set()),
        ("hydra.verbose=true", set()),
        ("hydra/launcher=basic", set()),
    ],
)
def test_what_changes_the_numbers_changes_the_name_and_nothing_else_does(compose, override, changed):
    before, after = compose().store, compose(override).store
    assert (before.target_id != after.target_id) is ("target" in changed)
    assert (before.run_id != after.run_id) is ("run" in changed)


@pytest.mark.parametrize("key", ["target_id", "run_id", "target_dir", "run_dir"])
def test_derived_names_cannot_be_set(compose, key):
    with pytest.raises(ConfigError, match=f"store.{key} follows from the configuration"):
        pipeline.job("run", compose(f"store.{key}=mine"))


# --- publish ----------------------------------------------------------------------------------------------------------


def test_publishing_gives_the_directory_its_name_in_one_step(tmp_path):
    final = tmp_path / "targets" / "tgt_x"
    final.parent.mkdir()
    with store.workspace(tmp_path / "build") as hidden:
        (hidden / "a").write_text("1")
        assert not store.is_done(final)
        assert store.publish(hidden, final)
    assert os.listdir(final.parent) == ["tgt_x"] and os.listdir(tmp_path) == ["targets"]
    line = f"{hashlib.sha256(b'1').hexdigest()}  a\n"
    assert (final / "SHA256SUMS").read_text() == f"{line}# {hashlib.sha256(line.encode()).hexdigest()}\n"
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=final).returncode == 0
    assert (final / "a").read_text() == "1"


def test_the_first_to_publish_wins_and_the_loser_is_told(tmp_path):
    final = tmp_path / "tgt_x"
    outcomes = []
    with store.workspace(tmp_path / "build") as mine:
        (mine / "a").write_text("mine")
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        (theirs / "a").write_text("theirs")
        outcomes += [store.publish(theirs, final), store.publish(mine, final)]
    assert outcomes == [True, False]
    assert (final / "a").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["tgt_x"]


def test_a_failure_leaves_nothing_half_there(tmp_path):
    with pytest.raises(RuntimeError), store.workspace(tmp_path / "build") as hidden:
        (hidden / "a").write_text("1")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_an_empty_directory_or_a_file_is_not_done(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert not any(store.is_done(tmp_path / name) for name in ("empty", "file", "absent", "file/below"))


def test_publishing_where_the_name_is_a_file_is_an_error(tmp_path):
    (tmp_path / "tgt_x").touch()
    with pytest.raises(OSError), store.workspace(tmp_path / "build") as hidden:
        (hidden / "a").touch()
        store.publish(hidden, tmp_path / "tgt_x")
    assert os.listdir(tmp_path) == ["tgt_x"]


def test_setting_aside_loses_nothing(tmp_path):
    paths = store.Paths(tmp_path, "tgt_x", "run_y")
    kept = []
    for content in "abc":
        paths.run.mkdir(parents=True)
        (paths.run / "f").write_text(content)
        kept.append(store.set_aside(paths.run, paths))
        assert not paths.run.exists()
    assert [(aside / "f").read_text() for aside in kept] == list("abc")
    assert all(aside.parent == paths.replaced and aside.name.startswith("tgt_x.run_y.") for aside in kept)


# --- opening ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    """A directory named after the configuration in it, and that configuration."""
    groups = dict(zip(("model", "data", "training", "seed"), TARGET, strict=True))
    directory = tmp_path / f"tgt_{store.digest('target', TARGET)}"
    directory.mkdir()
    store.write_config(directory, groups)
    store.seal(directory)
    return directory, groups


def test_opening_gives_what_was_written(stored):
    directory, groups = stored
    assert store.open_config(directory, "target") == groups


def test_opening_an_edited_configuration_says_what_was_edited(stored):
    directory, groups = stored
    path = directory / "config.yaml"
    path.write_text(path.read_text().replace("scale: 0.1", "scale: 0.2"))
    with pytest.raises(StoreError, match=r"config\.yaml hashes to \w+, not to its directory's name: it was edited"):
        store.open_config(directory, "target")
    with pytest.raises(StoreError, match=r"\(model\.scale is 0\.2, expected 0\.1\)"):
        store.open_config(directory, "target", groups)


def test_a_setting_that_is_in_no_hash_is_guarded_as_well(tmp_path):
    """A key whose value is null names nothing: its line can change without the digest."""
    groups = dict(zip(("sampler", "posterior"), RUN, strict=True))
    directory = tmp_path / f"run_hmc_{store.digest('run', RUN)}"
    directory.mkdir()
    store.write_config(directory, groups)
    store.seal(directory)
    path = directory / "config.yaml"
    path.write_text(path.read_text().replace("step_size: null", "step_sizf: null"))
    with pytest.raises(StoreError, match=r"config\.yaml is damaged: it does not match its hash"):
        store.open_config(directory, "run", groups)


@pytest.mark.parametrize(
    "damage",
    [None, b"{", b"", b"[1]", b"a: 1", b"\xff\xfe\xfa", b"model: &a [1]\ndata: *a\ntraining: {}\nseed: 0"],
    ids=["missing", "not yaml", "empty", "a list", "other keys", "not text", "an alias"],
)
def test_opening_a_damaged_configuration_names_the_file(stored, damage):
    directory, _ = stored
    if damage is None:
        (directory / "config.yaml").unlink()
    else:
        (directory / "config.yaml").write_bytes(damage)
    with pytest.raises(StoreError, match=r"config\.yaml (is missing|cannot be read)"):
        store.open_config(directory, "target")


def test_a_composed_configuration_survives_writing_and_opening(compose, tmp_path):
    job = pipeline.job("target", compose("model=wide", f"store.root={tmp_path}"))
    job.directory.mkdir(parents=True)
    groups = {key: getattr(job.config, key) for key in ("model", "data", "training", "seed")}
    store.write_config(job.directory, groups)
    store.seal(job.directory)
    reopened = pipeline.job("run", compose(f"target={job.paths.target_id}", f"store.root={tmp_path}"))
    assert {key: getattr(reopened.config, key) for key in groups} == groups
    assert reopened.paths.target == job.directory
    with open(job.directory / "config.yaml") as file:
        assert yaml.safe_load(file)["model"]["widths"] == [1024]


# --- small files and manifests ----------------------------------------------------------------------------------------


def test_json_is_finite_and_plain(tmp_path):
    value = {
        "nan": math.nan,
        "inf": [-math.inf, 1.5],
        "array": np.array([1.0, np.nan]),
        "int": np.int64(3),
        "path": Path("a"),
    }
    store.write_json(tmp_path / "x.json", value | {"float": np.float32(0.5), "none": None, "yes": True})
    store.seal(tmp_path)
    expected = {"nan": None, "inf": [None, 1.5], "array": [1.0, None], "int": 3, "path": "a"}
    assert store.read_json(tmp_path / "x.json") == expected | {"float": 0.5, "none": None, "yes": True}


@pytest.mark.parametrize(
    ("content", "says"), [(None, "is missing"), ("{", "is damaged"), ("", "is damaged"), ('{"a": 2}', "is damaged")]
)
def test_damaged_json_is_named(tmp_path, content, says):
    path = tmp_path / "meta.json"
    store.write_json(path, {"a": 1})
    store.seal(tmp_path)
    assert store.read_json(path, "a") == {"a": 1}
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(StoreError, match=rf"meta\.json {says}"):
        store.read_json(path)


@pytest.mark.parametrize(("content", "says"), [(None, "is missing"), ("", "is damaged"), ("x", "is damaged")])
def test_damaged_hashes_are_named(tmp_path, content, says):
    path = tmp_path / "SHA256SUMS"
    store.write_json(tmp_path / "meta.json", {"a": 1})
    store.seal(tmp_path)
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(StoreError, match=rf"SHA256SUMS {says}"):
        store.read_json(tmp_path / "meta.json")


def test_sealed_json_that_is_none_is_named(tmp_path):
    (tmp_path / "meta.json").write_text("{")
    store.seal(tmp_path)
    with pytest.raises(StoreError, match=r"meta\.json is not JSON"):
        store.read_json(tmp_path / "meta.json")


APPEND = """
import sys
from lambda_hat import store
for i in range(50):
    store.append_line(sys.argv[1], {"who": int(sys.argv[2]), "i": i, "long": "x" * 20_000})
"""


def test_eight_processes_append_whole_lines_at_once(tmp_path):
    path = tmp_path / "_runs.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", APPEND, str(path), str(who)]) for who in range(8)]
    assert [writer.wait(timeout=60) for writer in writers] == [0] * 8
    records = store.read_lines(path)
    assert sorted((r["who"], r["i"]) for r in records) == [(who, i) for who in range(8) for i in range(50)]
    assert {len(r["long"]) for r in records} == {20_000}


def test_a_broken_manifest_is_named_and_a_missing_one_is_empty(tmp_path):
    assert store.read_lines(tmp_path / "absent.jsonl") == []
    (tmp_path / "_runs.jsonl").write_text(json.dumps({"a": 1}) + '\n{"b"')
    with pytest.raises(StoreError, match=r"_runs\.jsonl has a line that is not JSON"):
        store.read_lines(tmp_path / "_runs.jsonl")
