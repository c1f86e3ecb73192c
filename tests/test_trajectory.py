"""Checkpoints of training: one trajectory, trained once and kept, from which every target of a checkpoint takes its w0."""

import json
import os
import threading
from dataclasses import replace

import numpy as np
import problems
import pytest

from lambda_hat import store
from lambda_hat.config import sweeps
from lambda_hat.jobs import pipeline
from lambda_hat.launch import plan
from lambda_hat.store import trajectory as trajectories
from lambda_hat.system.errors import BrokeDown, Stopped
from lambda_hat.targets import artifact, data, models, resumable, training

NETWORK = ("model.depth=null", "model.widths=[2]", "data.n_data=40", "training.polish_steps=20")
CONSTANT = (*NETWORK, "training.schedule=constant")


@pytest.fixture
def trained(monkeypatch):
    """A list that gets how many steps of training each call has made."""
    counts, original = [], training.Steps.next

    def next_(self, pieces, carry, structure, done, most):
        found = original(self, pieces, carry, structure, done, most)
        counts.append(found[0] - done)
        return found

    monkeypatch.setattr(training.Steps, "next", next_)
    return counts


def kept(root, config, minutes=60.0, say=problems.silent):
    return trajectories.Trajectory(root, pipeline.trajectory_groups(config), say, minutes)


def build(root, *overrides, keep=None, minutes=60.0, say=problems.silent):
    """The target, by way of a trajectory kept under `root`."""
    return built(root, problems.config(*overrides), keep, minutes, say)


def built(root, config, keep, minutes=60.0, say=problems.silent):
    """The same of what was composed."""
    config = replace(config, training=replace(config.training, keep=keep))
    (root / "work").mkdir(parents=True, exist_ok=True)
    return artifact.build(config, problems.silent, None, kept(root, config, minutes, say))


def alone(*overrides):
    """w0 of a target that is built without a trajectory."""
    return artifact.build(problems.config(*overrides), problems.silent).w0


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name"), [((), "tgt_0ba2ae26b480"), (("training=sgd", "model.target_params=300", "seed=3"), None)]
)
def test_a_setting_that_came_later_renames_no_target(options, name):
    """The digest of the settings without it, which is how targets were named before; the README's has been seen."""
    config = problems.config(*options)
    groups = {key: store.plain(getattr(config, key)) for key in store.STAGES["target"].keys}
    assert groups["training"].pop("checkpoint") is None and "keep" not in groups["training"]
    assert config.store.target_id == f"tgt_{store.digest('target', groups.values())}"
    assert name in (None, config.store.target_id)
    assert problems.config(*options, "training.keep=[3]").store.target_id == config.store.target_id
    others = {problems.config(*options, f"training.checkpoint={step}").store.target_id for step in (0, 1, 10000)}
    assert len(others) == 3 and config.store.target_id not in others


def test_a_trajectory_is_named_by_what_moves_the_weights_alone():
    name = lambda *options: trajectories.identifier(pipeline.trajectory_groups(problems.config(*CONSTANT, *options)))
    same = (
        "training.steps=7",
        "training.checkpoint=3",
        "training.polish_steps=9",
        "training.momentum=0.5",
        "sampler=sgld",
    )
    for option in same:
        assert name(option) == name()
    others = ("seed=2", "training.learning_rate=0.1", "training.batch_size=7", "training=sgd", "training.dtype=float64")
    assert len({name(), *(name(option) for option in (*others, "training.schedule=cosine", "data.n_data=41"))}) == 8
    sgd = (*CONSTANT, "training=sgd")
    assert name("training=sgd", "training.momentum=0.5") != name("training=sgd")
    assert problems.config(*sgd, "training.weight_decay=1.0").training.moves() == problems.config(*sgd).training.moves()
    cosine = [problems.config(*NETWORK, f"training.steps={steps}").training.moves() for steps in (5, 6)]
    assert cosine[0] != cosine[1]
    assert pipeline.trajectory_groups(problems.config("training=teacher")) is None


def test_checkpoints_spaced_in_the_logarithm():
    assert sweeps.checkpoints(20, 10_000) == (
        [0, 1, 2, 3, 5, 8, 13, 22, 36, 60, 100, 167, 278, 464, 774, 1292, 2154, 3594, 5995, 10000]
    )
    for steps in range(1, 60):
        for count in range(2, 25):
            found = sweeps.checkpoints(count, steps)
            assert found == sorted(set(found)) and (found[0], found[-1]) == (0, steps)
            assert len(found) == min(count, steps + 1)


# --- one training -----------------------------------------------------------------------------------------------------


