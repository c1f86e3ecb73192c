"""bin/ as its users see it: what is made, what is skipped, what is refused, and what survives damage and interruption."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray
from conftest import ROOT, TINY, soak_but

from lambda_hat import store

HMC = (*TINY, "sampler=hmc")
NETWORK = (
    "model=small",
    "model.widths=[2]",
    "model.depth=1",
    "data.n_data=60",
    "training.steps=20",
    "training.polish_steps=0",
    "runtime.devices=1",
)


def files(directory):
    """Every file below, with its modification time."""
    return {str(p.relative_to(directory)): p.stat().st_mtime_ns for p in directory.rglob("*") if p.is_file()}


def run_of(target, sampler):
    (directory,) = target.glob(f"run_{sampler}_*")
    return directory


def assert_one_sentence(outcome, sentence):
    assert outcome.code in (1, 2)
    assert sentence in outcome.text
    assert "Traceback" not in outcome.text


def assert_same_draws(a, b):
    """All but the times at which they were drawn."""
    with xarray.open_datatree(a / "trace.nc") as a, xarray.open_datatree(b / "trace.nc") as b:
        assert a["posterior"].data_vars
        for group in a.groups:
            here, there = (tree[group].to_dataset().drop_vars("time", errors="ignore") for tree in (a, b))
            xarray.testing.assert_equal(here, there)


def assert_same_analysis(a, b):
    """All but times and what is reckoned from them."""
    a, b = (store.read_json(directory / "analysis.json") for directory in (a, b))
    differing = {key for key in a if a[key] != b[key]}
    assert differing <= {"walltime_sec", "timings_sec", "created_at", "provenance"} | {k for k in a if "per_sec" in k}
    assert a["llc_mean"] is not None


# --- what is made -----------------------------------------------------------------------------------------------------


def test_a_sweep_builds_its_target_once_and_a_run_for_each_sampler(tiny_store):
    directory, outcome = tiny_store
    (target,) = (directory / "runs" / "targets").glob("tgt_*")
    assert {p.name for p in target.iterdir()} >= {"meta.json", "data.npz", "params.npz", "config.yaml", "_runs.jsonl"}
    assert not [p for p in directory.rglob("*.tmp*")]
    for sampler in ("hmc", "mclmc"):
        run = run_of(target, sampler)
        assert {p.name for p in run.iterdir()} == {
            "trace.nc",
            "analysis.json",
            "config.yaml",
            "SHA256SUMS",
            "diagnostics",
        }
        assert {"trace.png", "rank.png", "running_llc.png"} <= {p.name for p in (run / "diagnostics").iterdir()}
        assert str(run.relative_to(directory)) in outcome.out
        assert store.read_json(run / "analysis.json")["sampler"] == sampler
        assert store.open_config(run, "run")["sampler"]["draws"] == 8
    assert not (directory / "runs" / "failures").exists()


def test_manifests_have_a_line_for_each_directory(tiny_store):
    directory, _ = tiny_store
    (line,) = store.read_lines(directory / "runs" / "targets" / "_catalog.jsonl")
    settings = {"model_cfg", "data_cfg", "training_cfg"}
    assert set(line) == {"target_id", "created_at", "model", "data", "seed"} | settings
    target = directory / "runs" / "targets" / line["target_id"]
    assert (line["model"], line["data"], line["seed"]) == ("quadratic", "small", 0)
    assert line["model_cfg"]["dim"] == 2 and line["data_cfg"]["n_data"] == 60
    lines = store.read_lines(target / "_runs.jsonl")
    for run in lines:
        assert set(run) == {"target_id", "sampler", "hyperparams", "walltime_sec", "artifact_path", "created_at"}
        assert (directory / run["artifact_path"] / "analysis.json").is_file()
        assert run["walltime_sec"] > 0
    assert [run["sampler"] for run in lines] == ["hmc", "mclmc"]


def test_what_is_done_is_not_done_again_and_costs_no_jax(tiny, script, tmp_path):
    before = files(tmp_path)
    (tmp_path / "jax.py").write_text("raise SystemExit('JAX was imported')")
    outcome = script("sample", "-m", *TINY, "sampler=hmc,mclmc", python=("-X", "importtime"))
    imported = {line.rpartition("|")[2].strip() for line in outcome.err.splitlines() if line.startswith("import time:")}
    assert outcome.code == 0
    assert "lambda_hat.jobs.pipeline" in imported
    assert not imported & {"jax", "blackjax", "arviz", "matplotlib", "xarray", "numpy", "scipy", "sklearn"}
    assert [line.split()[0] for line in outcome.out.splitlines() if "λ̂ =" in line] == ["hmc", "mclmc"]
    assert {k: v for k, v in files(tmp_path).items() if k != "jax.py"} == before


def test_the_directory_of_a_command_line_can_be_asked_for(tiny_store, command):
    directory, _ = tiny_store
    outcome = command("sample", *HMC, "--cfg", "job", "--resolve", "-p", "store.run_dir")
    assert outcome.code == 0
    assert (directory / outcome.out.strip().splitlines()[-1] / "analysis.json").is_file()


def test_the_same_target_is_made_anywhere(script, tmp_path):
    assert script("build_target", "-m", *NETWORK, "store.root=a,b").code == 0
    (a,), (b,) = ((tmp_path / root / "targets").glob("tgt_*") for root in "ab")
    assert a.name == b.name
    for name in ("data.npz", "params.npz", "config.yaml"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    with np.load(a / "params.npz") as params:
        assert sum(params[name].size for name in params.files) == 8 * 2 + 2 + 2 + 1


def test_a_target_can_be_sampled_by_its_id(tiny, script, command, tmp_path):
    before = files(tmp_path)
    chosen = ("sampler=hmc", "sampler.seed=1", *(o for o in TINY if not o.startswith(("model", "data"))))
    outcome = script("sample", f"target={tiny.name}", *chosen)
    assert outcome.code == 0, outcome.text
    assert len(list(tiny.glob("run_hmc_*"))) == 2
    assert {k: v for k, v in files(tmp_path).items() if k in before and not k.endswith("_runs.jsonl")} == {
        k: v for k, v in before.items() if not k.endswith("_runs.jsonl")
    }
    asked = command("sample", *HMC, "sampler.seed=1", "--cfg", "job", "--resolve", "-p", "store.run_dir")
    assert (tmp_path / asked.out.strip().splitlines()[-1]).is_dir()


def test_forcing_a_run_redoes_it_with_the_same_numbers_and_keeps_the_old_one_and_the_target(tiny, script, tmp_path):
    run = run_of(tiny, "hmc")
    (run / "mark").touch()
    before = files(tiny)
    outcome = script("sample", *HMC, "force=true")
    assert outcome.code == 0, outcome.text
    (aside,) = (tmp_path / "runs" / "replaced").iterdir()
    assert (aside / "mark").exists() and (aside / "trace.nc").exists()
    assert not (run / "mark").exists() and (run / "trace.nc").exists()
    assert [k for k, v in files(tiny).items() if before.get(k) == v and not k.startswith(run.name)] == [
        k for k in before if not k.startswith(run.name) and k != "_runs.jsonl"
    ]
    assert_same_draws(aside, run)
    assert_same_analysis(aside, run)


def test_forcing_a_target_moves_it_aside_with_its_runs(tiny, script, tmp_path):
    before = set(files(tiny))
    outcome = script("build_target", *TINY, "force=true")
    assert outcome.code == 0, outcome.text
    (aside,) = (tmp_path / "runs" / "replaced").iterdir()
    assert set(files(aside)) == before
    assert set(files(tiny)) == {"meta.json", "data.npz", "params.npz", "config.yaml", "SHA256SUMS"}


def test_strict_makes_a_bad_result_an_error(tiny, command):
    path = run_of(tiny, "hmc") / "analysis.json"
    for status, code in (("bad", 1), ("warn", 0), ("ok", 0)):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": status}))
        store.seal(path.parent)
        assert command("sample", *HMC, "strict=true").code == code
        assert command("sample", *HMC).code == 0


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED = [
    ("modl=small", "modl: there is no such setting; expected one of model"),
    ("model.detph=2", "Did you mean model.depth?"),
    (
        "model=smal",
        "expected one of base, custom, deep_linear, monomial, normal_crossing, quadratic, small, tanh, wide. Did you mean small?",
    ),
    ("sampler=hcm", "expected one of amclmc, hmc, laplace, mala, mclmc, nuts, sgld. Did you mean hmc?"),
    ("sampler=", "sampler=: there is no such option; expected one of amclmc"),
    ("experiment=nope", "experiment=nope: there is no such option"),
    ("hydra/launcher=nope", "hydra/launcher=nope: there is no such option; expected one of"),
    ("model=null", "cannot be null"),
    ("model=../config", "there is no such option"),
    ("model@foo=base", "Could not override 'model@foo'. Did you mean to override model?"),
    ("foo/bar=1", "foo/bar: there is no such setting"),
    ("+sampler=sgld", "sampler is there already"),
    ("+foo=1", "foo: there is no such setting"),
    ("+model.foo=1", "model.foo: there is no such setting"),
    ("+resources.run.foo=1", "resources.run.foo: there is no such setting; expected one of gpus"),
    ("resources.run.gpus=-1", "resources.run.gpus must be ≥ 0"),
    ("hydra.launcher.jobs=0", "hydra.launcher.jobs must be ≥ 1"),
    ("hydra.launcher.jbos=2", "hydra.launcher.jbos: there is no such setting"),
    ("++model.depht=1", "Did you mean model.depth?"),
    ("model.depth.x=1", "model.depth must be a whole number"),
    ("~model", "model is missing"),
    ("~sampler", "sampler is missing"),
    ("~posterior", "posterior is missing"),
    ("~seed", "seed: there is no such setting, or it was deleted"),
    ("~model.depth", "model.depth cannot be deleted"),
    ("seed=???", "seed is missing"),
    ("model.depth=???", "model.depth"),
    ("seed=", "seed must be a whole number; got ."),
    ("seed=1.5", "seed must be a whole number; got 1.5."),
    ("seed=-1", "seed must be ≥ 0"),
    ("seed=1,2", "add -m"),
    ("seed=range(0,2)", "add -m"),
    ("sampler.draws=abc", "sampler.draws must be a whole number; got abc."),
    ("posterior.gamma=abc", "posterior.gamma must be a number; got abc."),
    ("posterior.gamma=null", "posterior.gamma must not be null"),
    ("posterior.gamma=nan", "posterior.gamma must be > 0"),
    ("model.widths=8", "model.widths must be a list such as [16,16]"),
    ("model.widths=[a]", "model.widths must be a list such as [16,16]; one of its entries is a."),
    ("force=maybe", "force must be true or false; got maybe."),
    ("store=x", "store must be a group of settings; got x."),
    ("store.root=", "store.root must not be empty"),
    ("store.target_id=tgt_0", "store.target_id follows from the configuration"),
    ("model.depth=${foo}", "refers to a setting that does not exist"),
    ("model.depth=${nope:1}", "Unsupported interpolation type nope."),
    ("model.depth=${oc.env:NO_SUCH_THING}", "Environment variable 'NO_SUCH_THING' not found"),
    ("posterior.beta=${model.activation}", "posterior.beta must be a number; got tanh."),
    ("seed=${seed}", "refers to itself"),
    ("", "is not a setting: write key=value"),
    (" ", "is not a setting: write key=value"),
    ("foo", "'foo' is not a setting: write key=value"),
    ("model.depth==2", "is not a setting: write key=value"),
    ("target=", "there is no such target in runs/targets"),
    ("target=..", "there is no such target in runs/targets"),
    ("target=../x", "there is no such target in runs/targets"),
    ("target=tgt_000000000000", "there is no such target in runs/targets"),
    ("store.root=/dev/null/x", "store.root=/dev/null/x: nothing can be written there"),
    ("store.root=/proc/nope", "store.root=/proc/nope: nothing can be written there"),
    ("--config-name=nope", "Cannot find primary config 'nope'"),
    ("--config-dir=nope", "Additional config directory"),
    ("--cfg=foo", "invalid choice: 'foo'"),
    ("--nope", "unrecognized arguments: --nope"),
]


@pytest.mark.parametrize(("argument", "sentence"), REFUSED)
def test_a_wrong_command_line_ends_in_one_sentence_and_leaves_nothing(command, tmp_path, argument, sentence):
    outcome = command("sample", argument)
    assert_one_sentence(outcome, sentence)
    assert sentence in outcome.err and outcome.out == ""
    assert len(outcome.err.splitlines()) == 1 or outcome.err.startswith("usage:")
    assert outcome.err.startswith("usage:") or re.search(r"[^.][.?]\n$", outcome.err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("seed=", "seed must be a whole number; got ."),
        ("seed=range(0,-1)", "The sweep has no combination"),
        ("sampler=glob(x*)", "The sweep has no combination"),
        ("sampler=hmc,hcm", "[sampler=hcm] sampler=hcm: there is no such option"),
        ("model.depth=-1,2", "[model.depth=-1] model.depth must be ≥ 1"),
    ],
)
def test_a_wrong_sweep_ends_in_one_sentence_and_leaves_nothing(command, tmp_path, argument, sentence):
    outcome = command("sample", "-m", argument)
    assert_one_sentence(outcome, sentence)
    assert len(outcome.err.splitlines()) == 1 and outcome.out == ""
    assert list(tmp_path.iterdir()) == []


def test_one_wrong_combination_stops_the_sweep_and_every_error_is_listed(command, tmp_path):
    outcome = command("sample", "-m", "sampler=hmc,nope", "model.depth=2,-1", "posterior.gamma=0")
    assert outcome.code == 1
    lines = outcome.err.splitlines()
    assert sum("model.depth must be" in line for line in lines) == 1
    assert sum("sampler=nope: there is no such option" in line for line in lines) == 2
    assert sum("posterior.gamma must be" in line for line in lines) == 2
    assert len(lines) == 5
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_every_combination_is_said_once(command):
    outcome = command("sample", "-m", "sampler=hmc,sgld,mclmc", "model.depth=-1")
    assert outcome.err.startswith("model.depth must be") and len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    "restated", ["model=base", "model.dim=3", "data.n_data=70", "training=sgd", "seed=1", "++seed=1"]
)
def test_a_target_by_id_takes_no_setting_that_it_fixes(tiny, command, tmp_path, restated):
    before = files(tmp_path)
    options = (restated, "model=quadratic") if restated == "model.dim=3" else (restated,)
    outcome = command("sample", *options, f"target={tiny.name}")
    assert_one_sentence(outcome, "cannot be set together with target=")
    assert files(tmp_path) == before


def test_a_refusal_is_the_same_in_a_real_process(script, tmp_path):
    outcome = script("build_target", "model.depth=-1")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("model.depth must be ≥ 1 and ≤ 100; got -1") and outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_groups_and_how_to_ask_where_a_run_lands(command):
    outcome = command("sample", "--help")
    assert outcome.code == 0
    for group in ("data", "model", "training", "posterior", "sampler"):
        options = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
        assert f"{group}: {', '.join(options)}" in outcome.out
    assert "--cfg job --resolve -p store.run_dir" in outcome.out
    assert "Powered by Hydra" not in outcome.out


# --- what breaks ------------------------------------------------------------------------------------------------------


def test_a_failure_leaves_a_record_and_its_siblings_go_on(script, tmp_path):
    outcome = script("build_target", "-m", *NETWORK, "training=sgd", "training.learning_rate=100,0.001")
    assert outcome.code == 1
    assert "Traceback" not in outcome.text
    (built,) = (tmp_path / "runs" / "targets").glob("tgt_*")
    assert store.open_config(built, "target")["training"]["learning_rate"] == 0.001
    (path,) = (tmp_path / "runs" / "failures").glob("*.json")
    record = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as last_good:
        assert np.all(np.isfinite(last_good["w"]))
    assert path.stem != built.name and record["error"] in outcome.text
    assert "Traceback" in record["traceback"] and (tmp_path / record["log"]).is_file()
    assert {p.name for p in (tmp_path / "runs" / "targets").iterdir()} == {built.name, "_catalog.jsonl"}


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def _edit(path):
    path.write_text(path.read_text().replace("draws: 8", "draws: 9").replace("n_data: 60", "n_data: 61"))


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), _truncate, lambda p: p.write_text("garbage")])
@pytest.mark.parametrize("name", ["analysis.json", "config.yaml"])
def test_a_damaged_run_is_named(tiny, command, tmp_path, damage, name):
    damage(run_of(tiny, "hmc") / name)
    before = files(tmp_path)
    outcome = command("sample", "-m", *TINY, "sampler=hmc,mclmc")
    assert_one_sentence(outcome, f"{run_of(tiny, 'hmc').relative_to(tmp_path) / name} ")
    assert sum("λ̂ =" in line for line in outcome.out.splitlines()) == 1  # the other run is still shown
    assert files(tmp_path) == before


def test_an_edited_run_says_what_was_edited(tiny, command):
    _edit(run_of(tiny, "hmc") / "config.yaml")
    assert_one_sentence(command("sample", *HMC), "(sampler.draws is 9, expected 8)")


def test_an_edited_target_is_not_sampled(tiny, script):
    _edit(tiny / "config.yaml")
    outcome = script("sample", *HMC, "sampler.seed=1")
    assert_one_sentence(outcome, "(data.n_data is 61, expected 60)")
    assert len(list(tiny.glob("run_*"))) == 2


@pytest.mark.parametrize(
    ("name", "damage"),
    [("params.npz", _truncate), ("meta.json", lambda p: p.unlink()), ("meta.json", lambda p: p.write_text("{}"))],
)
def test_a_damaged_target_is_not_sampled(tiny, script, name, damage):
    damage(tiny / name)
    outcome = script("sample", *HMC, "sampler.seed=1")
    assert_one_sentence(outcome, f"{tiny.name}/{name} ")
    assert len(list(tiny.glob("run_*"))) == 2


def test_a_damaged_target_is_named_by_build_target(tiny, command):
    (tiny / "meta.json").write_text("{}")
    assert_one_sentence(command("build_target", *TINY), "meta.json ")


def test_an_interrupted_command_leaves_no_half_directory_and_goes_on_next_time(tmp_path, start, finish):
    process = start(tmp_path, "build_target", *TINY)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/work/tgt_*/build.*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    interrupted = finish(process)
    assert interrupted.code == 130
    assert interrupted.err.startswith("Interrupted:") and "Traceback" not in interrupted.text
    assert not (tmp_path / "runs" / "targets").exists() and list((tmp_path / "runs" / "work").iterdir()) == []
    assert finish(start(tmp_path, "build_target", *TINY)).code == 0
    assert len(list(tmp_path.glob("runs/targets/tgt_*"))) == 1


def test_ctrl_c_raises_nothing_where_it_falls_and_a_second_one_ends_at_once():
    """As inside a library's callback, where a KeyboardInterrupt is swallowed, or worse."""
    program = """
import signal, time
from lambda_hat.system import stopping
stopping.listen()
with stopping.saving(lambda: print("saved", flush=True)):
    signal.raise_signal(signal.SIGINT)
    print("not raised", flush=True)
    try:
        stopping.wait(60)
    except stopping.Stopped as stop:
        print("stopped by", stop.signal, flush=True)
    signal.raise_signal(signal.SIGINT)
    time.sleep(60)
"""
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert outcome.stdout == "not raised\nstopped by 2\nsaved\n"
    assert (outcome.returncode, outcome.stderr[:12]) == (130, "Interrupted:")


