"""Checkpoints: work that is stopped, anywhere and again and again, ends in the same bits as work that is not."""

import os
from types import SimpleNamespace

import jax
import numpy as np
import problems
import pytest

from lambda_hat.store import journal as journals
from lambda_hat.store.journal import Journal
from lambda_hat.system import parallel, stopping
from lambda_hat.system.errors import Stopped
from lambda_hat.targets import artifact, resumable

NOW = 0.0
"""A checkpoint after every step."""


def counted(journal, calls, steps):
    """`steps` steps of one number each, and of a state that follows; what they gave."""

    def compute(i, state):
        calls.append(i)
        return {"x": np.arange(i)}, {"s": np.asarray(0 if state is None else state["s"] + 1)}

    results, state = [], None
    for i in range(steps):
        result, state = journal.passing(f"step {i}", lambda i=i, state=state: compute(i, state), follows=i > 0)
        results.append(result["x"].tolist())
    return results, None if state is None else int(state["s"])


def test_what_the_journal_has_is_not_computed_again(tmp_path):
    calls = []
    assert counted(Journal(tmp_path / "c", {"a": 1}, NOW), calls, 3) == ([[], [0], [0, 1]], 2)
    assert counted(Journal(tmp_path / "c", {"a": 1}, NOW), calls, 5) == ([[], [0], [0, 1], [0, 1, 2], [0, 1, 2, 3]], 4)
    assert calls == [0, 1, 2, 3, 4]
    assert [p.name for p in sorted((tmp_path / "c").glob("*.state.npz"))] == ["00004.state.npz"]


def test_a_journal_of_something_else_is_not_used(tmp_path):
    said, calls = [], []
    counted(Journal(tmp_path / "c", {"a": 1}, NOW), calls, 3)
    counted(Journal(tmp_path / "c", {"a": 2}, NOW, said.append), calls, 2)
    assert calls == [0, 1, 2, 0, 1]
    assert said == ["there is a checkpoint of other code, packages or settings, or a damaged one: starting over"]


def test_nothing_is_written_before_its_time(tmp_path):
    with Journal(tmp_path / "c", {}, 60) as journal:
        counted(journal, [], 3)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stopped(15)])
def test_what_is_interrupted_is_kept(tmp_path, error):
    calls = []
    with pytest.raises(BaseException) as raised, Journal(tmp_path / "c", {}, 60) as journal:
        counted(journal, calls, 3)
        raise error
    assert isinstance(raised.value, error if isinstance(error, type) else Stopped)
    counted(Journal(tmp_path / "c", {}, 60), calls, 3)
    assert calls == [0, 1, 2]


@pytest.mark.parametrize("keep", [0, 1, -1])
@pytest.mark.parametrize("name", ["00001.npz", "00002.npz", "00002.state.npz", "identity.json"])
def test_a_damaged_journal_is_used_as_far_as_it_is_sound(tmp_path, name, keep):
    said, calls = [], []
    path = tmp_path / "c" / name
    for i in range(3):  # as if killed between writing a step's state and removing the one before it
        counted(Journal(tmp_path / "c", {}, NOW), calls, i + 1)
        kept = tmp_path / f"{i}.state.npz"
        os.link(tmp_path / "c" / f"{i:05d}.state.npz", kept)
    os.link(tmp_path / "1.state.npz", tmp_path / "c" / "00001.state.npz")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:keep])
    calls.clear()
    assert counted(Journal(tmp_path / "c", {}, NOW, said.append), calls, 4) == ([[], [0], [0, 1], [0, 1, 2]], 3)
    assert calls[-1] == 3 and calls == list(range(calls[0], 4)) and said
    assert calls[0] == {"00001.npz": 0, "00002.npz": 2, "00002.state.npz": 2, "identity.json": 0}[name]


def test_a_flipped_byte_is_seen_or_harmless(tmp_path):
    counted(Journal(tmp_path / "c", {}, NOW), [], 3)
    path = tmp_path / "c" / "00002.npz"
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        assert counted(Journal(tmp_path / "c", {}, NOW), [], 3) == ([[], [0], [0, 1]], 2), at
        assert path.exists()


