"""What the tests share: composing in process, running the scripts, and one tiny target with a run, made once."""

import contextlib
import ctypes
import functools
import gc
import io
import logging
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jaxtyping
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

if os.environ.get("TEST_TYPES"):  # the hints of these are checked at every call, shapes and dtypes too
    rooms = ["lambda_hat"]
    jaxtyping.install_import_hook(rooms, "typechecks.check")
from lambda_hat.commands import main as cli
from lambda_hat.config import hydra_glue

ROOT = Path(__file__).parent.parent

# In the background of a shell SIGINT is ignored, and would be by what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = (
    "model=quadratic",
    "model.dim=2",
    "data.n_data=60",
    "sampler.draws=8",
    "sampler.warmup=2",
    "sampler.chains=2",
    "sampler.metric=identity",
    "sampler.step_size=0.01",
    "runtime.devices=1",
)
"""Overrides of a job that is nearly all start-up."""


def tiny_but(*overrides):
    """TINY with `overrides` in place of its own values: a setting that is given twice is refused."""
    given = {override.partition("=")[0] for override in overrides}
    return (*(override for override in TINY if override.partition("=")[0] not in given), *overrides)


def pytest_addoption(parser):
    parser.addoption("--soak", action="store_true", help="run the long tests as well: kills, races, fuzz, matrices")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--soak"):
        for item in items:
            if "soak" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="a long test: run it with --soak"))


def soak_but(quick, names):
    """Parameters of a test: those of `quick` in every run, the others with --soak."""
    assert set(quick) <= set(names)
    return [name if name in quick else pytest.param(name, marks=pytest.mark.soak) for name in names]


class Outcome(NamedTuple):
    """What a command left: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def text(self):
        return self.out + self.err


@pytest.fixture(autouse=True, scope="module")
def _programs_are_let_go():
    """Compiled programs of one module are of no use to the next, and take gigabytes together."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()
        if sys.platform == "linux":  # else what was freed stays with the process
            ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def compose():
    """`compose(*overrides) -> config.Config`, in process."""
    hydra_glue.register()

    @functools.cache
    def composed(*overrides):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return hydra_glue.to_config(hydra_compose("config", list(overrides)))

    return composed


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Overrides that let all commands of this session share their compiled programs."""
    return f"runtime.compilation_cache={tmp_path_factory.mktemp('cache')}"


@pytest.fixture(scope="session")
def start(cache):
    """`start(cwd, name, *argv)`: a process of bin/<name>.py, not waited for."""

    def started(cwd, name, *argv, python=()):
        more = () if any(override.startswith("runtime.compilation_cache=") for override in argv) else (cache,)
        process = subprocess.Popen(
            [sys.executable, *python, str(ROOT / "bin" / f"{name}.py"), *argv, *more],
            cwd=cwd,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _PROCESSES.append(process)
        return process

    return started


_PROCESSES = []
"""What the running test has started: ended after it, so that a test that fails leaves nothing to the next one."""


@pytest.fixture(autouse=True)
def _no_process_is_left():
    yield
    while _PROCESSES:
        process = _PROCESSES.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()
        for stream in (process.stdout, process.stderr):
            stream.close()


@pytest.fixture(scope="session")
def finish():
    """`finish(process)`: wait for it, at most three minutes."""

    def finished(process):
        try:
            out, err = process.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return Outcome(process.returncode, out, err)

    return finished


@pytest.fixture
def script(start, finish, tmp_path):
    """`script(name, *argv)`: bin/<name>.py in a process of its own, in `tmp_path`."""
    return lambda name, *argv, **options: finish(start(tmp_path, name, *argv, **options))


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`command(name, *argv)`: the same in this process and in `tmp_path`, for what does no work (20 ms, not 0.5 s)."""
    root = logging.getLogger()
    kept = root.handlers[:], root.level

    def ran(name, *argv):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *argv])
        if (
            "absl.logging" in sys.modules
        ):  # whose handler would close pytest's own standard error when logging is set up anew
            monkeypatch.setattr(sys.modules["absl.logging"].PythonHandler, "close", lambda handler: None)
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main({"sample": "run", "build_target": "target"}[name])
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1
                if isinstance(stop.code, str):
                    print(stop.code, file=sys.stderr)
        return Outcome(code, out.getvalue(), err.getvalue())

    yield ran
    root.handlers[:], root.level = kept


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """`tool(name, *argv)`: a script of bin/ that makes no run, in this process and in `tmp_path`."""

    def ran(name, *argv):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, argv)])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "bin" / f"{name}.py"), run_name="__main__")
        code = stop.value.code
        if isinstance(code, str):
            print(code, file=err)
        return Outcome(1 if isinstance(code, str) else code or 0, out.getvalue(), err.getvalue())

    return ran


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory, start, finish):
    """The directory in which `sample.py -m <TINY> sampler=hmc,mclmc` has run, and its outcome; to be read only."""
    directory = tmp_path_factory.mktemp("tiny")
    outcome = finish(start(directory, "sample", "-m", *TINY, "sampler=hmc,mclmc"))
    assert outcome.code == 0, outcome.text
    return directory, outcome


@pytest.fixture
def tiny(tiny_store, tmp_path):
    """A copy of the tiny store in `tmp_path`, to be damaged at will; returns the target's directory."""
    shutil.copytree(tiny_store[0], tmp_path, dirs_exist_ok=True)
    (target,) = (tmp_path / "runs" / "targets").glob("tgt_*")
    return target
