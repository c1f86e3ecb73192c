"""The wheel and the sdist: what they hold, and that an installed copy works far from the source tree."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from lambda_hat.config import options

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = sorted(path.stem for path in (ROOT / "bin").glob("*.py"))
TINY = ("model=quadratic", "model.dim=2", "data.n_data=60", "sampler.draws=8", "sampler.warmup=2", "sampler.chains=2")
TINY += ("sampler.metric=identity", "sampler.step_size=0.01", "runtime.devices=1", "runtime.figures=false")


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """A wheel and an sdist built without a network from the files of the source tree: their paths."""
    at = tmp_path_factory.mktemp("build")
    skip = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "runs", "shared", "figures")
    shutil.copytree(ROOT, at / "tree", ignore=skip)
    (at / "tree" / "conf" / "local").mkdir(exist_ok=True)
    (at / "tree" / "conf" / "local" / "user.yaml").write_text("seed: 1\n")  # particular to a machine: not shipped
    build = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=at / "tree", check=True, capture_output=True, timeout=120)
    (wheel,) = (at / "tree" / "dist").glob("*.whl")
    (sdist,) = (at / "tree" / "dist").glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(archives, tmp_path_factory):
    """The directory of the scripts of an environment into which the wheel was installed; its packages are this one's."""
    at = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", at], check=True, timeout=60)
    python = at / "bin" / "python"
    purelib = Path(_output(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"))
    packages = {sysconfig.get_paths()["purelib"], *(p for p in sys.path if p.endswith(("-packages",)))}
    (purelib / "zz_packages.pth").write_text("\n".join(sorted(packages)) + "\n")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--ignore-installed", archives[0]], check=True, capture_output=True, timeout=120)
    return at / "bin"


def _output(*argv, **options):
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120, **options).stdout.strip()


def test_the_wheel_and_the_sdist_hold_every_module_every_value_and_nothing_of_this_machine(archives):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lambda_hat").rglob("*.py")}
    values = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml") if "local" not in path.parts
    }
    with zipfile.ZipFile(archives[0]) as wheel:
        names = set(wheel.namelist())
    assert modules | {f"lambda_hat/{name}" for name in values} | {"lambda_hat/py.typed"} <= names
    assert {f"hydra_plugins/{path.name}" for path in (ROOT / "slurm" / "hydra_plugins").glob("*.py")} <= names
    assert not [name for name in names if name.endswith("user.yaml") or name.startswith(("tests/", "bin/"))]
    with tarfile.open(archives[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert modules | values | {f"bin/{name}.py" for name in COMMANDS} | {"README.md", "LICENSE", "setup.py"} <= names
    assert not [name for name in names if name.endswith("user.yaml")]


def test_scripts_modules_and_console_scripts_have_the_same_names():
    for name in COMMANDS:
        assert f"from lambda_hat.commands.{name} import main" in (ROOT / "bin" / f"{name}.py").read_text()
        assert PROJECT["scripts"][f"lambda-hat-{name.replace('_', '-')}"] == f"lambda_hat.commands.{name}:main"
    assert len(PROJECT["scripts"]) == len(COMMANDS)


def test_the_installed_commands_explain_themselves(installed, tmp_path):
    assert _output(
        installed / "python", "-c", "import lambda_hat; print(lambda_hat.__file__)", cwd=tmp_path
    ).startswith(str(installed.parent))
    for name in PROJECT["scripts"]:
        text = _output(installed / name, "--help", cwd=tmp_path)
        assert name in text and ".py" not in text, text
    assert "model: " + ", ".join(options.options("model")) in _output(installed / "lambda-hat-sample", "--help")
    assert list(tmp_path.iterdir()) == []


def test_an_installed_copy_makes_a_run_and_shows_it(installed, cache, tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    sampled = _output(installed / "lambda-hat-sample", *TINY, cache, cwd=tmp_path, env=environment)
    assert "λ̂ =" in sampled
    (run,) = tmp_path.glob("runs/targets/tgt_*/run_hmc_*")
    for name in ("status", "results"):
        assert "hmc" in _output(installed / f"lambda-hat-{name}", cwd=tmp_path)
    assert run.name in _output(installed / "lambda-hat-status", cwd=tmp_path)
    assert "all are as they were published" in _output(installed / "lambda-hat-store", "verify", cwd=tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name != "runs"]


def test_importing_the_package_imports_nothing_heavy_and_its_names_are_found_when_used(tmp_path):
    program = "import sys; import lambda_hat"
    program += "; print([m for m in ('jax', 'numpy', 'pandas', 'hydra', 'matplotlib', 'yaml') if m in sys.modules])"
    assert _output(sys.executable, "-c", program) == "[]"
    import lambda_hat

    assert set(lambda_hat.__all__) >= {"load_results", "open_run", "open_target", "__version__"}
    for name in lambda_hat.__all__:
        assert getattr(lambda_hat, name) is not None and name in dir(lambda_hat)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lambda_hat.nothing


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_nothing_heavy(tmp_path, name):
    program = f"""
import runpy, sys
sys.argv = ["{name}.py", "--help"]
try:
    runpy.run_path({str(ROOT / "bin" / f"{name}.py")!r}, run_name="__main__")
except SystemExit:
    pass
print([m for m in ("jax", "numpy", "scipy", "pandas", "matplotlib", "xarray", "arviz", "blackjax") if m in sys.modules])
"""
    assert _output(sys.executable, "-c", program, cwd=tmp_path).splitlines()[-1] == "[]"
