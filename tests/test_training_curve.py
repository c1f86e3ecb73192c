"""λ̂ along training: the study in a small form, its numbers, and the curve in results and report."""

import json
import re

import pytest

import lambda_hat

SMALL = (
    *("experiment=training_curve", "model.depth=null", "model.widths=[2]", "data.n_data=40", "training.steps=30"),
    *(
        "training.polish_steps=20",
        "training.checkpoint=0,3,30,null",
        "seed=0,1",
        "sampler.draws=40",
        "sampler.warmup=20",
    ),
    *("sampler.mcse_target=null", "runtime.devices=1"),
)


def test_the_study_trains_once_a_seed_and_shows_the_curve(script, tool, tmp_path):
    outcome = script("sample", "-m", *SMALL, "runtime.figures=false")
    assert outcome.code == 0, outcome.text
    assert len(list(tmp_path.glob("runs/trajectories/trj_*"))) == 2
    table = lambda_hat.load_results(tmp_path / "runs")
    assert len(table) == 8 and sorted(table["training_step"].dropna()) == [0, 0, 3, 3, 30, 30]
    along = table[table["training_step"].notna()]
    assert along["train_loss"].notna().all() and (along["descent_gain"] > 0).all()
    sums = along["llc_mean"] + along["descent_gain"]
    assert along["llc_from_minimum"].tolist() == pytest.approx(sums.tolist())
    assert along.groupby("training_step")["train_loss"].mean().is_monotonic_decreasing
    assert f"+ descent gain {along['descent_gain'].iloc[0]:.5g} = " in outcome.out

    start = along[along["training_step"] == 0].iloc[0]
    summary = json.loads((tmp_path / start["directory"] / "analysis.json").read_text())
    assert summary["llc_from_minimum"] == pytest.approx(summary["llc_mean"] + summary["descent_gain"])
    concerns = {finding["check"]: finding["concerns"] for finding in summary["findings"]}
    assert concerns["baseline"] == "w0" and "step 0 of training" in "; ".join(summary["status_reasons"])

    shown = tool("results", "groupby=training.checkpoint").out
    assert re.search(r"^ *30 ", shown, re.M) and re.search(r"^ *0 ", shown, re.M), shown
    assert tool("report").code == 0
    page = (tmp_path / "runs" / "report.html").read_text()
    section = page[page.index("Along training") :].split("</section>")[0]
    assert "6 runs at 3 steps from 0 to 30, 2 seeds" in section
    assert section.count("<figure>") == 3 and section.count('class="whisker') == 6
