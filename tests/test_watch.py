"""bin/status.py --watch: a screen of any size that renews itself, and a terminal that is as it was afterwards."""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from conftest import ROOT
from test_inspect import begun

from lambda_hat import store
from lambda_hat.commands import watch
from lambda_hat.inspect.scan import scan
from lambda_hat.store import lease

ENTERED, LEFT = "\x1b[?1049h", "\x1b[?1049l"
"""What gives a program a screen of its own, and gives the terminal back."""

PROGRESS = {"beat": 3, "phase": "sample", "draw": 250, "draws": 1000, "llc": 1.25, "mcse": 0.03}


@pytest.fixture
def working(tiny, tmp_path):
    """Beside the two runs of the tiny store, one that is running; returns its directory in work/."""
    owner = lease.this_process() | {"token": "t", "slurm_job": None}
    return begun(tmp_path / "runs", f"{tiny.name}.run_hmc_{'a' * 8}", owner=owner, progress=PROGRESS)


class Terminal:
    """bin/status.py on a terminal of its own, and what it has written there so far."""

    def __init__(self, cwd, *argv, columns, lines=24, python=(), **environment):
        self.leader, follower = pty.openpty()
        self.resize(columns, lines)
        env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, *python, ROOT / "bin" / "status.py", *argv],
            cwd=cwd,
            stdin=follower,
            stdout=follower,
            stderr=subprocess.PIPE,
            env=env | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8"} | environment,
        )
        os.close(follower)
        self.written = b""

    def resize(self, columns, lines):
        fcntl.ioctl(self.leader, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def text(self):
        return self.written.decode(errors="replace")

    def until(self, holds, seconds=30):
        """Read until this holds of the lines on the screen, and return them."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self.leader], [], [], 0.1)[0]:
                self.read()
            frames = self.text.split("\x1b[H")[1:-1]  # the last may not be whole
            if frames and holds(screen := re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", frames[-1]).split("\r\n")):
                return screen
        raise AssertionError(self.text[-2000:])

    def read(self):
        try:
            chunk = os.read(self.leader, 65536)
        except OSError:
            chunk = b""
        self.written += chunk
        return chunk

    def end(self, sent=None):
        """Exit code and standard error, after a signal if one is to be sent."""
        if sent is not None:
            self.process.send_signal(sent)
        while self.read():
            pass
        error = self.process.stderr.read().decode()
        return self.process.wait(timeout=30), error


@pytest.fixture
def terminal(tmp_path):
    opened = []

    def made(*argv, **options):
        opened.append(Terminal(tmp_path, *argv, **options))
        return opened[-1]

    yield made
    for each in opened:
        each.process.kill()
        each.process.wait()
        each.process.stderr.close()
        os.close(each.leader)


def has(*words):
    return lambda lines: all(word in "\n".join(lines) for word in words)


@pytest.mark.parametrize(
    ("columns", "encoding", "expected"),
    [
        (40, "utf-8", "running hmc 25 % 1.250 ± 0.030"),
        (40, "ascii", "running hmc 25 % 1.250 +- 0.030"),
        (120, "utf-8", "sample 250/1000 draws (25 %), process"),
    ],
)
def test_what_is_in_progress_is_on_the_first_line(working, terminal, columns, encoding, expected):
    shown = terminal("--watch", "0.3", columns=columns, PYTHONIOENCODING=encoding)
    lines = shown.until(has("1 running", "25 %"))
    assert len(lines) == 24 and {len(line.replace("\u0302", "")) for line in lines} == {columns}, lines
    header = next(number for number, line in enumerate(lines) if line.startswith("status "))
    assert expected in " ".join(lines[header + 1].split()), lines
    code, error = shown.end(signal.SIGINT)
    assert (code, error) == (130, "")
    assert shown.text.startswith(ENTERED) and shown.text.count(LEFT) == 1
    after = shown.text.partition(LEFT)[2]
    assert after.replace("\r\n", " ").startswith("runs: 2 done") and "1 running" in after
    assert encoding == "utf-8" or shown.written.isascii()


def test_the_screen_renews_itself_and_fits_a_terminal_that_changes(working, terminal):
    shown = terminal("--watch", "0.3", columns=100, lines=20)
    shown.until(has("25 %"))
    store.write_note(working / "progress.json", PROGRESS | {"draw": 500, "llc": 2.5})
    shown.until(has("50 %", "2.500"))
    shown.resize(50, 10)
    lines = shown.until(lambda lines: len(lines) == 10)
    assert {len(line.replace("\u0302", "")) for line in lines} == {50}
    shutil.rmtree(working)
    shown.until(lambda lines: "running" not in "\n".join(lines))
    assert shown.end(signal.SIGINT) == (130, "")


def test_filters_choose_what_is_watched(working, terminal):
    shown = terminal("status=running", "--watch", "0.3", columns=80)
    assert not has("mclmc")(shown.until(has("1 running")))
    assert shown.end(signal.SIGINT)[0] == 130


def test_the_terminal_is_given_back_however_it_ends(working, terminal, tmp_path):
    shown = terminal("--watch", "0.3", columns=80)
    shown.until(has("25 %"))
    assert shown.end(signal.SIGTERM) == (143, "") and shown.text.count(LEFT) == 1
    shown = terminal("--watch", "0.3", columns=80)
    shown.until(has("25 %"))
    shutil.move(tmp_path / "runs", tmp_path / "gone")
    code, error = shown.end()
    assert code == 1 and error.count("\n") == 1 and "runs: there is no such directory" in error
    assert shown.text.count(LEFT) == 1


def test_a_terminal_that_is_gone_ends_it(working, terminal):
    shown = terminal("--watch", "0.3", columns=80)
    shown.until(has("25 %"))
    os.dup2(os.open(os.devnull, os.O_RDWR), shown.leader)  # the other end is closed
    assert shown.process.wait(timeout=30) in (0, 1)
    assert b"Traceback" not in shown.process.stderr.read()


def test_nothing_heavy_is_imported(working, terminal):
    shown = terminal("--watch", "0.3", columns=80, python=("-X", "importtime"))
    shown.until(has("25 %"))
    code, error = shown.end(signal.SIGINT)
    imported = {line.rpartition("|")[2].strip() for line in error.splitlines()}
    assert code == 130 and "lambda_hat.commands.watch" in imported and "rich.live" in imported
    assert not imported & {"jax", "numpy", "pandas", "xarray", "hydra", "omegaconf", "matplotlib"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--watch",), "standard output is none: leave --watch out"),
        (("--watch", "0"), "--watch 0: expected seconds, at least 0.2"),
        (("--watch", "nan"), "--watch nan: expected seconds"),
        (("--watch", "runs"), "--watch runs: expected seconds, at least 0.2, such as --watch 5; write a root before"),
        (("--watch", "--json"), "--watch draws on a terminal, and --json is for programs"),
        (("nowhere", "--watch"), "--watch draws on a terminal"),
    ],
)
def test_mistakes_get_one_sentence(tiny, tool, words, expected):
    outcome = tool("status", *words)
    assert outcome.code == 1 and outcome.out == "" and outcome.err.count("\n") == 1 and expected in outcome.err


def test_a_dumb_terminal_is_none(tiny, terminal):
    shown = terminal("--watch", columns=80, TERM="dumb")
    code, error = shown.end()
    assert code == 1 and "standard output is none" in error and shown.text == ""


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height", [1, 3, 5, 8, 12, 13, 40])
@pytest.mark.parametrize("width", [1, 8, 20, 40, 80, 300])
def test_a_page_is_never_larger_than_the_screen_and_says_what_it_leaves_out(working, tmp_path, width, height):
    root = tmp_path / "runs"
    (root / "failures").mkdir()
    target = working.name.partition(".")[0]
    for number in range(6):
        record = {"error": "no\x1b[2J luck " * 20, "kind": "UserError"}
        (root / "failures" / f"{target}.run_sgld_{number:08x}.json").write_text(json.dumps(record))
    lines = watch.page("runs", scan(root), width, height)
    assert len(lines) <= height and all(line.cell_len <= width for line in lines), lines
    text = [line.plain for line in lines]
    assert not any("\x1b" in line for line in text)
    if width >= 40 and height >= 8:
        states = [line.split()[0] for line in text[text.index("") + 2 :]]
        left_out = 9 - sum(state not in ("…", "...") for state in states)
        assert states[0] == "running" and (left_out == 0) == (height >= 13)
        numbers = re.findall(r"(\d+) (?:failed|done|running)", text[-1]) if left_out else []
        assert sum(map(int, numbers)) == left_out


def test_slurm_is_not_asked_at_every_look(monkeypatch):
    asked, now = [], [100.0]
    monkeypatch.setattr(watch, "slurm_states", lambda jobs: asked.append(set(jobs)) or {})
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    states = watch.Asked()
    for _ in range(3):
        assert states(iter(["1", "2"])) == {}
    states(["1"])
    assert asked == [{"1", "2"}]
    states(["1", "3"])  # which is new
    now[0] += watch.ASK_EVERY
    states(["3"])
    assert asked == [{"1", "2"}, {"1", "3"}, {"3"}]
