"""Sweeps on a real SLURM cluster of this one machine (slurm/cluster.py): what is submitted, and what becomes of it."""

import getpass
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from test_cli import NETWORK, assert_same_draws

from lambda_hat import store

SLURM = (
    "hydra/launcher=submitit_slurm",
    "hydra.launcher.poll_s=0.3",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=2",
    "hydra.launcher.signal_delay_s=30",
)
WAIT = "hydra.launcher.wait=true"
HELD = "hydra.launcher.additional_parameters={hold: true}"
HMC = (*TINY, "sampler=hmc")
UNBOUNDED = tuple(word for word in HMC if not word.startswith("sampler.draws="))
UNBOUNDED += ("sampler.mcse_target=null", "runtime.figures=false", "runtime.memory_limit=50")
LONG = (*UNBOUNDED, "sampler.draws=5000000")
MEDIUM = (*UNBOUNDED, "runtime.checkpoint_minutes=0", "sampler.draws=60000")
PATIENCE = 300


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Three nodes of two cores and two pretended GPUs; SLURM's commands work in this process from here on."""
    spec = importlib.util.spec_from_file_location("cluster", ROOT / "slurm" / "cluster.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if module.missing() and os.geteuid() == 0 and shutil.which("apt-get"):
        try:
            module.install()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"SLURM cannot be installed: {error}")
    if lacking := module.missing():
        pytest.skip(f"{', '.join(lacking)} not installed: sudo python slurm/cluster.py install")
    directory = Path("/tmp") / f"lh{os.getpid()}"  # short: a socket's path has at most 107 characters
    running = module.Cluster(directory, nodes=3, cpus=2, gpus=2)
    before = os.environ.get("SLURM_CONF")
    running.start()
    os.environ["SLURM_CONF"] = str(running.conf)
    yield running
    running.stop()
    shutil.rmtree(directory, ignore_errors=True)
    os.environ.pop("SLURM_CONF")
    if before:
        os.environ["SLURM_CONF"] = before


@pytest.fixture
def begin(cluster, start, tmp_path):
    """`begin(name, *argv)`: a launch, not waited for; what is left in the queue at the end is cancelled."""
    processes = []

    def begun(name, *argv, cwd=tmp_path):
        flags = [word for word in argv if word.startswith("--")]
        given = {word.partition("=")[0] for word in argv}  # a setting that is given twice is refused
        usual = (word for word in SLURM if word.partition("=")[0] not in given)
        processes.append(start(cwd, name, "-m", *flags, *usual, *(word for word in argv if word not in flags)))
        return processes[-1]

    yield begun
    for process in processes:
        process.kill()
        process.communicate()
    slurm("scancel", f"--user={getpass.getuser()}")
    until(lambda: not slurm("squeue", "-h").strip(), "an empty queue", 30)


@pytest.fixture
def launch(begin):
    """`launch(name, *argv)`: a launch to its end."""

    def launched(name, *argv, **options):
        return end(begin(name, *argv, **options))

    return launched


def end(process, patience=PATIENCE):
    out, err = process.communicate(timeout=patience)
    return process.returncode, out + err


def slurm(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(condition, what, patience=60.0):
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.1)
    return found


def last_job():
    """The number of the last job that was submitted."""
    return max([0, *(int(word) for word in slurm("squeue", "-h", "-t", "all", "-o", "%F").split())])


def states(job):
    return {words[0]: words[1:] for words in (line.split("|") for line in accounting(job))}


def accounting(job):
    def found():
        lines = slurm("sacct", "-nPX", "-j", str(job), "-o", "JobID,State,AllocTRES").splitlines()
        return lines if lines and not any("RUNNING" in line or "PENDING" in line for line in lines) else None

    return until(found, f"sacct on job {job}", 20)


def jobs_of(text):
    return [int(number) for number in re.findall(r"^job (\d+):", text, re.MULTILINE)]


def results(text):
    return [line for line in text.splitlines() if "λ̂ =" in line]


