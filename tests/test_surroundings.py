"""What is hashed is what is computed: no setting of JAX, no variable and no order of work changes a number under the same hash."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
import xarray as xr

import lambda_hat
from lambda_hat.jobs import pipeline
from lambda_hat.launch import frozen, task
from lambda_hat.system import devices, machine
from lambda_hat.system.errors import UserError

QUICK = (
    *("model.depth=null", "model.widths=[3]", "model.in_dim=2", "data=whitened", "data.n_data=60", "training.steps=30"),
    *("training.polish_steps=10", "sampler.draws=10", "sampler.warmup=10", "sampler.mcse_target=null"),
    *("runtime.figures=false", "runtime.devices=2", "runtime.progress=false"),
    f"runtime.compilation_cache={problems.CACHE}",
)
"""A target with a drawn data set, a teacher, minibatches and a polish, and runs whose warm-up takes a curvature."""


def build(root, *overrides):
    """A job's numbers, by file: of its target, the curvature at w0, and the draws of its run."""
    job = pipeline.job("run", problems.config(*QUICK, *overrides, f"store.root={root}"))
    pipeline.make(job)
    return job.paths.run_id, numbers(job.paths.target)


def numbers(target):
    """The digest of every array below a target's directory."""
    arrays = {}
    for path in sorted(target.rglob("*.npz")):
        with np.load(path) as file:
            arrays |= {f"{path.name} {name}": file[name] for name in file.files}
    for path in sorted(target.glob("run_*/trace.nc")):
        with xr.open_datatree(path) as tree:
            for group in ("posterior", "sample_stats"):
                arrays |= {f"{path.parent.name} {name}": leaf.to_numpy() for name, leaf in tree[group].items()}
    return {
        name: hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
        for name, array in arrays.items()
        if name[-4:] != "time"
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return build(tmp_path_factory.mktemp("plain"))


AMBIENT = {
    "default_prng_impl": "rbg",
    "threefry_partitionable": False,
    "random_seed_offset": 7,
    "default_matmul_precision": "bfloat16",
    "enable_x64": False,
    "numpy_dtype_promotion": "strict",
    "numpy_rank_promotion": "raise",
    "debug_nans": True,
    "disable_jit": True,
}


@pytest.mark.parametrize("name", AMBIENT)
def test_no_setting_of_jax_changes_a_target_or_a_run(name, expected, tmp_path):
    before = getattr(jax.config, f"jax_{name}")
    jax.config.update(f"jax_{name}", AMBIENT[name])
    try:
        assert build(tmp_path) == expected
    finally:
        jax.config.update(f"jax_{name}", before)


def test_no_variable_changes_a_target_or_a_run(expected, tmp_path):
    """All at once, in a process of its own, which computes nothing on the devices that it is told to make."""
    variables = {f"JAX_{name.upper()}": str(value) for name, value in AMBIENT.items()}
    variables |= {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=3",
        "JAX_PLATFORMS": "cpu",
        "OPENBLAS_NUM_THREADS": "1",
    }
    variables |= {"LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "5", "TZ": "Asia/Tokyo"}
    script = Path(__file__).parent.parent / "bin" / "sample.py"
    subprocess.run(
        [sys.executable, script, *QUICK, f"store.root={tmp_path}"], env=os.environ | variables, check=True, timeout=600
    )
    (target,) = (tmp_path / "targets").glob("tgt_*")
    assert numbers(target) == expected[1]


def test_the_order_of_a_sweep_changes_no_run(tmp_path):
    samplers = ("hmc", "sgld", "mclmc")
    for root, order in {"one": samplers, "other": samplers[::-1]}.items():
        for sampler in order:
            build(tmp_path / root, f"sampler={sampler}")
    one, other = (numbers(next((tmp_path / root / "targets").iterdir())) for root in ("one", "other"))
    assert one == other


def test_a_key_is_the_same_in_all_surroundings():
    """Threefry's key of a seed is the seed's two words."""
    with jax.default_prng_impl("rbg"), jax.enable_x64(False):
        key = devices.key(5)
    assert jax.random.key_impl(key) == "threefry2x32"
    assert jax.random.key_data(key).tolist() == [0, 5]


def test_an_estimate_leaves_the_callers_settings_and_is_the_same_under_any():
    """And so is every array and key that the caller makes afterwards."""
    flags = sorted(
        f"jax_{name}" for name in (*devices.SETTINGS, "platforms", "num_cpu_devices", "compilation_cache_dir")
    )
    x = np.linspace(-1, 1, 50).reshape(25, 2)

    def estimate():
        return lambda_hat.estimate(
            lambda w, x: jnp.tanh(x @ w), np.array([0.3, -0.2]), x, x[:, 0], noise_scale=0.5, draws=20, warmup=20,
            mcse_target=None,
        )  # fmt: skip

    plain = estimate()
    with (
        jax.enable_x64(False),
        jax.default_prng_impl("rbg"),
        jax.threefry_partitionable(False),
        jax.default_matmul_precision("bfloat16"),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        before = [getattr(jax.config, flag) for flag in flags]
        strange = estimate()
        assert [getattr(jax.config, flag) for flag in flags] == before
        assert jnp.zeros(2).dtype == jnp.float32
        assert jax.random.key_impl(jax.random.key(0)) == "rbg"
    assert np.array_equal(plain.trace["posterior"]["llc"], strange.trace["posterior"]["llc"])


# --- platforms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platforms", "override", "sentence"),
    [
        ("cuda", "auto", "the environment variable JAX_PLATFORMS=cuda asks for devices .* unset it, or set runtime.platform=cpu"),
        ("", "gpu", "runtime.platform=gpu: JAX finds no GPU here.*resources.run.gpus=1"),
    ],
)  # fmt: skip
def test_a_device_that_is_not_there_is_named_with_who_asks_for_it(platforms, override, sentence, monkeypatch):
    def none():
        raise AssertionError

    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(jax, "devices", none)
    with pytest.raises(UserError, match=sentence):
        devices.start(replace(problems.config().runtime, platform=override, compilation_cache=None))
    jax.config.update("jax_platforms", "cpu")


def test_a_job_without_a_gpu_builds_targets_on_the_cpu_whatever_is_asked_of_runs(monkeypatch):
    """Also where a .bashrc exports JAX_PLATFORMS."""
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    task.Task("launch.json", [], gpus=0)._settle({"code": frozen.code()})
    assert os.environ["JAX_PLATFORMS"] == "cpu"
    target, run = (pipeline.job(stage, problems.config("runtime.platform=gpu")) for stage in ("target", "run"))
    assert task._as_allotted(target, 0).config.runtime.platform == "cpu"
    assert task._as_allotted(run, 0).config.runtime.platform == "gpu"
    assert task._as_allotted(target, None).config.runtime.platform == "gpu"


# --- cores ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def system(monkeypatch):
    """`system(**files)`: a machine of four cores and eight hyperthreads, with these files."""

    def made(files):
        topology = {
            f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": f"{number % 4},{number % 4 + 4}"
            for number in range(8)
        }
        monkeypatch.setattr(machine, "_text", lambda path: (topology | files).get(str(path), ""))
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)

    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    return made


@pytest.mark.parametrize(
    ("files", "job", "cores"),
    [
        ({}, None, 4),
        ({}, "3", 3),
        ({"/sys/fs/cgroup/cpu.max": "250000 100000"}, None, 2),
        ({"/sys/fs/cgroup/cpu.max": "max 100000"}, "16", 4),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/cpu.max": "50000 100000"}, None, 1),
    ],
    ids=["hyperthreads", "a job of SLURM", "a container", "no limit", "less than one core"],
)
def test_cores_are_those_that_this_process_may_keep_busy(system, monkeypatch, files, job, cores):
    system(files)
    if job:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", job)
    assert machine.cores() == cores