def test_two_commands_at_once_leave_one_result_and_both_succeed(tmp_path, start, finish):
    outcomes = [finish(p) for p in [start(tmp_path, "sample", *HMC) for _ in range(2)]]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    (target,) = (tmp_path / "runs" / "targets").glob("tgt_*")
    lines = [[line for line in outcome.out.splitlines() if "λ̂ =" in line] for outcome in outcomes]
    assert lines[0] == lines[1] != []
    assert len(store.read_lines(tmp_path / "runs" / "targets" / "_catalog.jsonl")) == 1
    assert len(store.read_lines(target / "_runs.jsonl")) == 1
    assert not [p for p in tmp_path.rglob(".*.tmp*")]


def test_a_store_may_be_moved_and_its_path_may_have_spaces_and_any_letter(tiny, command, tmp_path):
    moved = tmp_path / "sp ace" / "λ̂ ü"
    moved.parent.mkdir()
    shutil.move(tmp_path / "runs", moved)
    outcome = command("sample", *HMC, f'store.root="{moved}"')
    assert outcome.code == 0 and os.fspath(moved) in outcome.out
    assert np.load(next(moved.glob("targets/tgt_*/data.npz")))["X"].shape[0] == 60


def test_laplace_needs_no_chain_and_has_no_error_bar(script, tmp_path):
    outcome = script("sample", "model=quadratic", "model.dim=3", "data.n_data=60", "sampler=laplace")
    assert outcome.code == 0
    (run,) = tmp_path.glob("runs/targets/tgt_*/run_laplace_*")
    found = store.read_json(run / "analysis.json")
    h, nbeta = np.geomspace(10, 0.01, 3), 60 / np.log(60)
    assert found["llc_mean"] == pytest.approx(0.5 * np.sum(nbeta * h / (nbeta * h + 100)), rel=1e-5)
    assert found["status"] == "ok" and found["llc_interval95"] == [None, None] and found["ess"] is None
    assert {p.name for p in run.iterdir()} == {"trace.nc", "analysis.json", "config.yaml", "SHA256SUMS"}
    assert "laplace  λ̂ = " in outcome.out