def sampling(root):
    """Owners of the runs that sample, by SLURM job; of those with checkpoint_minutes=0, that have something to go on from."""
    found = {}
    for path in root.glob("work/*/progress.json"):
        at_work = store.read_note(path).get("phase") in ("adapt", "sample")
        owner = store.read_note(path.with_name("owner.json"))
        keeps = "runtime.checkpoint_minutes=0" in owner.get("command", ())
        if at_work and owner and (not keeps or list(path.parent.glob("checkpoint/*/*.npz"))):
            found[owner["slurm_job"]] = owner
    return found


def text_of_logs(root):
    return {path: path.read_text() for path in root.glob("logs/*/*/*_log.out")}


# --- the sweep ----------------------------------------------------------------------------------------------------------


def test_a_sweep_is_made_once_is_there_again_and_grows_by_what_is_missing(launch, tiny_store, tmp_path):
    sweep = (*TINY, "sampler=hmc,mclmc", WAIT, "hydra.launcher.gpus_per_node=1")
    code, text = launch("sample", *sweep, "seed=0,1")
    assert code == 0, text
    assert text.splitlines()[0] == "4 combinations: 0 done, 4 to submit (2 targets, 4 runs)"
    targets, *runs = jobs_of(text)
    assert len(results(text)) == 4 and len(runs) == 2
    assert all(state == "COMPLETED" and "gpu" not in tres for state, tres in states(targets).values())
    for job in runs:
        assert len(states(job)) == 2
        assert all(state == "COMPLETED" and "gres/gpu=1" in tres for state, tres in states(job).values())
    for path, text_of_log in text_of_logs(tmp_path / "runs").items():
        seen = re.search(r", GPUs (\w+)", text_of_log)[1]
        assert seen == "none" if path.name.startswith(f"{targets}_") else seen in "01", path
        if seen != "none":  # these GPUs are pretended
            assert "this job asked for 1 GPU(s) and JAX uses none" in text_of_log
    for path in tmp_path.glob("runs/targets/*/run_*/analysis.json"):
        provenance = json.loads(path.read_text())["provenance"]
        assert (provenance["gpus_asked"], provenance["devices"]) == (1, "1 × cpu")
    assert not list((tmp_path / "runs" / "work").glob("*/*")) and not (tmp_path / "runs" / "failures").exists()
    (here,) = (tiny_store[0] / "runs" / "targets").glob("tgt_*")  # what SLURM makes is what is made here
    for run in here.glob("run_*"):
        assert_same_draws(run, tmp_path / "runs" / "targets" / here.name / run.name)

    before = last_job()
    code, again = launch("sample", *sweep, "seed=0,1")
    assert code == 0 and again.splitlines()[0] == "4 combinations: 4 done, 0 to submit"
    assert sorted(results(again)) == sorted(results(text)) and last_job() == before

    code, more = launch("sample", *sweep, "seed=0,1,2", "hydra.launcher.runs_per_job=2")
    assert code == 0 and more.splitlines()[0] == "6 combinations: 4 done, 2 to submit (1 target, 2 runs)"
    assert len(jobs_of(more)) == 2 and [len(states(job)) for job in jobs_of(more)] == [1, 1]
    assert len(list(tmp_path.glob("runs/targets/tgt_*/run_*"))) == 6


