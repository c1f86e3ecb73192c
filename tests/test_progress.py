"""What is seen of a run while it works, and what experiment loggers are told."""

import json
import logging
import math
import os
import pty
import re
import struct
import subprocess
import sys
import types
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from rich.cells import cell_len
from test_cli import run_of

from lambda_hat import config as configs
from lambda_hat import store
from lambda_hat.jobs import loggers, pipeline, progress
from lambda_hat.store import lease as leases

HMC = (*TINY, "sampler=hmc")
REPORT = {"phase": "sample", "draw": 100, "draws": 1000, "llc": 10.0, "mcse": 0.2, "ess": 200.0, "rhat": 1.004}


# --- the line ---------------------------------------------------------------------------------------------------------


def test_a_report_in_a_line():
    full = REPORT | {"acceptance": 0.731}
    expected = "hmc: 100/1000 draws λ̂ = 10 ± 0.2  ESS 200  R-hat 1.0040  acceptance 0.73  12 s left"
    assert progress.describe("hmc", full, 12.3) == expected
    assert (
        progress.describe("hmc", REPORT | {"rhat": math.nan, "mcse": None}, None)
        == "hmc: 100/1000 draws λ̂ = 10  ESS 200"
    )
    assert progress.describe("hmc", {"phase": "adapt"}, None) == "hmc: adapt …"


@pytest.mark.parametrize(
    ("target", "report", "needed"),
    [
        (None, REPORT, 1000),
        (0.01, REPORT, 400),  # an error of 2 % falls to 1 % with four times the draws
        (0.001, REPORT, 1000),  # never more than are asked for
        (0.5, REPORT, 200),  # an ESS of 400 is asked for too
        (0.01, REPORT | {"mcse": math.nan}, 1000),
        (0.01, REPORT | {"draw": 900, "mcse": 0.01, "ess": 5000.0}, 900),
    ],
)
def test_draws_that_are_needed(compose, target, report, needed):
    sampler = compose("sampler=hmc", f"sampler.mcse_target={'null' if target is None else target}").sampler
    assert progress.Pace(sampler).needed(report) == pytest.approx(needed)


def test_time_left_is_told_from_the_pace(compose, monkeypatch):
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    pace = progress.Pace(compose("sampler=hmc", "sampler.mcse_target=null").sampler)
    assert pace(REPORT) is None
    assert pace(REPORT | {"draw": 200}) == pytest.approx(80.0)


def test_a_log_has_a_line_only_every_half_minute(compose, monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Line(compose("sampler=hmc").sampler) as line:
        logging.getLogger().addHandler(caplog.handler)
        for second in range(0, 100, 5):
            now[0] = float(second)
            line(REPORT | {"draw": 100 + second})
        logging.getLogger().removeHandler(caplog.handler)
    draws = [record.getMessage().split("/")[0].split()[-1] for record in caplog.records]
    assert sorted(set(draws), key=int) == ["130", "160", "190"]


def test_a_terminal_has_a_line_that_renews_itself_and_whole_lines_between(tmp_path, cache):
    leader, follower = pty.openpty()
    argv = [sys.executable, ROOT / "bin" / "sample.py", *HMC, cache]
    process = subprocess.Popen(
        argv, cwd=tmp_path, stdout=follower, env={**os.environ, "JAX_PLATFORMS": "cpu", "COLUMNS": "100"}
    )
    os.close(follower)
    text = _all_of(leader)
    assert process.wait(timeout=60) == 0
    assert "\r\x1b[2K" in text and "hmc: 8/8 draws" in text
    lines, widest = staying(text)
    assert any(line.startswith("hmc    λ̂ = ") for line in lines) and any(
        line.startswith("  hmc: tuned") for line in lines
    )
    assert not any("draws λ̂" in line for line in lines)
    assert not any("━" in line or "…" in line[:30] for line in lines)
    assert widest <= 100
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") - text.count(
        "\x1b[1A"
    )  # shown at each start, and at each end


