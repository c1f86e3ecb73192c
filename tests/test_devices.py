"""One layout a run: the same bits on any number of CPU devices, each number in a process of its own, settled when JAX starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import problems  # noqa: F401  (starts JAX with two devices)
import pytest

from lambda_hat.system import devices

TINY = (
    *("model.depth=null", "model.widths=[4]", "model.in_dim=3", "data.n_data=200"),
    *("training.steps=100", "training.polish_steps=50", "sampler.draws=50", "sampler.warmup=50"),
    *("sampler.mcse_target=null", "runtime.figures=false"),
)


def cells(count, names):
    """What `layouts.py` makes of these cells on so many devices: the digest of each and the devices that it used."""
    script = Path(__file__).parent / "layouts.py"
    outcome = subprocess.run(
        [sys.executable, script, *names],
        env=os.environ | {"TEST_DEVICES": str(count), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = [json.loads(line) for line in outcome.stdout.splitlines()]
    return {cell["cell"]: (cell["digest"], cell["devices"]) for cell in found}


def assert_laid_out(made, count):
    for name, (_, used) in made.items():
        chains = int(name.partition(":")[2] or count)
        assert used == max(k for k in range(1, count + 1) if chains % k == 0), (name, count)


@pytest.mark.soak
def test_the_same_bits_on_any_number_of_devices():
    """A diagonal: the target, curvatures dense and by layers, L_n and |w − w0|² of every draw; Stein's terms are not compared."""
    diagonal = {16: ["hmc:4"], 3: ["sgld:3", "mclmc:3"]}
    plain = cells(1, [name for names in diagonal.values() for name in names])
    for count, names in diagonal.items():
        made = cells(count, names)
        assert_laid_out(made, count)
        for name, (digest, _) in made.items():
            assert digest == plain[name][0], (name, count)


@pytest.mark.soak
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 16])
def test_every_sampler_runs_with_any_number_of_chains_on_any_number_of_devices(count):
    names = [f"{sampler}:{chains}" for sampler in ("hmc", "sgld", "mclmc") for chains in (1, 3, 4, 5)]
    made = cells(count, names)
    assert list(made) == ["target", *names]
    assert_laid_out(made, count)


@pytest.mark.parametrize("forced", [8, pytest.param(16, marks=pytest.mark.soak)])
def test_devices_that_the_environment_forces_are_not_used_beyond_the_cores(script, tmp_path, monkeypatch, forced):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_force_host_platform_device_count={forced}")
    outcome = script("sample", *TINY, "sampler.chains=4")
    assert outcome.code == 0, outcome.text
    (path,) = (tmp_path / "runs" / "targets").glob("tgt_*/run_*/analysis.json")
    summary = json.loads(path.read_text())
    assert 0 < summary["llc_mean"] < 10  # p/2 = 10.5
    assert summary["provenance"]["devices"] == "1 × cpu"  # too little work to be shared


def test_the_curvature_of_many_outputs_by_layers_does_not_wait_for_ever_on_two_devices(script, tmp_path, monkeypatch):
    """LAPACK's calls in a program on several devices would."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    network = ("model=custom", "model.source=lambda_hat.studies.modular_addition:make")
    outcome = script(
        *("build_target", *network, "model.options={modulus: 23, units: 48}", "data=modular", "data.modulus=23"),
        *("data.n_data=370", "training=adamw", "training.checkpoint=10", "training.steps=10", "runtime.devices=2"),
    )
    assert outcome.code == 0 and "p = 3312" in outcome.text, outcome.text


def test_the_size_of_the_work_decides_the_layout(monkeypatch):
    """Nothing is spread that is done before the devices have found one another, and never over more devices than are asked for."""
    several = devices.layout(1e9)
    assert several.one_by_one and len(several.devices) == len(jax.local_devices()) > 1
    few = devices.layout(1e5)
    assert not few.one_by_one and len(few.devices) == 1
    assert (devices.parts(1e5), devices.parts(1e9)) == (1, devices.PARTS)
    assert [len(several.used(length)) for length in (1, 3, 4)] == [1, 1, 2]
    with jax.default_device(jax.devices()[1]):
        assert devices.layout(1e9).devices == (jax.devices()[1],)


def test_a_program_puts_its_arguments_where_it_runs():
    """Whatever devices they lie on: fault A1 was two programs with devices of their own."""
    layout = devices.layout(1e9)
    by_twos = layout.program(lambda x, y: x + y, 2, (True, False), True)
    alone = layout.program(lambda x: devices.total(lambda row: row, x), 3, (True,), False)
    placed = layout.place(np.arange(6.0).reshape(2, 3), 2, True)
    made = by_twos(placed, jax.device_put(1.0, jax.devices()[1]))
    np.testing.assert_array_equal(alone(jax.numpy.swapaxes(made, 0, 1)), [6.0, 15.0])
