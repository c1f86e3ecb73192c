"""Runs on any number of CPU devices: each in a process of its own, for the number is settled when JAX starts."""

import json

import pytest

TINY = (
    *("model.depth=null", "model.widths=[4]", "model.in_dim=3", "data.n_data=200"),
    *("training.steps=100", "training.polish_steps=50", "sampler.draws=50", "sampler.warmup=50"),
    *("sampler.mcse_target=null", "runtime.figures=false"),
)


@pytest.mark.parametrize(
    ("sampler", "devices", "chains"), [("hmc", 8, 4), ("mclmc", 5, 3), ("sgld", 2, 1)], ids=lambda value: str(value)
)
def test_a_sampler_runs_with_any_number_of_chains_on_any_number_of_devices(script, tmp_path, sampler, devices, chains):
    outcome = script("sample", *TINY, f"sampler={sampler}", f"runtime.devices={devices}", f"sampler.chains={chains}")
    assert outcome.code == 0, outcome.text
    (summary,) = (tmp_path / "runs" / "targets").glob("tgt_*/run_*/analysis.json")
    assert 0 < json.loads(summary.read_text())["llc_mean"] < 10  # p/2 = 10.5