def test_the_bar_is_the_share_of_the_draws_that_the_error_takes(compose, monkeypatch):
    """A narrow terminal cuts what is known and keeps the time left."""
    for columns in (120, 44):
        leader, follower = pty.openpty()
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        now = [0.0]
        with open(follower, "w", encoding="utf-8") as file, monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", file)
            patched.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda now=now: now[0]))
            with progress.Line(compose("sampler=hmc", "sampler.mcse_target=0.01").sampler) as line:
                for report in (
                    {"phase": "adapt"},
                    REPORT,
                    REPORT | {"draw": 200, "mcse": 0.1, "ess": 500.0},
                    REPORT | {"draw": 200, "mcse": 0.2, "ess": 500.0},  # 800 are needed
                ):
                    line(report)
                    now[0] += 10.0
        text = _all_of(leader)
        frames = [re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", frame) for frame in text.split("\r\x1b[2K")]
        last = next(frame for frame in reversed(frames) if "left" in frame)
        assert cell_len(last.rstrip()) <= columns
        assert re.match(r"(━+[╸╺]?━* )? *2:00 left  hmc: 200/1000", last), last
        assert ("R-hat" in last) == ("━" in last) == (columns == 120)
        if columns == 120:
            coloured = next(frame for frame in reversed(text.split("\r\x1b[2K")) if "left" in frame)
            bar = re.match(r"\x1b\[[\d;]*m([━╸]+)\x1b\[0m", coloured)
            assert bar and len(bar[1]) == pytest.approx(progress._Bar.WIDTH / 4, abs=0.5)
        assert set(staying(text)[0]) == {""}


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (59.2, "1:00"), (61, "1:01"), (3725, "1:02:05")])
def test_seconds_as_a_clock(seconds, text):
    assert progress._clock(seconds) == text


def _all_of(descriptor):
    """What a terminal was sent until its other end was closed."""
    text = b""
    while chunk := _read(descriptor):
        text += chunk
    return text.decode()


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def staying(text):
    """The lines that stay on a terminal, as far as a line that renews itself needs it; and how wide any ever was."""
    lines, at, widest = [""], 0, 0
    for part in re.findall(r"\x1b\[[\d;?]*[a-zA-Z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            at += 1
            lines += [""] * (at == len(lines))
        elif part == "\x1b[1A":
            at -= 1
        elif part == "\x1b[2K":
            lines[at] = ""
        elif part[0] not in "\r\x1b":
            lines[at] += part
            widest = max(widest, cell_len(lines[at]) if "draws" in lines[at] and "━" in lines[at] else 0)
    return lines, widest


# --- loggers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", loggers.PACKAGES)
def test_a_logger_changes_no_name(compose, name, monkeypatch):
    monkeypatch.setattr(loggers, "check", lambda logger: None)
    plain, logged = (pipeline.job("run", compose(*HMC, *extra)) for extra in ((), (f"logger={name}",)))
    assert logged.paths == plain.paths and logged.config.logger.name == name and plain.config.logger is None


def test_every_kind_has_a_package_and_a_class():
    kinds = configs.KINDS["logger"].keys()
    assert loggers.PACKAGES.keys() == loggers.MODULES.keys() == loggers._LOGGERS.keys() == kinds


@pytest.mark.parametrize("name", loggers.PACKAGES)
def test_a_missing_package_is_named_before_any_work(command, tmp_path, monkeypatch, name):
    monkeypatch.setitem(loggers.MODULES, name, "no_such_module")
    outcome = command("sample", *HMC, f"logger={name}")
    assert outcome.code == 1 and f"pip install {loggers.PACKAGES[name]}" in outcome.err and outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_reads_what_a_run_wrote(script, tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    assert script("sample", *HMC, "logger=tensorboard").code == 0
    (path,) = (tmp_path / "runs" / "tensorboard").rglob("events*")
    (target,) = (tmp_path / "runs" / "targets").glob("tgt_*")
    run = run_of(target, "hmc")
    assert path.parent.relative_to(tmp_path / "runs" / "tensorboard") == Path(target.name) / run.name
    values = scalars(path)
    analysis = store.read_json(run / "analysis.json")
    assert values["result/llc_mean"] == [(0, pytest.approx(analysis["llc_mean"], rel=1e-6))]
    assert values["draws/llc"][-1] == (8, pytest.approx(analysis["llc_mean"], rel=1e-6))
    assert [step for step, _ in values["draws/llc"]] == sorted(step for step, _ in values["draws/llc"])


def scalars(path):
    """Scalars of an event file by tag: TFRecords (length, crc, data, crc) of `Event` messages."""
    from tensorboardX.proto.event_pb2 import Event

    data, found, at = path.read_bytes(), {}, 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        at += 16 + length
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_mlflow_reads_what_a_run_wrote(script, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    outcome = script("sample", *HMC, "logger=mlflow")
    assert outcome.code == 0 and "given up" not in outcome.text
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=str(tmp_path / "runs" / "mlflow"))
    (run,) = client.search_runs([client.get_experiment_by_name("lambda_hat").experiment_id])
    (path,) = tmp_path.glob("runs/targets/tgt_*/run_hmc_*/analysis.json")
    analysis = store.read_json(path)
    assert run.info.status == "FINISHED" and run.data.metrics["llc_mean"] == pytest.approx(analysis["llc_mean"])
    assert run.data.params["sampler.draws"] == "8" and run.data.tags["status"] == analysis["status"]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "llc")][-1] == 8