def test_a_run_ends_when_its_error_is_reached(script, tmp_path):
    options = ("model=quadratic", "model.dim=50", "data.n_data=60", "posterior.gamma=1", "sampler=hmc")
    outcome = script("sample", "-m", *options, "sampler.mcse_target=0.03,null")
    assert outcome.code == 0
    made = {}
    for run in tmp_path.glob("runs/targets/tgt_*/run_hmc_*"):
        found = store.read_json(run / "analysis.json")
        made[store.open_config(run, "run")["sampler"].get("mcse_target")] = found
    assert made[None]["draws"] == 1000 > made[0.03]["draws"]
    assert made[0.03]["llc_mcse"] <= 0.03 * made[0.03]["llc_mean"]
    assert made[0.03]["ess"] >= 100 and made[0.03]["rhat"] <= 1.05 and made[0.03]["status"] == "ok"
    assert f"{made[0.03]['draws']}/1000 draws, enough for the error aimed at" in outcome.out


@pytest.mark.parametrize("damaged", soak_but([True], [False, True]))
def test_a_compilation_cache_elsewhere_is_used_and_its_damage_passed_over(tiny, cache, tmp_path, damaged):
    """Damaged as by another process that was killed while it wrote."""
    copy = tmp_path / "cache"
    shutil.copytree(cache.partition("=")[2], copy)
    kept = set(copy.glob("*-cache"))
    assert kept
    for path in kept if damaged else ():
        os.truncate(path, path.stat().st_size // 2)
    argv = [sys.executable, str(ROOT / "bin" / "sample.py"), *HMC, "force=true", f"runtime.compilation_cache={copy}"]
    outcome = subprocess.run(
        argv, cwd=tmp_path, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "λ̂ =" in outcome.stdout
    assert set(copy.glob("*-cache")) == kept
