"""Output anywhere: terminals without Unicode, a closed or full standard output, a reader that leaves."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, TINY

PLAIN_LOCALE = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
SEED = "sampler=hmc"


def sample(tmp_path, words=(), shell="", environment=None, name="sample"):
    """bin/<name>.py under a shell that does `shell` to its output; its exit code, output and error as bytes."""
    script = " ".join(["exec", '"$@"', shell]) if "|" not in shell else f'"$@" {shell}'
    argv = ["bash", "-c", script, "bash", sys.executable, str(ROOT / "bin" / f"{name}.py"), *words]
    return subprocess.run(
        argv, cwd=tmp_path, env={**os.environ, "JAX_PLATFORMS": "cpu", **(environment or {})}, capture_output=True
    )


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, b"llc = "),
        ({"PYTHONIOENCODING": "latin-1"}, b" \xb1 "),
        (PLAIN_LOCALE, b" +- "),
        ({"PYTHONIOENCODING": "utf-8"}, "λ̂ = ".encode()),
    ],
)
def test_the_number_arrives_whatever_the_terminal_can_show(tiny, tmp_path, environment, shown):
    outcome = sample(tmp_path, (*TINY, SEED), environment=environment)
    assert outcome.returncode == 0 and shown in outcome.stdout, outcome
    for name in ("status", "results"):
        outcome = sample(tmp_path, name=name, environment=environment)
        assert outcome.returncode == 0 and b"hmc" in outcome.stdout and b"Error" not in outcome.stderr, outcome
    outcome = sample(tmp_path, ("--help",), environment=environment)
    assert outcome.returncode == 0 and b"sampler: amclmc, hmc" in outcome.stdout, outcome


@pytest.mark.parametrize(("shell", "reason"), [(">&-", b"it is closed"), (">/dev/full", b"No space left on device")])
def test_output_that_cannot_be_written_is_a_sentence_and_an_exit_code(tiny, tmp_path, shell, reason):
    for name, words in (("sample", (*TINY, SEED)), ("sample", ("--help",)), ("status", ()), ("results", ("--csv",))):
        outcome = sample(tmp_path, words, shell, name=name)
        assert outcome.returncode == 1 and outcome.stdout == b"", (name, outcome)
        assert reason in outcome.stderr and b"Traceback" not in outcome.stderr, (name, outcome)
        assert outcome.stderr.count(b"\n") == 1, (name, outcome)


def test_a_reader_that_leaves_is_no_error(tiny, tmp_path):
    for name, words in (("sample", (*TINY, SEED)), ("sample", ("--help",)), ("status", ())):
        outcome = sample(tmp_path, words, "| true; exit ${PIPESTATUS[0]}", name=name)
        assert (outcome.returncode, outcome.stderr) == (0, b""), (name, outcome)


def test_a_run_is_made_and_its_log_is_utf8_where_nothing_can_be_shown(tmp_path, cache):
    words = (*TINY, "sampler=hmc", 'store.root="ü"', cache)
    outcome = sample(tmp_path, words, ">&-", environment=PLAIN_LOCALE | {"LC_ALL": "POSIX"})
    assert outcome.returncode == 1 and b"Traceback" not in outcome.stderr
    (root,) = (path for path in tmp_path.iterdir())
    assert len(list(root.glob("targets/tgt_*/run_hmc_*"))) == 1
    (log,) = root.glob("logs/*/*/*/log.txt")
    assert "λ̂" in log.read_text(encoding="utf-8") or "hmc" in log.read_text(encoding="utf-8")
