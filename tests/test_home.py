"""Places that cannot be written: the home directory, the log's, and what an error says of them."""

import errno
import os

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