def test_two_launches_at_once_one_from_inside_a_job_make_each_target_once(begin, cache, tmp_path):
    sweep = (*TINY, "seed=1,2", WAIT)
    words = [sys.executable, str(ROOT / "bin" / "build_target.py"), "-m", *SLURM, *sweep, cache]
    inside = subprocess.Popen(
        ["srun", "-n1", "--gres=gpu:1", "--mpi=none", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    outside = begin("build_target", *sweep)
    (code, text), inner = end(outside), inside.communicate(timeout=PATIENCE)[0]
    assert (code, inside.returncode) == (0, 0), text + inner
    plans = sorted([text.splitlines()[0].replace("another launch", "0"), inner.splitlines()[0]])
    assert len(jobs_of(text)) + len(jobs_of(inner)) == 1, (text, inner)
    assert sum("2 to submit" in line for line in (text + inner).splitlines()) == 1, plans
    lines = store.read_lines(tmp_path / "runs" / "targets" / "_catalog.jsonl")
    assert len(lines) == 2 and len(list(tmp_path.glob("runs/targets/tgt_*"))) == 2
    assert all(state == "COMPLETED" for state, _ in states(jobs_of(text + inner)[0]).values())


def test_what_was_composed_is_what_runs_and_a_held_job_is_named(launch, tiny, tmp_path):
    mine = tmp_path / "mine" / "posterior"
    mine.mkdir(parents=True)
    (mine / "own.yaml").write_text("defaults: [local, _self_]\ngamma: 7.0\n")
    sweep = (f"--config-dir={tmp_path / 'mine'}", *HMC, "posterior=own", WAIT)
    code, text = launch("sample", *sweep, HELD, "hydra.launcher.snapshot=true")
    assert code == 1 and "is held by its user: scontrol release" in text, text
    (job,) = jobs_of(text)
    (mine / "own.yaml").write_text("defaults: [local, _self_]\ngamma: 8.0\n")
    (package,) = tmp_path.glob("runs/logs/*/*/code/lambda_hat")
    with open(package / "work.py", "a") as file:
        file.write("\n# edited\n")
    slurm("scontrol", "release", f"{job}")
    until(lambda: len(list(tiny.glob("run_hmc_*"))) == 2, "the run")
    assert {store.open_config(run, "run")["posterior"]["gamma"] for run in tiny.glob("run_hmc_*")} == {100.0, 7.0}
    (log,) = text_of_logs(tmp_path / "runs").values()
    assert "this job was submitted with other code" in log


def test_ctrl_c_leaves_the_jobs_and_says_how_to_follow_them(begin, tmp_path):
    process = begin("build_target", *TINY, WAIT, "hydra.launcher.additional_parameters={begin: now+1hour}")
    until(lambda: list(tmp_path.glob("runs/work/*/submitted.json")), "the submission")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    code, text = end(process)
    (job,) = jobs_of(text)
    assert (
        code == 130 and "1 run keeps running or waiting." in text and text.rstrip().endswith("the same command again")
    ), text
    assert f"follow: squeue -r -j {job}   cancel: scancel {job}" in text and "Traceback" not in text
    assert slurm("squeue", "-h", "-j", str(job), "-o", "%T").strip() == "PENDING"


def test_a_root_may_have_a_percent_sign_which_slurm_has_other_uses_for(launch, tmp_path):
    code, text = launch("build_target", *TINY, "store.root='50% of_%d/%%x'", WAIT)
    assert code == 0 and len(list(tmp_path.glob("50% of_%d/%%x/targets/tgt_*"))) == 1, text
    assert [path.name for path in tmp_path.iterdir()] == ["50% of_%d"]
    (log,) = text_of_logs(tmp_path / "50% of_%d" / "%%x").values()
    assert f"SLURM job {jobs_of(text)[0]}, " in log


@pytest.mark.soak
def test_more_combinations_than_an_array_can_have(launch, tiny, tmp_path):
    code, text = launch("sample", *HMC, "sampler.seed=range(1200)", HELD, "hydra.launcher.runs_per_job=1")
    assert code == 0 and "1200 combinations: 1 done, 1199 to submit (1199 runs)" in text
    jobs = jobs_of(text)
    assert len(jobs) == 2 and f"cancel: scancel {jobs[0]} {jobs[1]}" in text
    assert len(slurm("squeue", "-h", "-r", "-j", f"{jobs[0]},{jobs[1]}").splitlines()) == 1199
    notes = {json.loads(path.read_text())["slurm_job"] for path in tmp_path.glob("runs/work/*/submitted.json")}
    assert len(notes) == 1199 and f"{jobs[0]}_1000" in notes and f"{jobs[1]}_197" in notes
    code, text = launch("sample", *HMC, "sampler.seed=range(1100,1201)", HELD)
    assert code == 0 and "101 combinations: 0 done, 100 queued, 1 to submit (1 run)" in text


# --- what goes wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("hydra.launcher.partition=nope",), "sbatch: invalid partition specified: nope"),
        (("hydra.launcher.gpus_per_node=9",), "Requested node configuration is not available"),
        (("sampler.seed=2,-1",), "sampler.seed must be"),
    ],
)
def test_what_is_refused_leaves_nothing_submitted(launch, tmp_path, options, sentence):
    before = last_job()
    code, text = launch("sample", *HMC, *options)
    assert code == 1 and sentence in text and "Traceback" not in text
    assert not slurm("squeue", "-h").strip() or last_job() == before
    assert not list(tmp_path.glob("runs/work/*")) and not list(tmp_path.glob("runs/logs/*/*"))