def test_one_training_for_all_checkpoints_and_each_is_what_a_run_of_as_many_steps_gives(tmp_path, monkeypatch, trained):
    """Bit by bit, under a constant schedule, however the steps are cut into calls."""
    monkeypatch.setattr(resumable, "CALL_SECONDS", 1e-3)
    steps, found = [0, 5, 30, 70], {}
    for step in steps:
        found[step] = build(tmp_path, *CONSTANT, "training.steps=70", f"training.checkpoint={step}", keep=steps)
    end = build(tmp_path, *CONSTANT, "training.steps=70", keep=steps)
    assert sum(trained) == 70 and len(trained) > 6
    for step, target in found.items():
        unpolished = (*CONSTANT, "training.polish_steps=0", f"training.steps={step}")
        np.testing.assert_array_equal(target.w0, alone(*unpolished))
        point, metrics = target.meta["trajectory"], target.meta["metrics"]
        assert (point["step"], metrics["steps"], metrics["polish_iterations"]) == (step, step, 0)
        assert metrics["L0"] == pytest.approx(point["train_loss"], rel=1e-12)
        assert point["test_loss"] > 0 and point["test_loss"] != point["train_loss"]
    np.testing.assert_array_equal(end.w0, alone(*CONSTANT, "training.steps=70"))
    assert end.meta["metrics"]["polish_iterations"] > 0
    assert len({target.w0.tobytes() for target in [*found.values(), end]}) == 5


def test_the_end_of_a_cosine_schedule_is_the_end(tmp_path):
    target = build(tmp_path, *NETWORK, "training.steps=40", "training.checkpoint=40")
    np.testing.assert_array_equal(target.w0, alone(*NETWORK, "training.steps=40", "training.polish_steps=0"))


def test_a_longer_run_goes_on_and_one_between_starts_from_the_nearest(tmp_path, trained):
    names = set()
    for steps, checkpoint, more in ((20, 20, 20), (50, 50, 30), (50, 60, 10), (50, 30, 10), (50, 30, 0)):
        trained.clear()
        target = build(tmp_path, *CONSTANT, f"training.steps={steps}", f"training.checkpoint={checkpoint}")
        assert sum(trained) == more
        names.add(target.meta["trajectory"]["trajectory_id"])
        unpolished = (*CONSTANT, "training.polish_steps=0", f"training.steps={checkpoint}")
        np.testing.assert_array_equal(target.w0, alone(*unpolished))
    assert {path.name for path in (tmp_path / "trajectories").iterdir()} == names and len(names) == 1


@pytest.mark.parametrize("error", [Stopped(15), KeyboardInterrupt(), RuntimeError("killed")])
def test_training_that_is_stopped_or_killed_goes_on_where_it_was(tmp_path, monkeypatch, trained, error):
    """What is killed says nothing, so it goes on from what was written last: here after each call."""
    options = (*CONSTANT, "training.steps=60", "training.checkpoint=60")
    monkeypatch.setattr(resumable, "CALL_SECONDS", 1e-4)
    original = training.Steps.next

    def fail(self, pieces, carry, structure, done, most):
        if done >= 25:
            raise error
        return original(self, pieces, carry, structure, done, most)

    minutes = 0.0 if isinstance(error, RuntimeError) else 60.0
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(training.Steps, "next", fail)
        build(tmp_path, *options, minutes=minutes)
    (directory,) = (tmp_path / "trajectories").iterdir()
    assert sorted(path.name for path in directory.glob("*.npz")) == ["latest.npz"]
    done = sum(trained)
    assert 25 <= done < 60
    target = build(tmp_path, *options)
    assert sum(trained) == 60, "no step twice"
    assert sorted(path.name for path in directory.glob("*.npz")) == ["step_00000060.npz"]
    np.testing.assert_array_equal(target.w0, alone(*CONSTANT, "training.polish_steps=0", "training.steps=60"))
    assert not list(store.damages(directory)) and not list((tmp_path / "work").iterdir())


