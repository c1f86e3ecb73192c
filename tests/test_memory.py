"""Memory: what is predicted is near what a process takes, what cannot fit is refused before any work, and so is what did not."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import problems  # noqa: F401  (settles JAX)
import pytest
from conftest import ROOT, soak_but

import lambda_hat
from lambda_hat.jobs import memory, pipeline
from lambda_hat.system.errors import UserError
from lambda_hat.targets import artifact

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


# --- of networks that only the source tells the size of ---------------------------------------------------------------

NETWORK = """
import jax.numpy as jnp

def make(width: int = 4):
    def init(key):
        return {"layer0": {"weight": jnp.ones((3, width)), "bias": jnp.zeros(width)},
                "layer1": {"weight": jnp.ones((width, 1)), "bias": jnp.zeros(1)}}
    def apply(p, x):
        return jnp.tanh(x @ p["layer0"]["weight"] + p["layer0"]["bias"]) @ p["layer1"]["weight"] + p["layer1"]["bias"]
    return init, apply
"""
WIDTH = 600
BUILT_IN = ("model.in_dim=3", "model.depth=null", f"model.widths=[{WIDTH}]", "model.bias=true", "model.activation=tanh")
SAME = ("model=custom", "model.source=net.py:make", "model.options={width: 600}")
FROM_FILE = ("data=file", "data.path=xy.npz", "data.noise_scale=1", "training.steps=0", "runtime.figures=false")


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    x = np.random.default_rng(0).standard_normal((500, 3))
    np.savez("xy.npz", X=x, Y=x[:, :1])
    return tmp_path


@pytest.mark.parametrize("restricted", [(), ("posterior.parameters=[layer1.*]",)])
def test_a_network_of_one_s_own_is_predicted_to_take_what_the_same_one_built_in_does(files, compose, restricted):
    words = (*FROM_FILE, *restricted, "sampler=hmc", "sampler.chains=400", "sampler.save_params=true")
    own, built_in = (compose.__wrapped__(*words, *model) for model in (SAME, BUILT_IN))
    sizes = artifact.prepare(own).sizes
    assert sizes.arrays == built_in.model.arrays()
    for stage in ("target", "run"):
        expected, found = memory.predict(built_in, stage), memory.predict(own, stage, sizes)
        assert found.keys() == expected.keys()
        assert list(found.values()) == pytest.approx(list(expected.values()), rel=0.02)
        assert sum(found.values()) > sum(memory.predict(own, stage).values()) + memory.GIB / 500


def test_a_restricted_run_is_predicted_by_the_parameters_that_move(compose):
    """p of 5·600 + 1: chains take a vector of each of those, and the Hessian of 601 is taken whole."""
    words = ("data.n_data=500", "sampler=hmc", *BUILT_IN)
    whole, part = (memory.predict(compose(*words, *more), "run") for more in ((), ("posterior.parameters=[layer1.*]",)))
    assert whole["chains"] / part["chains"] == pytest.approx((5 * WIDTH + 1) / (WIDTH + 1))
    assert part["the curvature"] == 8 * 10 * (WIDTH + 1) ** 2
    assert whole["data and training"] == part["data and training"]


HUGE = ("sampler=hmc", "sampler.chains=10000", "sampler.draws=10", "runtime.memory_limit=3")


def test_one_s_own_network_that_cannot_fit_is_refused_before_any_work(files, command):
    """Where its target is there, by the sizes that this has recorded."""
    own = (*SAME, *FROM_FILE, "training.polish_steps=0")
    outcome = command("sample", *own, *HUGE)
    assert outcome.code == 1 and "is predicted to take" in outcome.text and "for chains" in outcome.text
    assert "Traceback" not in outcome.text and not (files / "runs").exists()
    assert command("build_target", *own).code == 0
    outcome = command("sample", *own, *HUGE)
    assert outcome.code == 1 and "for chains" in outcome.text and "Traceback" not in outcome.text
    assert not list(files.glob("runs/targets/tgt_*/run_*"))


def test_memory_that_runs_out_while_a_target_is_built_is_said_with_the_size_of_its_model(files, compose, monkeypatch):
    """Which is not known before the source has run."""
    config = compose.__wrapped__(*SAME, *FROM_FILE, "model.options={width: 200000}", "store.root=runs")
    said = str(memory.out_of_memory(MemoryError(), config, "target"))
    assert (
        "0.75 GiB of memory and what the model needs, which only its source tells" in said
        and " of them for " not in said
    )

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(artifact, "_search", fail)
    expected = memory.predict(config, "target", artifact.prepare(config).sizes)
    with pytest.raises(UserError, match="Memory has run out") as caught:
        pipeline.make(pipeline.job("target", config))
    assert sum(expected.values()) > 1.5 * memory.GIB
    assert f"is predicted to take {sum(expected.values()) / memory.GIB:.3g} GiB of memory" in str(caught.value)
    assert "of them for data and training" in str(caught.value)


def test_an_estimate_that_a_store_is_to_keep_is_refused_likewise(files):
    """A million parameters, at ten thousand chains."""
    width = 200_000
    shapes = {"layer0": {"weight": (3, width), "bias": (width,)}, "layer1": {"weight": (width, 1), "bias": (1,)}}
    params = {layer: {name: np.zeros(shape) for name, shape in arrays.items()} for layer, arrays in shapes.items()}

    def apply(p, x):
        hidden = jnp.tanh(x @ p["layer0"]["weight"] + p["layer0"]["bias"])
        return hidden @ p["layer1"]["weight"] + p["layer1"]["bias"]

    with np.load("xy.npz") as arrays:
        x, y = arrays["X"], arrays["Y"]
    kept = {"store": "runs", "source": "net.py:make", "options": {"width": width}}
    with pytest.raises(UserError, match=r"is predicted to take .* for chains"):
        lambda_hat.estimate(apply, params, x, y, noise_scale=1, chains=10_000, draws=1, **kept)
    assert not (files / "runs").exists()


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