@pytest.mark.soak
def test_a_failed_target_keeps_its_runs_back_and_a_raising_run_only_itself(launch, tiny, tmp_path):
    code, text = launch("sample", *NETWORK, "sampler=hmc,laplace", "training=sgd", "training.learning_rate=100", WAIT)
    assert code == 1, text
    targets, *runs = jobs_of(text)
    assert {state for state, _ in states(targets).values()} == {"FAILED"}
    assert [state.split()[0] for job in runs for state, _ in states(job).values()] == ["CANCELLED"] * 2
    assert len(re.findall(r"^failed: .*\n +log: .*\n +again: ", text, re.MULTILINE)) == 1
    assert re.search(r"not started: 2 runs of tgt_\w+, which was not built", text)
    record = json.loads(next(tmp_path.glob("runs/failures/tgt_*.json")).read_text())
    assert record["error"].splitlines()[0] in text and record["slurm_job"] == f"{targets}"
    text = launch("sample", *NETWORK, "sampler=hmc,laplace", "training=sgd", "training.learning_rate=100", HELD)[1]
    assert text.count("  before: ") == 1 and record["error"].splitlines()[0] in text
    assert "2 combinations: 0 done, 2 to submit (1 target, 2 runs)" in text

    slurm("scancel", f"--user={getpass.getuser()}")
    until(lambda: not slurm("squeue", "-h").strip(), "an empty queue", 30)
    mixed = ("training=sgd", "training.learning_rate=100,0.001", "hydra.launcher.runs_per_job=2")
    code, text = launch("sample", *NETWORK, "sampler=laplace", *mixed, WAIT)  # one job for the runs of both
    assert code == 1 and len(results(text)) == 1 and "(2 targets, 2 runs)" in text.splitlines()[0], text
    assert re.search(r"not started: 1 run of tgt_\w+, which was not built", text) and len(jobs_of(text)) == 2

    run = (*TINY[:4], "runtime.devices=1", "hydra.launcher.runs_per_job=2")
    run += (f"hydra.launcher.setup=['export PYTHONPATH={tmp_path}']",)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['lambda_hat.analysis.figures'] = None\n")
    code, text = launch("sample", *run, "sampler=laplace,hmc", WAIT)
    assert code == 1 and len(results(text)) == 1 and "laplace" in results(text)[0], text
    (job,) = jobs_of(text)
    assert [state for state, _ in states(job).values()] == ["FAILED"]
    record = json.loads(next(tmp_path.glob("runs/failures/*hmc*.json")).read_text())
    assert record["kind"] == "ModuleNotFoundError" and "Traceback" in record["traceback"]
    assert record["command"][0].endswith("sample.py") and "sampler=hmc" in record["command"]
    (log,) = [log for log in text_of_logs(tmp_path / "runs").values() if "ModuleNotFoundError" in log]
    assert "Traceback" in log and "laplace  λ̂ =" in log
    assert "ModuleNotFoundError: " in text and "again: python" in text


