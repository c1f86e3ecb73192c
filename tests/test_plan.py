"""What a launch finds, what it would do, and how that is frozen, without a cluster; and several processes on this machine."""

import json
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY
from test_cli import NETWORK, assert_same_draws

from lambda_hat import store
from lambda_hat.config import launcher as options
from lambda_hat.jobs import pipeline
from lambda_hat.launch import local, plan, script, slurm, submit, task
from lambda_hat.store import lease as leases
from lambda_hat.system.errors import StoreError


@pytest.fixture
def item(compose, tmp_path):
    """`item(*overrides)`: a run with a root of this test's own."""

    def made(*overrides, stage="run"):
        words = (*TINY, *overrides)
        return plan.Item(pipeline.job(stage, compose(f"store.root={tmp_path}", *words)), words)

    return made


@pytest.fixture
def wanted(compose):
    """`wanted(**changes)`: the options of conf/hydra/launcher/slurm.yaml, changed."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from lambda_hat.commands import main as cli

    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        composed = hydra_compose("config", ["hydra/launcher=slurm"], return_hydra_config=True)
    found = options.of(composed.hydra.launcher)
    return lambda **changes: replace(found, **changes)


def finish(item):
    item.job.directory.mkdir(parents=True)
    (item.job.directory / "file").touch()


def note(item, **owner_or_submission):
    item.work.mkdir(parents=True)
    for name, value in owner_or_submission.items():
        (item.work / f"{name}.json").write_text(json.dumps(value))


def test_a_sweep_is_taken_apart_by_one_look_at_the_queue(item):
    runs = [item(f"seed={seed}", f"sampler={name}") for seed in range(6) for name in ("hmc", "sgld", "mclmc")]
    for one in runs[:12]:
        if not one.target().job.directory.exists():
            finish(one.target())
    for one in runs[:7]:
        finish(one)
    note(runs[7], owner=leases.this_process() | {"slurm_job": None})
    note(runs[8], submitted={"slurm_job": "5_1", "user": "me"})  # runs
    note(runs[9], submitted={"slurm_job": "5_2", "user": "you"})  # waits
    note(runs[10], submitted={"slurm_job": "4", "user": "me"})  # is gone
    note(
        runs[11], owner=leases.this_process() | {"pid": 2**22 + 1}, submitted={"slurm_job": "3", "user": "me"}
    )  # is dead
    note(runs[12].target(), submitted={"slurm_job": "6_0", "user": "me"})
    note(runs[15].target(), owner=leases.this_process())
    asked = []

    def alive(users):
        asked.append(users)
        return {"5_1": True, "5_2": False, "6_0": False}

    found = plan.make(runs, alive)
    assert asked == [{"me", "you"}]
    assert [found.done, found.running, found.queued] == [runs[:7], runs[7:9], runs[9:10]]
    assert found.missing == runs[10:]
    assert [one.name for one in found.targets] == [runs[15].target().name]  # whose own job waits for that process
    assert found.jobs[runs[12].target().name] == "6_0"
    assert found.ended == {runs[10].name: "4", runs[11].name: "3"}
    assert found.line("to submit") == "18 combinations: 7 done, 2 running, 1 queued, 8 to submit (1 target, 8 runs)"


def test_where_nothing_was_begun_no_queue_is_asked(item):
    found = plan.make([item("seed=1"), item("seed=2")], lambda users: pytest.fail("asked"))
    assert found.line("to submit") == "2 combinations: 0 done, 2 to submit (2 targets, 2 runs)"


def test_forced_work_is_missing_though_it_is_there_but_not_twice(item):
    forced = item("force=true")
    finish(forced)
    assert plan.make([forced], lambda users: {}).missing == [forced]
    note(forced, submitted={"slurm_job": "5", "user": "me"})
    assert plan.make([forced], lambda users: {"5": False}).queued == [forced]


def test_runs_of_one_target_go_together_and_leftovers_share(item):
    runs = [item(f"seed={seed}", f"sampler.seed={n}") for n in range(3) for seed in range(4)]
    made = plan.tasks(runs, 2, ())
    assert [len(one.items) for one in made] == [2] * 6 and not any(one.needs for one in made)
    absent = {one.target().name for one in runs}
    made = plan.tasks(runs, 2, absent)
    assert sorted(len(one.needs) for one in made) == [1, 1, 1, 1, 2, 2]
    for one in made:
        assert {run.job.paths.target_id for run in one.items} == set(one.needs)
    assert sorted(run.name for one in made for run in one.items) == sorted(run.name for run in runs)
    assert plan.tasks([], 2, ()) == []


def test_programs_that_are_shared_are_next_to_each_other(item):
    finish(item().target())
    runs = [item(f"sampler={name}", f"sampler.seed={n}") for n in range(2) for name in ("hmc", "sgld")]
    names = [[run.job.config.sampler.name for run in one.items] for one in plan.tasks(runs, 2, ())]
    assert sorted(names) == [["hmc", "hmc"], ["sgld", "sgld"]]


def test_arrays_are_no_longer_than_the_cluster_takes_and_ask_for_what_their_runs_need(item, wanted):
    runs = [item(f"sampler={name}", f"sampler.seed={n}") for n in range(5) for name in ("hmc", "sgld")]
    found = plan.make(runs, lambda users: {})
    arrays = submit._arrays(found, wanted(), 2)
    assert [len(array.tasks) for array in arrays] == [1, 2, 2, 1, 2, 2, 1]
    assert [array.label.split("-")[0] for array in arrays] == ["targets"] + 6 * ["runs"]
    assert {array.needs for array in arrays[1:]} == {(runs[0].target().name,)}
    assert {array.request.timeout_min for array in arrays} == {60, 120}
    packed = submit._arrays(found, wanted(runs_per_job=10, gpus=1), 1000)
    assert [len(array.tasks) for array in packed] == [1, 1]
    assert [(array.request.gpus, array.request.timeout_min) for array in packed] == [(0, 60), (1, 5 * 60 + 5 * 120)]
    limited = submit._arrays(found, wanted(runs_per_job=10, timeout_min=7), 1000)
    assert [array.request.timeout_min for array in limited] == [7, 7]


def test_the_script_says_all_that_was_asked_for(item, wanted):
    asked = wanted(
        partition="gpu", cpu_partition="cpu", gres="gpu:a100", account="a b", constraint="x|y", setup=["module load x"],
        mail_user="me@example.org", additional=["--exclude=n7"], python="/opt/my python",
    )  # fmt: skip
    one = item("resources.run.gpus=2", "resources.run.timeout_min=1.5")
    text = script.text(script.request(one, asked), asked, Path("/code"))
    for line in (
        "--partition=gpu", "--gres=gpu:a100:2", '--account="a b"', "--constraint=x|y", "--time=1:30", "--mem=4096M",
        "--signal=USR2@60", "--requeue", "--mail-type=END,FAIL", "--exclude=n7", "--cpus-per-task=2",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    assert text.endswith(
        "module load x\n"
        'export PYTHONPATH=/code"${PYTHONPATH:+:$PYTHONPATH}"\n'
        'export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"\n'
        "exec srun --ntasks=1 --mpi=none '/opt/my python' -P -m lambda_hat.launch.worker \"$1/$SLURM_ARRAY_TASK_ID\"\n"
    )
    target = script.text(script.request(one.target(), asked), replace(asked, run_with=None), None)
    assert "--partition=cpu\n" in target and "gres" not in target
    assert "--signal=B:USR2@60" in target and "PYTHONPATH" not in target and "srun" not in target.lower()


def test_what_is_frozen_is_what_runs(item, tmp_path):
    one = item("sampler=sgld", "posterior.gamma=3", "sampler.seed=4")
    task.write(tmp_path / "0", [one], "bin/sample.py", tmp_path / "0" / "log.txt", gpus=0)
    told = task.read(tmp_path / "0")
    (frozen,) = told["jobs"]
    assert task.command(one.target(), "bin/sample.py")[0] == "bin/build_target.py"
    assert frozen.job() == one.job
    assert frozen.command[:2] == ["bin/sample.py", TINY[0]] and told["code"]["sha256"]
    config = frozen.config | {"sampler": frozen.config["sampler"] | {"draws": 9}}
    with pytest.raises(StoreError, match="submit it again"):
        frozen._replace(config=config).job()
    (tmp_path / "0" / "job.json").write_text("{}")
    with pytest.raises(StoreError, match=r"job.json cannot be read \(KeyError"):
        task.read(tmp_path / "0")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (slurm.JobState("FAILED", "", "1:0"), "failed with exit code 1"),
        (slurm.JobState("FAILED", "", "0:9"), "was killed by signal 9, as the kernel does when memory is short"),
        (slurm.JobState("FAILED", "", "139:0"), "was killed by signal 11"),
        (slurm.JobState("CANCELLED by 1001"), "was cancelled by user 1001"),
        (slurm.JobState("OUT_OF_MEMORY", "", "0:125"), "took more memory than it had asked for (mem_gb)"),
        (slurm.JobState("NODE_FAIL"), "was lost with its node"),
        (slurm.JobState("LAUNCH_FAILED"), "ended as LAUNCH_FAILED"),
    ],
)
def test_ends_in_words(entry, words):
    assert entry.ending == words and entry.is_over


def test_a_job_whose_dependency_cannot_be_met_is_over_and_a_held_one_is_stuck():
    assert slurm.JobState("PENDING", "DependencyNeverSatisfied").is_over
    held = slurm.JobState("PENDING", "JobHeldUser")
    assert not held.is_over and "scontrol release" in held.stuck
    assert slurm.JobState("PENDING", "Resources").stuck is None
    assert slurm.JobState("COMPLETING").runs and not slurm.JobState("REQUEUED").is_over


def test_what_an_allocation_has_set_is_not_handed_on(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SRUN_DEBUG", "SLURM_CONF", "CUDA_VISIBLE_DEVICES", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "7")
    kept = slurm.clean_environment()
    assert {"SLURM_CONF", "SBATCH_ACCOUNT"} <= kept.keys()
    assert not {"SLURM_JOB_ID", "SLURM_NTASKS", "SRUN_DEBUG", "CUDA_VISIBLE_DEVICES"} & kept.keys()


def test_without_slurm_a_launch_says_so(command, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    outcome = command("sample", "-m", *TINY, "hydra/launcher=slurm")
    assert outcome.code == 1 and "is not installed here" in outcome.err and outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# --- several processes here -------------------------------------------------------------------------------------------


def test_processes_at_a_time_make_what_one_makes(script, tiny_store, tmp_path):
    outcome = script("sample", "-m", *TINY, "sampler=hmc,mclmc", "seed=0,1", "hydra.launcher.jobs=2")
    assert outcome.code == 0, outcome.text
    assert outcome.out.startswith("4 combinations: 0 done, 4 to make (2 targets, 4 runs)")
    assert len(list(tmp_path.glob("runs/targets/tgt_*/run_*"))) == 4
    (here,) = (tiny_store[0] / "runs" / "targets").glob("tgt_*")
    for run in here.glob("run_*"):
        assert_same_draws(run, tmp_path / "runs" / "targets" / here.name / run.name)


def test_a_process_that_is_killed_or_fails_stops_no_other(start, finish, tmp_path):
    sweep = (*NETWORK, "sampler=laplace", "training=sgd", "training.learning_rate=100,0.001,0.002")
    process = start(tmp_path, "sample", "-m", *sweep, "hydra.launcher.jobs=3")
    deadline = time.monotonic() + 60
    killed = None
    while killed is None and time.monotonic() < deadline:
        time.sleep(0.02)
        for path in tmp_path.glob("runs/work/tgt_*/owner.json"):
            log = store.read_note(path).get("log")
            told = json.loads((tmp_path / log).with_name("job.json").read_text()) if log else {"jobs": []}
            if any(job["config"]["training"]["learning_rate"] == 0.001 for job in told["jobs"]):
                killed = store.read_note(path).get("pid")
    os.kill(killed, signal.SIGKILL)
    outcome = finish(process)
    assert outcome.code == 1
    assert "its process was killed by signal 9" in outcome.text
    assert len(re.findall(r"^not started: 1 of tgt_\w+, which was not built", outcome.text, re.MULTILINE)) == 2
    assert sum("λ̂ =" in line for line in outcome.out.splitlines()) == 1
    assert len(list(tmp_path.glob("runs/failures/*.json"))) == 1


def test_a_sweep_here_can_be_looked_at_before(command, tmp_path):
    outcome = command("sample", "-m", *TINY, "sampler=hmc,sgld", "hydra.launcher.dry_run=true")
    assert outcome.code == 0 and "2 combinations: 0 done, 2 to make (1 target, 2 runs)" in outcome.out
    assert list(tmp_path.iterdir()) == []


def test_each_process_keeps_to_its_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4}, raising=False)
    assert [local.share_of_cores(slot, 2) for slot in range(2)] == [[0, 2, 4], [1, 3]]
    assert local.share_of_cores(6, 7) == [1]


def test_each_process_sees_one_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [local.share_of_gpus(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["4", "7", "4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local.share_of_gpus(0) == {}
