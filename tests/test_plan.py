"""What a launch finds, what it would do, and how that is frozen, without a cluster; and several processes on this machine."""

import json
import os
import pickle
import re
import signal
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
from conftest import TINY
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf
from test_cli import NETWORK, assert_same_draws

from lambda_hat import store
from lambda_hat.commands import main as cli
from lambda_hat.config import hydra_glue
from lambda_hat.config import launcher as options
from lambda_hat.jobs import pipeline
from lambda_hat.launch import arrays, cluster, frozen, local, plan, slurm, task
from lambda_hat.store import lease as leases
from lambda_hat.system.errors import StoreError


@pytest.fixture
def item(compose, tmp_path):
    """`item(*overrides)`: a run with a root of this test's own."""

    def made(*overrides, stage="run"):
        words = (*TINY, *overrides)
        return plan.Item(pipeline.job(stage, compose(f"store.root={tmp_path}", *words)), words)

    return made


def composed(*overrides):
    """The options of `hydra.launcher` that these overrides compose."""
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        hydra = hydra_compose("config", list(overrides), return_hydra_config=True).hydra
    return options.of(hydra)


@pytest.fixture
def wanted(compose):
    """`wanted(**changes)`: the options of hydra/launcher=submitit_slurm, changed."""
    hydra_glue.register()
    found = composed("hydra/launcher=submitit_slurm", "hydra.launcher.name=x")
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


def kinds(made):
    """Each array's stage, how many jobs it has, and what it waits for."""
    return [(array.stage, len(array.packs), array.after) for array in made]


def test_each_run_follows_its_own_target_in_few_arrays(item, wanted):
    runs = [
        item(f"seed={seed}", f"sampler={name}", f"sampler.seed={n}")
        for seed in range(5)
        for name, n in (("hmc", 0), ("hmc", 1), ("mclmc", 0), ("sgld", 0))
    ]
    found = plan.make(runs, lambda users: {})
    made = arrays.arrays(found, wanted(), 1001)
    assert kinds(made) == [("target", 5, None), *4 * [("run", 5, 0)]]
    for array in made[1:]:
        targets = [pack[0].job.paths.target_id for pack in array.packs]
        assert targets == [pack[0].name for pack in made[0].packs]
        assert len({array.request for pack in array.packs}) == 1
    packed = arrays.arrays(found, wanted(runs_per_job=10), 1001)
    assert kinds(packed) == [("target", 5, None), ("run", 5, 0)]
    assert [(array.request.gpus, array.request.timeout_min) for array in packed] == [(0, 60), (1, 60 + 60 + 60 + 120)]
    limited = arrays.arrays(found, wanted(runs_per_job=10, timeout_min=7), 1001)
    assert [array.request.timeout_min for array in limited] == [7, 7]
    in_step = arrays.arrays(found, wanted(runs_per_job=10), 2)  # no array is longer than the cluster takes
    assert kinds(in_step) == [
        *(("target", 2, None), ("run", 2, 0)),
        *(("target", 2, None), ("run", 2, 2)),
        *(("target", 1, None), ("run", 1, 4)),
    ]


def test_runs_whose_targets_are_there_or_on_their_way_cost_a_call_each(item, wanted):
    runs = [item(f"seed={seed}") for seed in range(7)]
    for one in runs[:3]:
        finish(one.target())
    for number, one in enumerate(runs[3:6]):
        note(one.target(), submitted={"slurm_job": f"5_{number}", "user": "me"})
    note(runs[6].target(), submitted={"slurm_job": "6", "user": "me"})
    found = plan.make(runs, lambda users: {"5_0": True, "5_1": False, "5_2": False, "6": False})
    made = arrays.arrays(found, wanted(), 1001)
    assert kinds(made) == [("run", 3, None), ("run", 3, "afterany:5_0:5_1:5_2"), ("run", 1, "afterok:6")]
    assert [array.builds for array in made] == [True, False, True]


