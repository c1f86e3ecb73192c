"""Places that cannot be written: the home directory, the log's, and what an error says of them."""

import errno
import os
import subprocess
import sys

import pytest
from conftest import TINY
from test_cli import assert_one_sentence

from lambda_hat.system import home
from lambda_hat.system.errors import of_disk


def test_a_home_that_cannot_be_written_is_replaced_and_said(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("HOME", str(tmp_path))
    home.settle()
    assert os.environ["HOME"] == str(tmp_path) and not caplog.text
    monkeypatch.setenv("HOME", "/dev/null/nobody")
    home.settle()
    assert os.path.isdir(os.environ["HOME"]) and os.access(os.environ["HOME"], os.W_OK)
    assert (
        f"HOME=/dev/null/nobody cannot be written: what libraries keep there goes to {os.environ['HOME']}"
        in caplog.text
    )


@pytest.mark.soak
def test_a_run_without_a_home_arrives(script, monkeypatch):
    monkeypatch.setenv("HOME", "/dev/null/nobody")
    outcome = script("sample", *TINY, "sampler=hmc")
    assert outcome.code == 0 and "λ̂ =" in outcome.out, outcome.text


ESTIMATE = """
import os, numpy as np, lambda_hat
est = lambda_hat.estimate(potential=lambda w: (w ** 2).sum(), params=np.zeros(2), n=100, gamma=1, sampler="laplace", draws=20)
print(est.llc > 0, os.environ.get("HOME"))
"""


@pytest.mark.parametrize("home_of_caller", ["/dev/null/nobody", None])
def test_an_estimate_without_a_home_arrives_and_leaves_it_as_it_was(tmp_path, home_of_caller):
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    environment |= {} if home_of_caller is None else {"HOME": home_of_caller}
    done = subprocess.run(
        [sys.executable, "-c", ESTIMATE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"True {home_of_caller}\n"


@pytest.mark.parametrize(
    ("path", "blamed"),
    [("runs/targets/x", "store.root=runs: "), ("/elsewhere/x", "/elsewhere/x: "), (None, "store.root=runs: ")],
)
def test_the_root_is_blamed_for_what_lies_in_it_alone(path, blamed):
    text = str(of_disk(OSError(errno.EACCES, "Permission denied", path), "runs"))
    assert text.startswith(f"{blamed}Permission denied")
    assert ("make room" in text) is (blamed != "/elsewhere/x: ")


def test_a_log_that_cannot_be_written_is_named_and_not_the_root(command):
    outcome = command("sample", *TINY, "store.log_dir=/dev/null/x")
    assert_one_sentence(outcome, "store.log_dir=/dev/null/x: nothing can be written there")
    assert "store.root" not in outcome.text
