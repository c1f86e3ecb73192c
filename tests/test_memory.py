"""Memory: what is predicted is near what a process takes, what cannot fit is refused before any work, and so is what did not."""

import subprocess
import sys

import pytest
from conftest import ROOT, soak_but

from lambda_hat.jobs import memory
from lambda_hat.system.errors import UserError

WIDTHS = ("model.depth=1", "model.widths=[4]", "training=teacher", "data.noise_model=none")
PLAIN = ("sampler.metric=identity", "sampler.warmup=0", "sampler.step_size=0.01", "sampler.trajectory_length=0.01")
FITS = {
    "few of all": ("sampler=hmc", *WIDTHS, *PLAIN, "sampler.draws=20"),
    "many pairs": ("sampler=laplace", *WIDTHS, "data.n_data=2000000"),
    "many parameters kept": (
        *("sampler=hmc", "model=quadratic", "model.dim=1000", *PLAIN),
        *("sampler.save_params=true", "sampler.draws=10000", "sampler.mcse_target=null"),
    ),
}


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""A small process between: what a process takes at most is reckoned from the size of the one that it was forked from."""


@pytest.mark.parametrize("name", soak_but(["few of all"], FITS))
def test_what_is_predicted_is_near_what_is_taken(name, compose, cache, tmp_path):
    """Not less than two thirds of it, not more than three times."""
    options = (*FITS[name], "runtime.figures=false")
    command = [sys.executable, str(ROOT / "bin" / "sample.py"), *options, cache]
    outcome = subprocess.run([sys.executable, "-c", PEAK, *command], cwd=tmp_path, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    taken = 1024 * int(outcome.stdout.splitlines()[-1])
    predicted = sum(memory.predict(compose(*options), "run").values())
    assert 0.67 * taken < predicted < 3 * taken, (taken / memory.GIB, predicted / memory.GIB)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("data.n_data=100000000",), "for data and training"),
        (("model=quadratic", "model.dim=10000000", "sampler.chains=1000"), "for chains"),
        (("sampler.save_params=true", "sampler.draws=100000000"), "for draws"),
        (("runtime.memory_limit=0.1",), "runtime.memory_limit is 0.1 GiB"),
    ],
)
def test_what_cannot_fit_is_refused_before_any_work(command, tmp_path, options, sentence):
    outcome = command("sample", *options)
    assert outcome.code == 1 and sentence in outcome.text and "is predicted to take" in outcome.text
    assert "Traceback" not in outcome.text
    assert not (tmp_path / "runs" / "targets").exists()


def test_the_job_s_allocation_is_what_there_is(monkeypatch):
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "512")
    assert memory.available(None) == (512 * 2**20, "this SLURM job has")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4")
    assert memory.available(None) == (400 * 2**20, "this SLURM job has")
    assert memory.available(2.0) == (2 * memory.GIB, "runtime.memory_limit is")


def test_out_of_memory_is_said_in_the_same_words(compose):
    config = compose("data.n_data=100000")
    for error in (MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes")):
        said = memory.out_of_memory(error, config, "run")
        assert isinstance(said, UserError) and str(said).startswith("Memory has run out. This job is predicted to take")
    assert memory.out_of_memory(ValueError("no"), config, "run") is None


def test_a_process_that_runs_out_of_memory_says_so(cache, tmp_path):
    """NumPy's and XLA's own errors, under a limit on data."""
    options = (*WIDTHS, "data.n_data=8000000", "sampler=laplace", "runtime.memory_limit=100")
    command = [sys.executable, str(ROOT / "bin" / "sample.py"), *options, cache]
    limited = ["sh", "-c", 'ulimit -d 1572864 && exec "$@"', "sh", *command]  # KiB
    outcome = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert outcome.returncode == 1, outcome.stderr
    assert "Memory has run out." in outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stdout + outcome.stderr
    assert not list(tmp_path.glob("runs/targets/tgt_*"))