def test_the_script_says_all_that_was_asked_for(item, wanted, tmp_path):
    asked = wanted(
        partition="gpu", cpu_partition="cpu", account="a b", constraint="x|y", setup=["module load x"], exclude="n7",
        additional_parameters={"mail-user": "me@example.org", "nice": 5}, python="/opt/python",
    )  # fmt: skip
    one = item("resources.run.gpus=2", "resources.run.timeout_min=1.5")

    def text(one, asked, folder=tmp_path, **more):
        array = arrays.Array(arrays.request(one, asked), [(one,)])
        made = cluster.executor(array, folder, asked, **more)
        return made._make_submission_file_text(made._submitit_command_str, "")

    script = text(one, asked, dependency="aftercorr:4", code="/code")
    for line in (
        "--partition=gpu", "--gpus-per-node=2", "--account='a b'", "--constraint='x|y'", "--time=2", "--mem=4096M",
        "--signal=USR2@60", "--requeue", "--exclude=n7", "--cpus-per-task=2", "--mail-user=me@example.org", "--nice=5",
        "--dependency=aftercorr:4", "--kill-on-invalid-dep=yes",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in script
    assert 'module load x\nexport PYTHONPATH=/code"${PYTHONPATH:+:$PYTHONPATH}"\nexport SRUN_CPUS' in script
    assert re.search(r"srun --unbuffered .* --mpi=none /opt/python -u -m submitit.core._submit", script)
    target = text(one.target(), asked)
    assert "--partition=cpu\n" in target and "gpu" not in target.replace("cpu", "") and "PYTHONPATH" not in target
    typed = text(one, replace(asked, gres="gpu:a100:1", mem_per_cpu="3G"))
    assert "--gres=gpu:a100:1\n" in typed and "gpus-per-node" not in typed and "--mem=" not in typed
    assert "--gpus-per-node=1\n" in text(item(), asked)
    assert "--time" not in text(item("resources.run.timeout_min=null"), asked)
    percent = text(one, asked, Path("/a 50%/b%%x/%j"))  # to SLURM %b may mean something, and %% is %
    assert "#SBATCH --output='/a 50%%/b%%%%x/%j/%j_0_log.out'\n" in percent
    assert "--output '/a 50%%/b%%%%x/%j/%j_%t_log.out'" in percent
    assert percent.rstrip().endswith("_submit '/a 50%/b%%x/%j'")


def test_what_is_frozen_is_what_runs(item, tmp_path):
    one = item("sampler=sgld", "posterior.gamma=3", "sampler.seed=4")
    path = frozen.write(tmp_path / "0", [one], "bin/sample.py")
    told = frozen.read(path)
    found = told["jobs"][one.name]
    assert frozen.command(one.target(), "bin/sample.py")[0] == "bin/build_target.py"
    assert found.job() == one.job
    assert found.command[:2] == ["bin/sample.py", TINY[0]] and told["code"]["sha256"]
    config = found.config | {"sampler": found.config["sampler"] | {"draws": 9}}
    with pytest.raises(StoreError, match="submit it again"):
        found._replace(config=config).job()
    path.write_text("{}")
    with pytest.raises(StoreError, match=r"launch.json cannot be read \(KeyError"):
        frozen.read(path)
    assert len(pickle.dumps(task.Task(path, [one.name], 1))) < 600


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("hydra.launcher.timeout_min=0.1",), "hydra.launcher.signal_delay_s must be less than the job's time, 6 s"),
        (("resources.target.timeout_min=0.5",), "hydra.launcher.signal_delay_s must be less than the job's time, 30 s"),
        (("store.root=a%jb",), "submitit puts a number of the job's in the place of %j"),
        (("hydra.launcher.nodes=2",), "hydra.launcher.nodes must be 1"),
        (("hydra.launcher.tasks_per_node=2",), "hydra.launcher.tasks_per_node must be 1"),
        (("hydra.launcher.gres=gpu:0",), "hydra.launcher.gres=gpu:0 asks for nothing"),
        (("+hydra.launcher.partitoin=x",), "Did you mean hydra.launcher.partition?"),
        (("hydra.launcher.jobs=2",), "hydra.launcher.jobs: there is no such setting"),
    ],
)
def test_what_cannot_be_is_refused_before_slurm_is_asked(command, tmp_path, words, sentence):
    outcome = command("sample", "-m", *TINY, "hydra/launcher=submitit_slurm", *words)
    assert outcome.code == 1 and sentence in outcome.err and outcome.err.count("\n") == 1, outcome.text
    assert list(tmp_path.iterdir()) == []


