"""Checkpoints: work that is stopped, anywhere and again and again, ends in the same bits as work that is not."""

import contextlib
import os
import random
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import problems
import pytest
from conftest import soak_but

from lambda_hat.store import journal as journals
from lambda_hat.store.journal import Journal
from lambda_hat.system import devices, stopping
from lambda_hat.system.errors import Deposed, Stopped
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
    assert said == [f"the checkpoint is of other a: it is now in {tmp_path / 'aside'}; starting over"]
    assert len(list((tmp_path / "aside").glob("0*.npz"))) == 4  # three steps, and the state of the last


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


def pieces(journal, sizes, total=24):
    """The numbers 0 … total−1 in pieces of these sizes, a step each, as draws come from calls of a program; never one twice."""
    numbers, state, sizes = [], np.array(0), iter(sizes)

    def compute(start):
        count = min(next(sizes), total - int(start))
        return {"x": np.arange(start, start + count)}, {"next": np.asarray(start + count)}

    while len(numbers) < total:
        result, carry = journal.passing("draws", lambda s=state: compute(s), follows=bool(numbers))
        numbers += result["x"].tolist()
        state = None if carry is None else carry["next"]
    return numbers


def test_steps_of_two_writers_are_never_read_as_one_journal(tmp_path):
    """Calls are cut by the clock, so that two owners' steps of one name hold different draws."""
    for name, sizes in (("a", [3] * 8), ("b", [4] * 6)):
        pieces(Journal(tmp_path / name, {}, NOW), sizes)
    for number in range(6):
        for left in (number, 6):  # one file from the other, or that and all after it
            mixed = tmp_path / f"{number}.{left}"
            shutil.copytree(tmp_path / "a", mixed)
            for path in (tmp_path / "b").glob("0*"):
                if int(path.name[:5]) in range(number, left + 1):
                    shutil.copy(path, mixed)
            journal = Journal(mixed, {}, NOW)
            assert journal.attempt(lambda j=journal: pieces(j, [5] * 9)) == list(range(24)), (number, left)


def test_another_step_in_a_steps_place_starts_over(tmp_path):
    said = []
    counted(Journal(tmp_path / "c", {}, NOW), [], 3)
    journal = Journal(tmp_path / "c", {}, NOW, said.append)
    assert journal.attempt(lambda: pieces(journal, [9] * 9)) == list(range(24))
    assert said[-1].startswith(
        "the checkpoint cannot be resumed from (JournalError: its step 0 is step 0, expected draws)"
    )
    assert (tmp_path / "aside" / "00002.npz").exists()
    again = Journal(tmp_path / "c", {}, NOW)
    assert again.attempt(lambda: pieces(again, [])) == list(range(24))


def test_steps_that_do_not_fit_start_over_and_other_errors_are_not_hidden(tmp_path):
    """As they would come of code whose hash is the same and whose results are not: nothing that has a right hash is trusted."""
    journal = Journal(tmp_path / "c", {}, NOW)
    journal.passing("draws", lambda: ({"y": np.arange(3)}, {"z": np.arange(2)}))
    journal = Journal(tmp_path / "c", {}, NOW)
    assert journal.attempt(lambda: pieces(journal, [9] * 9)) == list(range(24))

    def work(journal, calls):
        calls.append(1)
        journal.step("one", lambda: {"x": 1})
        journal.step("two", lambda: {"x": 2})
        raise ValueError("of the work's own")

    calls = []
    for sort in (Journal(tmp_path / "d", {}, NOW), Journal(tmp_path / "e", {}, 60)):  # fresh: nothing to blame
        with pytest.raises(ValueError, match="of the work's own"):
            sort.attempt(lambda j=sort: work(j, calls))
    assert len(calls) == 2


MUTATIONS = {
    "emptied": lambda path, other: path.write_bytes(b""),
    "halved": lambda path, other: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": lambda path, other: path.write_bytes(bytes(b ^ (i % 37 == 5) for i, b in enumerate(path.read_bytes()))),
    "gone": lambda path, other: path.unlink(),
    "a directory": lambda path, other: (path.unlink(), path.mkdir(), (path / "x").touch()),
    "a pipe": lambda path, other: (path.unlink(), os.mkfifo(path)),
    "a loop": lambda path, other: (path.unlink(), path.symlink_to(path.name)),
    "a link out": lambda path, other: (path.unlink(), path.symlink_to("/etc/passwd")),
    "another's": lambda path, other: path.write_bytes(other.read_bytes()),
    "a list": lambda path, other: path.write_text("[[[]]]"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_whatever_a_journal_looks_like_the_work_finishes(tmp_path, mutation):
    generator = random.Random(mutation)
    for number in range(20):
        directory = tmp_path / "work" / str(number) / "checkpoint" / "token"
        with Journal(directory, {"a": 1}, NOW) as journal, contextlib.suppress(StopIteration):
            pieces(journal, [2] * 7)
        for _ in range(generator.choice([1, 1, 2])):
            paths = sorted(path for path in directory.iterdir() if path.is_file())
            MUTATIONS[mutation](generator.choice(paths), generator.choice(paths))
        with Journal(directory, {"a": 1}, NOW) as journal:
            assert journal.attempt(lambda j=journal: pieces(j, [5] * 9)) == list(range(24)), number
        assert (directory / "identity.json").is_file()


def test_a_deposed_owner_writes_nothing(tmp_path):
    taken = []

    def check():
        if taken:
            raise Deposed("another has it")

    calls = []
    with pytest.raises(Deposed), Journal(tmp_path / "c", {}, NOW, check=check) as journal:
        counted(journal, calls, 2)
        (tmp_path / "c").rename(tmp_path / "theirs")
        before = {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()}
        taken.append(True)
        counted(journal, calls, 3)
    assert not (tmp_path / "c").exists()
    assert {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()} == before


def test_a_checkpoint_that_is_gone_hinders_no_owner(tmp_path, caplog):
    with Journal(tmp_path / "c", {}, NOW) as journal:
        assert pieces(journal, iter_then(lambda: shutil.rmtree(tmp_path / "c"))) == list(range(24))
    assert "the work goes on without a checkpoint" in caplog.text and not (tmp_path / "c").exists()


def iter_then(act):
    """Sizes of pieces, with something done after the second."""
    yield from (3, 3)
    act()
    while True:
        yield 3


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
    layout = devices.layout(1e9)
    program = layout.program(lambda carry: carry + 1, 2, (True,), True)
    found = []
    for _ in range(2):
        with Journal(tmp_path / "c", {}, NOW) as journal:
            pieces = resumable.Pieces(journal, lambda carry: layout.place(carry, 2, True))
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


@pytest.mark.parametrize("sampler", soak_but(["hmc", "sgld"], SAMPLERS))
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