def test_a_carry_from_the_journal_lies_where_the_program_leaves_it(tmp_path):
    """Else what is computed from it outside the program, on fewer devices, may round differently."""
    mesh = parallel.mesh(2)
    program = jax.jit(parallel.shard(lambda carry: carry + 1, mesh, (True,), True))
    found = []
    for _ in range(2):
        with Journal(tmp_path / "c", {}, NOW) as journal:
            pieces = resumable.Pieces(journal, lambda carry: parallel.place(carry, mesh, True))
            start = np.zeros((2, 3))
            call = lambda carry, count: (program(carry), ())
            found.append(pieces.next("one", start, jax.tree.structure(start), call, 1, False)[0])
    made, read = found
    assert read.sharding.is_equivalent_to(made.sharding, 2)
    np.testing.assert_array_equal(read, made)


# --- the same bits ----------------------------------------------------------------------------------------------------


def stopped_often(monkeypatch, directory, work, every):
    """What `work(journal)` gives when it is stopped after every so many steps and gone on with; and how often it was."""
    times = 0
    while True:
        left = iter(range(2 * every))

        def check(left=left):
            if next(left, None) is None:
                raise Stopped(15)

        monkeypatch.setattr(journals, "stopping", SimpleNamespace(check=check, saving=stopping.saving))
        try:
            with Journal(directory, {}, 60) as journal:
                return work(journal), times
        except Stopped:
            times += 1
            assert times < 500


def assert_same(a, b):
    """All but the seconds."""
    a, b = (result._replace(seconds=None, draws=result.draws._replace(seconds=None)) for result in (a, b))
    jax.tree.map(np.testing.assert_array_equal, a, b)


NETWORK = ("model=tanh", "data=whitened", "data.n_data=60", "training.steps=50", "training.polish_steps=600", "seed=3")
SAMPLERS = {
    "hmc": ("sampler=hmc", "sampler.metric=curvature"),
    "hmc plain": ("sampler=hmc", "sampler.metric=identity"),
    "mclmc": ("sampler=mclmc",),
    "sgld": ("sampler=sgld",),
    "rmsprop": ("sampler=sgld", "sampler.precond=rmsprop"),
    "adam": ("sampler=sgld", "sampler.precond=adam"),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_that_is_stopped_in_warm_up_and_after_ends_in_the_same_bits(tmp_path, monkeypatch, sampler):
    config = problems.config(*NETWORK, *SAMPLERS[sampler], "sampler.draws=30", "sampler.warmup=44")
    problem = problems.of(problems.config(*NETWORK))
    whole = problem.sample(config)
    monkeypatch.setattr(resumable, "CALL_SECONDS", 0.01)
    pieces, times = stopped_often(monkeypatch, tmp_path / "c", lambda j: problem.sample(config, journal=j), 3)
    assert times > 5
    assert_same(whole, pieces)
    assert np.isfinite(whole.draws.records.excess).all()


def test_whether_draws_are_enough_is_not_asked_again_where_the_journal_goes_on(tmp_path, monkeypatch):
    config = problems.config(*NETWORK, *SAMPLERS["mclmc"], "sampler.draws=40", "sampler.warmup=4")
    problem, asked = problems.of(problems.config(*NETWORK)), []
    enough = lambda so_far: asked.append(so_far.records.excess.shape[1])
    work = lambda journal: problem.sample(config, journal=journal, enough=enough)
    whole, times = stopped_often(monkeypatch, tmp_path / "c", work, 3)
    assert times > 5 and whole.draws.records.excess.shape[1] == asked[-1] == 40
    assert len(asked) - len(set(asked)) <= times  # the last one there is, at each start


def test_training_that_is_stopped_ends_in_the_same_bits(tmp_path, monkeypatch):
    config = problems.config(*NETWORK)
    whole = artifact.build(config, problems.silent)
    monkeypatch.setattr(resumable, "CALL_SECONDS", 1e-4)
    build = lambda journal: artifact.build(config, problems.silent, journal)
    pieces, times = stopped_often(monkeypatch, tmp_path / "c", build, 2)
    assert times > 3
    np.testing.assert_array_equal(whole.w0, pieces.w0)
    assert whole.meta["metrics"] == pieces.meta["metrics"]