# --- options ----------------------------------------------------------------------------------------------------------

STOCK = """
# @package _global_
hydra:
  launcher:
    _target_: hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher
    submitit_folder: ${hydra.sweep.dir}/.submitit/%j
    timeout_min: 240
    cpus_per_task: 8
    mem_gb: 16
    gpus_per_node: 1
    partition: gpu
    signal_delay_s: 120
    array_parallelism: 16
"""


def test_every_stock_option_is_there_under_its_name(compose):
    for stock, cls in ((SlurmQueueConf, options.Slurm), (LocalQueueConf, options.Local)):
        assert {f.name for f in fields(stock)} <= {f.name for f in fields(cls)}
        defaults, ours = stock(), cls()
        differing = {f.name for f in fields(stock) if getattr(defaults, f.name) != getattr(ours, f.name)}
        assert differing <= {
            *("_target_", "submitit_folder", "timeout_min", "stderr_to_stdout", "max_num_timeout", "signal_delay_s"),
        }
    found = composed("hydra/launcher=submitit_slurm", "hydra.launcher.additional_parameters={nice: 5}")
    assert found.additional_parameters == {"nice": 5} and found.timeout_min is None


@pytest.mark.parametrize("launcher", ["local", "basic", "submitit_local", "submitit_slurm"])
def test_the_stock_launchers_yaml_works_as_it_is_and_hinders_no_other_launcher(command, tmp_path, launcher):
    (tmp_path / "mine" / "local").mkdir(parents=True)
    (tmp_path / "mine" / "local" / "user.yaml").write_text(STOCK)
    words = ("-m", f"hydra/launcher={launcher}", "hydra.launcher.dry_run=true", *TINY)
    outcome = command("sample", f"--config-dir={tmp_path / 'mine'}", *words)
    assert outcome.code == 0 and "1 combination: 0 done, 1 to " in outcome.out, outcome.text
    assert ("#SBATCH --partition=gpu\n" in outcome.out) == (launcher == "submitit_slurm")


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
    outcome = command("sample", "-m", *TINY, "hydra/launcher=submitit_slurm")
    assert outcome.code == 1 and "is not installed here" in outcome.err and outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    outcome = command("sample", "-m", *TINY, "hydra/launcher=submitit_slurm", "hydra.launcher.dry_run=true")
    assert outcome.code == 0 and outcome.out.count("#SBATCH --time=60") == 2 and "2 calls of sbatch" in outcome.out
    assert list(tmp_path.iterdir()) == []
    outcome = command("sample", "-m", *TINY, "hydra/launcher=slurm")
    assert outcome.code == 1 and "write hydra/launcher=submitit_slurm" in outcome.err


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
            owner = store.read_note(path)
            if "training.learning_rate=0.001" in owner.get("command", ()):
                killed = owner["pid"]
    os.kill(killed, signal.SIGKILL)
    outcome = finish(process)
    assert outcome.code == 1
    assert "its process ended without a result" in outcome.text
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


def test_each_process_sees_the_gpus_that_it_asked_for(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [local.share_of_gpus(slot, 1) for slot in range(3)] == ["4", "7", "4"]
    assert [local.share_of_gpus(0, gpus) for gpus in (0, 2, 3)] == ["", "4,7", "4,7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local.share_of_gpus(0, 1) == ""
