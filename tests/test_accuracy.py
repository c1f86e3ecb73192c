"""The truth suite composes, and what is said of its results is right: on a store written by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import problems
import pytest
from problems import config

from lambda_hat import config as configs
from lambda_hat.analysis.summary import Summary
from lambda_hat.inspect import accuracy
from lambda_hat.inspect.records import RunRecord, flat
from lambda_hat.system.errors import StoreError
from lambda_hat.targets import artifact

ROOT = Path(__file__).parent.parent
VERSION_1 = json.loads((Path(__file__).parent / "analysis_version1.json").read_text())
TRUTHS = sorted(path.stem for path in (ROOT / "conf" / "truth").glob("*.yaml"))


@pytest.mark.parametrize("name", TRUTHS)
def test_every_truth_is_one(name):
    """It composes with every sampler, its target has a λ, and a few words describe it alone."""
    for sampler in ("hmc", "mclmc", "sgld"):
        made = config("data=whitened", f"truth={name}", f"sampler={sampler}")
        assert configs.problems(made) == []
    target = artifact.build(made, problems.silent)
    assert target.meta["truth"]["lambda"] > 0
    assert target.meta["metrics"]["further_descent_gain"] < 1e-3


def test_an_experiment_brings_its_sweep_and_the_command_line_goes_before_it(command):
    outcome = command("build_target", "-m", "experiment=truth_smoke", "truth=crossing,quadratic")
    assert outcome.code == 0
    assert sum(line.startswith("target  p =") for line in outcome.out.splitlines()) == 2


def test_a_sweep_needs_its_flag(command):
    outcome = command("sample", "experiment=truth_smoke")
    assert outcome.code == 1
    assert outcome.text.strip().endswith(
        "experiment=truth_smoke is a sweep over truth, posterior.beta, sampler: run it with -m."
    )


def run(target_id, sampler, model, llc, half, truth, finite, status="ok", seed=0):
    """A finished run as the reader gives it."""
    data = {"teacher_rank": 2, "teacher_balanced": True, "noise_model": "none"}
    record = VERSION_1 | {
        "sampler": sampler,
        "sampler_config": {"seed": seed},
        "n": 200,
        "beta": 5.0,
        "gamma": 1.0,
        "llc_mean": llc,
        "llc_interval95": [None, None] if llc is None else [llc - half, llc + half],
        "truth": VERSION_1["truth"] | {"lambda": truth, "finite": finite},
        "status": status,
    }
    run_id = f"run_{sampler}_{seed:08x}"
    return RunRecord(
        state="done",
        target_id=target_id,
        run_id=run_id,
        directory=Path(target_id) / run_id,
        settings=flat({"model": model, "data": data, "sampler": {"seed": seed}}),
        summary=Summary.from_json(record, "analysis.json"),
    )


QUADRATIC = {"kind": "quadratic", "dim": 20}
CROSSING = {"kind": "normal_crossing", "powers": [2, 1]}
LINEAR = {"kind": "deep_linear", "in_dim": 5, "widths": [3], "out_dim": 5}


@pytest.fixture
def runs():
    return [
        run("tgt_a", "hmc", QUADRATIC, 10.0, 0.2, 10.0, 9.9),
        run("tgt_a", "sgld", QUADRATIC, 12.0, 0.2, 10.0, 9.9),  # grossly off, and not flagged
        run("tgt_b", "hmc", CROSSING, 0.3, 0.01, 0.25, 0.23, "warn"),  # as far off, but flagged
        run("tgt_b", "sgld", CROSSING, None, 0.0, 0.25, 0.23, "bad"),
        run("tgt_c", "hmc", LINEAR, 10.2, 0.1, 9.5, None),  # above the quadratic's, though its truth is below
        run("tgt_c", "sgld", LINEAR, 9.9, 0.1, 9.5, None),
    ]


def test_rows(runs):
    rows = {(row.target, row.sampler): row for row in accuracy.compare(runs, "runs")}
    assert [target for target, sampler in rows if sampler == "hmc"] == [
        "crossing 2,1",
        "linear 5-3-5 rank 2",
        "quadratic 20",
    ]
    right, wrong = rows["quadratic 20", "hmc"], rows["quadratic 20", "sgld"]
    assert right.finite_error == pytest.approx(10 / 9.9 - 1)
    assert right.error == 0
    assert (right.covered, right.wrong) == (True, False)
    assert (wrong.covered, wrong.wrong) == (False, True)
    assert rows["crossing 2,1", "sgld"].wrong  # no number at all
    linear = rows["linear 5-3-5 rank 2", "sgld"]
    assert (linear.finite, linear.exact, linear.covered) == (10.2, False, None)
    assert linear.nbeta == 1000
    assert rows["linear 5-3-5 rank 2", "hmc"].finite is None


def test_order(runs):
    """Of HMC's three pairs the one of the quadratic and the linear network is the wrong way round."""
    rows = accuracy.compare(runs, "runs")
    assert accuracy.order([row for row in rows if row.sampler == "hmc"]) == (2, 3)


def test_summary_counts_what_was_wrong_and_not_flagged(runs):
    lines = {
        line.split()[0]: line.split() for line in accuracy.summary(accuracy.compare(runs, "runs")).splitlines()[1:]
    }
    assert lines["hmc"][-2] == "0"
    assert lines["sgld"][-2] == "1"
    assert lines["hmc"][1] == "3"
    assert "50.0 % of 2" in " ".join(lines["hmc"])


def test_seeds_are_put_together(runs):
    for seed in range(1, 5):
        runs.append(run("tgt_a", "hmc", QUADRATIC, 9.9 + 0.15 * seed, 0.2, 10.0, 9.9, seed=seed))
    line = next(
        line
        for line in accuracy.table(accuracy.compare(runs, "runs")).splitlines()
        if "quadratic" in line and "hmc" in line
    )
    assert "    5        40.0 %" in line  # 10.0 and 10.05 ± 0.2 hold 9.9; 10.2, 10.35, 10.5 do not


def test_figures_are_drawn(runs, tmp_path):
    accuracy.draw(accuracy.compare(runs, "runs"), tmp_path / "accuracy")
    assert sorted(path.name for path in (tmp_path / "accuracy").iterdir()) == [
        "error_by_sampler.png",
        "llc_against_truth.png",
    ]


def test_different_estimands_are_not_averaged(runs):
    """Two values of γ: each seed's estimate keeps its own line."""
    other = replace(runs[0].summary, estimand=replace(runs[0].summary.estimand, loss="mse"), llc_mean=20.0)
    runs.append(replace(runs[0], run_id="run_hmc_00000001", summary=other))
    lines = [
        line
        for line in accuracy.table(accuracy.compare(runs, "runs")).splitlines()
        if "quadratic" in line and "hmc" in line
    ]
    assert [float(line.split()[7]) for line in lines] == [10.0, 20.0]


def test_script(tiny, tool):
    outcome = tool("accuracy", "runs")
    assert outcome.code == 0
    assert "quadratic 2" in outcome.out
    assert not outcome.err
    empty = tool("accuracy", "none")
    assert empty.code == 1
    assert empty.err.count("\n") == 1


def test_nothing_to_judge(tmp_path):
    with pytest.raises(StoreError, match="no finished run of a target whose λ is known"):
        accuracy.load(tmp_path)


def test_a_run_without_a_number_is_not_covered(runs):
    row = next(
        row for row in accuracy.compare(runs, "runs") if row.sampler == "sgld" and row.target.startswith("crossing")
    )
    assert math.isnan(row.llc)
    assert row.covered is False