def test_two_at_once_train_once(tmp_path, monkeypatch, trained):
    monkeypatch.setattr(resumable, "CALL_SECONDS", 1e-3)
    found, said = {}, []

    config = problems.config(*CONSTANT, "training.steps=200")  # Hydra composes one at a time

    def work(step):
        one = replace(config, training=replace(config.training, checkpoint=step))
        found[step] = built(tmp_path, one, [100, 200], say=said.append)

    threads = [threading.Thread(target=work, args=(step,)) for step in (200, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [100, 200] and sum(trained) == 200
    assert not np.array_equal(found[100].w0, found[200].w0)


def test_what_breaks_down_later_leaves_the_checkpoints_before(tmp_path):
    options = (
        "training=sgd",
        "training.learning_rate=100",
        "training.steps=300",
        "model.activation=identity",
        *CONSTANT,
    )
    target = build(tmp_path, *options, "training.checkpoint=1", keep=[0, 1, 300])
    assert np.all(np.isfinite(target.w0))
    with pytest.raises(BrokeDown, match=r"not finite after step \d+ of training"):
        build(tmp_path, *options, "training.checkpoint=300")


# --- what is damaged --------------------------------------------------------------------------------------------------


def flip(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"\x93NUMPY") + 140] ^= 1  # in the first array
    path.write_bytes(bytes(content))


def swap(path):
    path.write_bytes(path.with_name("step_00000010.npz").read_bytes())


@pytest.mark.parametrize("damage", [flip, swap, lambda path: path.write_bytes(b"")])
def test_a_damaged_step_is_trained_again_and_said(tmp_path, trained, damage):
    options, said = (*CONSTANT, "training.steps=30", "training.checkpoint=30"), []
    before = build(tmp_path, *options, keep=[10])
    (directory,) = (tmp_path / "trajectories").iterdir()
    damage(directory / "step_00000030.npz")
    assert [line for line in store.damages(directory) if "step_00000030.npz" in line]
    trained.clear()
    after = build(tmp_path, *options, say=said.append)
    assert sum(trained) == 20, "from the sound step before it"
    np.testing.assert_array_equal(before.w0, after.w0)
    assert len(said) == 1 and "training again from before it" in said[0]
    assert not list(store.damages(directory))
    assert [path.name for path in (tmp_path / "replaced").glob("trj_*.step_00000030.npz.*")]


def test_a_trajectory_whose_settings_were_edited_is_made_anew(tmp_path, trained):
    options = (*CONSTANT, "training.steps=30", "training.checkpoint=10")
    build(tmp_path, *options)
    (directory,) = (tmp_path / "trajectories").iterdir()
    text = (directory / "config.yaml").read_text()
    (directory / "config.yaml").write_text(text.replace("seed: 0", "seed: 1"))
    assert any("config.yaml" in line for line in store.damages(directory))
    trained.clear()
    build(tmp_path, *options[:-1], "training.checkpoint=20")
    assert sum(trained) == 20 and not list(store.damages(directory))


def test_the_store_knows_trajectories(command, tool, tmp_path):
    """verify, du, rm and prune; a target needs its trajectory no more once it is built."""
    words = (*CONSTANT, "training.steps=20", "runtime.compilation_cache=null")
    made = command("build_target", "-m", *words, "training.checkpoint=0,20,null")
    assert made.code == 0, made.text
    assert "checkpoints of training: 0, 20, the end, polished" in made.out
    assert tool("store", "verify").out == tool("store", "verify", "runs").out
    assert "4 directories" in tool("store", "verify").out and "trajectories" in tool("store", "du").out
    assert json.loads(tool("store", "reindex", "--json").out)["targets"] == 3
    (directory,) = (tmp_path / "runs" / "trajectories").iterdir()
    flip(directory / "step_00000020.npz")
    damaged = tool("store", "verify")
    assert damaged.code == 1 and "step_00000020.npz" in damaged.out and "1 of them damaged" in damaged.out
    assert tool("status", "--prune").out == "nothing to remove\n"
    trajectory = tool("status", "--json").out
    assert len(json.loads(trajectory)) == 3
    assert tool("store", "rm", "--targets", "training.kind=descent").code == 0
    listed = tool("status", "--prune").out
    assert directory.name in listed and directory.is_dir()
    restored = tool("store", "restore", str(next((tmp_path / "runs" / "trash").iterdir())))
    assert restored.code == 0 and directory.name not in tool("status", "--prune").out
    assert tool("status", "--prune", "--yes").code == 0 and directory.is_dir()


# --- sweeps -----------------------------------------------------------------------------------------------------------


def test_a_sweep_says_its_checkpoints_and_trains_them_in_one_job(command, tmp_path):
    words = (*NETWORK, "training.steps=1000", "seed=1,2", "training.checkpoint=log4,null")
    looked = command("build_target", "-m", *words, "hydra.launcher.dry_run=true")
    assert looked.code == 0 and not (tmp_path / "runs").exists()
    assert "10 combinations: 0 done, 10 to make" in looked.out
    assert "checkpoints of training: 0, 1, 32, 1000, the end, polished" in looked.out
    script = command("sample", "-m", *words, "hydra/launcher=submitit_slurm", "hydra.launcher.dry_run=true")
    assert script.code == 0 and "--- 0: 10 targets in 2 jobs" in script.out
    assert "--- 1: 10 runs in 10 jobs" in script.out or "runs in 2 jobs" in script.out


def test_all_steps_that_a_sweep_wants_are_kept_by_whoever_trains(compose):
    words = [(*NETWORK, f"training.checkpoint={step}") for step in (3, 9, "null")] + [(*NETWORK, "seed=1")]
    items = [plan.Item(pipeline.job("target", compose(*each)), each) for each in words]
    found = plan._along(items)
    assert [item.job.config.training.keep for item in found] == [[3, 9, 10000]] * 3 + [None]
    assert [item.name for item in found] == [item.name for item in items]
    assert [len(group) for group in plan.by_trajectory(found)] == [3, 1]
    assert [len(task.items) for task in plan.tasks(found, 1, ())] == [3, 1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("training.checkpoint=-1",), "training.checkpoint must be ≥ 0"),
        (("training.checkpoint=abc",), "training.checkpoint must be a whole number; got abc."),
        (("training.checkpoint=1.5",), "training.checkpoint must be a whole number; got 1.5."),
        (
            ("training.checkpoint=10001",),
            "training.checkpoint must be ≤ training.steps=10000, the length of its cosine",
        ),
        (("training.checkpoint=log20",), "training.checkpoint=log20 stands for several steps: add -m to run each."),
        (
            ("training=teacher", "training.checkpoint=3"),
            "training.checkpoint has no use with training=given or teacher",
        ),
        (
            ("training=given", "training.path=w.npz", "training.checkpoint=3"),
            "training.checkpoint has no use with training=given or teacher",
        ),
        (("-m", "training=teacher", "training.checkpoint=log5"), "training.checkpoint has no use with training=given"),
        (("-m", "training.checkpoint=log1"), "training.checkpoint=log1: a logarithm is spaced from two checkpoints on"),
        (("-m", "training.steps=x", "training.checkpoint=log5"), "training.steps must be a whole number; got x."),
        (
            ("-m", "seed=range(600)", "training.checkpoint=log20"),
            "The sweep has 12000 combinations with all checkpoints",
        ),
    ],
)
def test_checkpoints_that_cannot_be_are_refused_in_a_sentence(command, tmp_path, words, sentence):
    refused = command("sample", *words)
    assert refused.code == 1 and refused.out == ""
    assert refused.err.startswith(sentence) and len(refused.err.strip().splitlines()) == 1
    assert not os.listdir(tmp_path)