def test_a_logger_that_fails_stops_no_run(script, tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    outcome = script("sample", *HMC, "logger=tensorboard", "logger.directory=/dev/null/x")
    assert outcome.code == 0 and "λ̂ =" in outcome.out and list(tmp_path.glob("runs/targets/tgt_*/run_hmc_*"))
    assert outcome.text.count("logger=tensorboard failed and is given up for this run") == 1


class Recorder:
    """A logger that keeps what it is told, and fails where it is asked to."""

    def __init__(self, config, name, settings, fails=()):
        self.told, self.fails, self.name, self.settings = [], fails, name, settings

    def _tell(self, what, *values):
        self.told.append((what, *values))
        if what in self.fails:
            raise RuntimeError(f"no {what}")

    def series(self, values, step):
        self._tell("series", step, values)

    def summary(self, values, words):
        self._tell("summary", values, words)

    def close(self, failed):
        self._tell("close", failed)


@pytest.fixture
def job(tiny, compose, monkeypatch):
    """The tiny store's HMC run, with a logger whose package need not be there."""
    monkeypatch.setattr(loggers, "check", lambda logger: None)
    return pipeline.job("run", compose(*HMC, "logger=wandb", f"store.root={tiny.parent.parent}"))


@pytest.mark.parametrize("fails", ["series", "summary", "close"])
def test_the_first_failure_is_the_last_thing_that_a_logger_hears(job, caplog, fails):
    made = []
    with loggers.Guarded(job, lambda *args: made.append(Recorder(*args, fails=(fails,))) or made[-1]) as guarded:
        guarded(REPORT)
        guarded(REPORT | {"draw": 200})
    assert made[0].told[-1][0] == fails and [t[0] for t in made[0].told].count(fails) == 1
    (record,) = caplog.records
    assert f"RuntimeError: no {fails}" in record.getMessage()


def test_a_logger_is_told_settings_series_and_result(job):
    made = []
    with loggers.Guarded(job, lambda *args: made.append(Recorder(*args)) or made[-1]) as guarded:
        guarded({"phase": "adapt"})
        guarded(REPORT | {"rhat": math.nan})
    (recorder,) = made
    assert recorder.settings["sampler.draws"] == 8 and recorder.settings["seed"] == 0
    series, summary, close = recorder.told
    assert series == ("series", 100, {"llc": 10.0, "mcse": 0.2, "ess": 200.0})
    analysis = store.read_json(job.directory / "analysis.json")
    assert summary[1]["llc_mean"] == analysis["llc_mean"] and summary[2]["status"] == analysis["status"]
    assert close == ("close", False)


def test_a_run_that_fails_is_told_to_its_logger(job):
    made = []
    with pytest.raises(ZeroDivisionError), loggers.Guarded(job, lambda *args: made.append(Recorder(*args)) or made[-1]):
        raise ZeroDivisionError
    assert made[0].told == [("close", True)]


def test_wandb_is_called_as_it_asks(job, monkeypatch):
    told = []

    class Run:
        summary = types.SimpleNamespace(update=lambda values: told.append(("summary", values)))
        log = staticmethod(lambda values, step: told.append(("log", step, values)))
        finish = staticmethod(lambda exit_code: told.append(("finish", exit_code)))

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **given: told.append(given) or Run))
    with loggers.open_for(job) as guarded:
        guarded(REPORT)
    given = told[0]
    assert (
        given["project"] == "lambda_hat"
        and given["name"] == job.paths.name("run")
        and given["config"]["model.dim"] == 2
    )
    assert [one[0] for one in told[1:]] == ["log", "summary", "finish"] and told[-1] == ("finish", 0)


# --- the lease --------------------------------------------------------------------------------------------------------


def test_a_lease_tells_its_watchers_everything_known(tmp_path):
    heard = []
    with leases.hold(tmp_path / "x", lambda: False, print) as lease:
        lease.watchers.append(heard.append)
        lease.report(phase="adapt")
        lease.report(draw=3, now=True)
        assert json.loads((tmp_path / "x" / "progress.json").read_text())["draw"] == 3
    assert [(one.get("phase"), one.get("draw")) for one in heard] == [("adapt", None), ("adapt", 3)]