@pytest.mark.soak
def test_jobs_that_die_are_named_as_what_they_are_and_a_time_limit_may_be_shorter_than_a_run(begin, tiny, tmp_path):
    root = tmp_path / "runs"
    patient = begin(
        "sample",
        *(word for word in MEDIUM[:-1] if not word.startswith("sampler.step_size=")),
        "sampler.step_size=0.0005",  # of 1000 leapfrogs a draw more than fits into the 35 s of one start
        "sampler.draws=120000",
        "hydra.launcher.timeout_min=1",
        "hydra.launcher.signal_delay_s=25",
        WAIT,
    )
    deadly = (*LONG, "sampler.seed=1,2,3,4", "hydra.launcher.timeout_min=1")
    unwarned = "hydra.launcher.additional_parameters={signal: URG@1}"
    process = begin("sample", *deadly, unwarned, "hydra.launcher.max_num_timeout=0", WAIT)

    def deadly_runs():
        return {job: owner for job, owner in sampling(root).items() if "sampler.draws=5000000" in owner["command"]}

    runs = until(lambda: len(found := deadly_runs()) == 4 and found, "four runs to sample", PATIENCE)
    killed, cancelled, warned, late = sorted(runs)
    os.kill(runs[killed]["pid"], signal.SIGKILL)
    slurm("scancel", cancelled)
    slurm("scancel", "--signal=USR2", warned)
    code, text = end(process)
    assert code == 1
    assert f"job {killed} was killed by signal 9" in text, text
    assert f"job {cancelled} was cancelled by user {os.getuid()}" in text, text
    assert "time was up too many times, as often as hydra.launcher.max_num_timeout lets it" in text, text
    assert f"job {late} reached its time limit" in text, text
    # where nobody was there to write a record, none is written
    (record,) = [json.loads(path.read_text()) for path in root.glob("failures/*")]
    assert record["slurm_job"] == warned
    _, again = end(begin("sample", *deadly, HELD))
    assert "4 combinations: 0 done, 4 to submit (4 runs)" in again and again.count("  before: ") == 4

    code, text = end(patient, 3 * PATIENCE)
    assert code == 0 and len(results(text)) == 1, text
    (log,) = [log for log in text_of_logs(root).values() if f"SLURM job {jobs_of(text)[0]}, " in log]
    assert "stopped by SIGUSR2: back to the queue" in log and "going on from a checkpoint" in log, log


@pytest.mark.soak
def test_runs_that_are_interrupted_end_as_if_they_had_not_been(cluster, begin, start, finish, tiny, tmp_path):
    """One by SLURM's warning, one by preemption, one by the loss of its node; the launcher is killed, too."""
    sweep = (*MEDIUM, "sampler.seed=1,2,3")
    apart = tmp_path / "apart"
    shutil.copytree(tmp_path / "runs", apart / "runs")
    jobs = ("hydra.launcher.partition=low", "hydra.launcher.cpus_per_task=2")
    launcher = begin("sample", *sweep, *jobs, WAIT)
    root = tmp_path / "runs"
    runs = until(lambda: len(found := sampling(root)) == 3 and found, "three runs to sample", PATIENCE)
    launcher.kill()
    warned, preempted, lost = sorted(runs)
    node = {job: slurm("squeue", "-h", "-j", job, "-o", "%N").strip() for job in runs}
    slurm("scancel", "--signal=USR2", warned)
    slurm("sbatch", "-p", "high", "-w", node[preempted], "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    cluster.kill_node(node[lost])
    slurm("scontrol", "update", f"nodename={node[lost]}", "state=down", "reason=test")
    cluster.start_node(node[lost])
    slurm("scontrol", "update", f"nodename={node[lost]}", "state=resume")

    code, text = end(begin("sample", *sweep, *jobs, WAIT))
    assert code == 0 and re.match(r"3 combinations: 0 done(, \d running)?(, \d queued)?, 0 to submit", text), text
    assert len(results(text)) == 3
    undisturbed = finish(start(apart, "sample", "-m", *sweep))
    assert undisturbed.code == 0, undisturbed.text
    for job, name in zip(sorted(runs), ("USR2", "preemption", "loss of the node"), strict=True):
        logs = "".join(log for log in text_of_logs(root).values() if f"SLURM job {job}, " in log)
        assert ", start 2" in logs, (name, logs)
        assert "going on from a checkpoint" in logs, (name, logs)
    (there,) = (apart / "runs" / "targets").glob("tgt_*")
    for run in tiny.glob("run_*"):
        assert_same_draws(run, there / run.name)