# --- pairs that are held out ------------------------------------------------------------------------------------------


def test_held_out_pairs_are_others_of_the_same_origin(tmp_path):
    config = problems.config("data.n_data=300")
    network = models.build(config.model)
    drawn, more = (act(config.data, network, 0) for act in (data.build, data.held_out))
    assert more.x.shape == drawn.x.shape and not set(map(tuple, more.x)) & set(map(tuple, drawn.x))
    residual = more.y - np.asarray(more.teacher_model.apply(more.teacher, more.x))
    assert residual.std() == pytest.approx(0.1, rel=0.1)
    assert data.held_out(replace(config.data, x_dist="mixture"), network, 0) is None
    assert data.held_out(config.data, models.build(problems.config("model=quadratic").model), 0) is None

    digits = problems.config("data=digits", "data.n_data=1500")
    network = models.build(digits.model)
    drawn, more = (act(digits.data, network, 0) for act in (data.build, data.held_out))
    assert (len(drawn.x), len(more.x)) == (1500, 297)
    assert data.held_out(replace(digits.data, n_data=1797), network, 0) is None

    rows = np.arange(80.0).reshape(20, 4)
    np.savez(tmp_path / "xy.npz", X=rows, Y=rows[:, :1])
    options = ("data=file", f"data.path={tmp_path / 'xy.npz'}", "data.noise_scale=1", "model.in_dim=4")
    for n, left in ((12, 8), (20, 0)):
        file = problems.config(*options, f"data.n_data={n}")
        network = models.build(file.model)
        drawn, more = (act(file.data, network, 0) for act in (data.build, data.held_out))
        assert len(drawn.x) == n and (more is None if left == 0 else len(more.x) == left)
        there = [*drawn.x[:, 0], *([] if more is None else more.x[:, 0])]
        assert sorted(there) == rows[:, 0].tolist()


def test_the_residuals_sigma_does_not_change_the_trajectory(tmp_path, trained):
    """σ is taken at each checkpoint, from the same weights."""
    rows = np.random.default_rng(0).standard_normal((60, 4))
    np.savez(tmp_path / "xy.npz", X=rows[:, :3], Y=rows[:, 3:])
    options = (*CONSTANT[:2], "training.schedule=constant", "training.steps=20", "model.in_dim=3")
    options += ("data=file", f"data.path={tmp_path / 'xy.npz'}", "data.noise_scale=residual", "data.n_data=40")
    found = [build(tmp_path, *options, f"training.checkpoint={step}", keep=[0, 20]) for step in (0, 20)]
    assert sum(trained) == 20
    for target in found:
        assert target.noise_scale == pytest.approx(np.sqrt(target.meta["trajectory"]["train_loss"]), rel=1e-6)
    np.testing.assert_array_equal(found[1].w0, alone(*options, "training.polish_steps=0"))
