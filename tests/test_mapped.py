"""Data that stay in their file: read by rows, and everything is as with the same data in memory."""

import jax
import numpy as np
import pytest
from problems import config

from lambda_hat import store
from lambda_hat.analysis.summary import Summary
from lambda_hat.jobs import memory, pipeline
from lambda_hat.store import files, given
from lambda_hat.system import devices
from lambda_hat.system.errors import ConfigError
from lambda_hat.targets import artifact, curvature, losses, mapped

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((700, 3)).astype(np.float32), RNG.standard_normal((700, 1)).astype(np.float32)
ROWS = {"widest": 700, "dtype": np.float32}
"""Chunks of 64 rows."""


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """The same rows in memory and in files, as `losses.Rows`."""
    arrays = []
    for name, array in (("x", X), ("y", Y)):
        np.save(tmp_path / f"{name}.npy", array)
        with open(tmp_path / f"{name}.npy", "rb") as file:
            arrays.append(files.map_array(file))
    monkeypatch.setattr(losses, "AT_ONCE", 64)
    return losses.to_rows(X, Y, **ROWS), losses.to_rows(*arrays, **ROWS)


def network():
    made = config("model.in_dim=3", "model.depth=null", "model.widths=[5]", "data.n_data=700", "training.steps=0")
    target = artifact.prepare(made)
    return target.loss(made.posterior), target.w0


def test_rows_in_a_file_are_those_in_memory(pair):
    memory, file = pair
    assert isinstance(file.x, mapped.Mapped) and memory.x.shape == file.x.shape == (11, 64, 3)
    assert file.x.numbers.nbytes + file.y.numbers.nbytes == 2 * 4 * 704, "numbers of rows, and not rows"
    for ours, theirs in ((file.x, memory.x), (file.y, memory.y)):
        np.testing.assert_array_equal(mapped.loaded(ours), theirs)
    index = np.array([0, 699, 5, 5])
    for ours, theirs in zip(losses.pairs(file, index), losses.pairs(memory, index), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(losses.deal(file, 3), losses.deal(memory, 3), strict=True):
        np.testing.assert_array_equal(mapped.loaded(ours), theirs)


@pytest.mark.parametrize("one_by_one", [True, False])
def test_losses_gradients_and_products_are_the_same(pair, one_by_one):
    loss, w0 = network()
    points = jax.numpy.asarray(w0 + 0.1 * RNG.standard_normal((4, len(w0))), np.float32)
    index = jax.numpy.asarray(RNG.integers(0, 700, (4, 20)))

    def of_point(rows, w, index):
        return (
            losses.value_and_grad(loss, rows, w),
            losses.batch_grad(loss, rows, w, index),
            losses.hessian_product(loss, rows, w, w),
        )

    def all_points(rows):
        if one_by_one:
            return jax.lax.map(lambda pair: of_point(rows, *pair), (points, index))
        return jax.vmap(lambda *pair: of_point(rows, *pair))(points, index)

    for ours, theirs in zip(*(jax.tree.leaves(jax.jit(all_points)(rows)) for rows in reversed(pair)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_devices_that_read_at_the_same_time_do_not_wait_for_each_other(pair):
    loss, w0 = network()
    layout = devices.layout(1e9)
    assert len(layout.devices) > 1
    points = np.asarray(w0 + 0.1 * RNG.standard_normal((6, len(w0))), np.float32)

    def gradients(rows, points):
        return layout.over(lambda w: losses.value_and_grad(loss, rows, w))(points)

    program = layout.program(gradients, 6, (False, True), True)
    theirs, *ours = (jax.tree.map(np.asarray, program(rows, points)) for rows in (pair[0], *[pair[1]] * 5))
    for each in ours:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), each, theirs)


def test_the_curvature_is_the_same(pair):
    loss, w0 = network()
    memory, file = (curvature.at(loss, rows, w0, seed=0) for rows in pair)
    np.testing.assert_allclose(memory.eigenvalues, file.eigenvalues, rtol=1e-4, atol=1e-6)


def test_more_rows_than_one_call_takes(tmp_path):
    many = RNG.standard_normal((3 * mapped.AT_ONCE + 7, 1))
    np.save(tmp_path / "x.npy", many)
    with open(tmp_path / "x.npy", "rb") as file:
        array = files.map_array(file)
    rows = losses.to_rows(array, array, 1, np.float64)
    np.testing.assert_array_equal(np.asarray(mapped.loaded(rows.x)).ravel()[: len(many)], many.ravel())


# --- files ------------------------------------------------------------------------------------------------------------


def test_an_array_in_an_npz_is_mapped_where_it_lies(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, X=X, Y=Y, small=np.arange(3))
    arrays = store.read_arrays(path, tmp_path, mapped_from=Y.nbytes)
    assert {name for name, array in arrays.items() if isinstance(array, np.memmap)} == {"X", "Y"}
    np.testing.assert_array_equal(arrays["X"], X)
    np.testing.assert_array_equal(arrays["Y"], Y)
    again = store.read_arrays(path, tmp_path, mapped_from=Y.nbytes)
    assert again["X"] is arrays["X"], "so that the next run shares its programs"
    assert not isinstance(store.read_arrays(path, tmp_path)["X"], np.memmap)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda x: x.__setitem__((650, 1), np.nan), r"inputs must be finite; entry \[650, 1\] is nan"),
        (lambda x: None, None),
    ],
)
def test_mapped_data_are_checked_as_others(tmp_path, monkeypatch, spoil, sentence):
    monkeypatch.setattr(files, "MAPPED_FROM", 1000)
    monkeypatch.setattr(given, "BLOCK", 64)
    x = X.copy()
    spoil(x)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", Y)
    read = lambda: given.pairs(str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), None)
    if sentence is None:
        assert isinstance(read().x, np.memmap) and read().x.dtype == np.float32
    else:
        with pytest.raises(ConfigError, match=sentence):
            read()


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2", "?", "<u1", ">i8"])
def test_numbers_of_any_kind_are_those_of_the_file(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(files, "MAPPED_FROM", 100)
    array = np.asfortranarray((10 * X).astype(dtype))
    np.save(tmp_path / "x.npy", array)
    found = given.pairs(str(tmp_path / "x.npy"), str(tmp_path / "x.npy"), None).x
    assert isinstance(found, np.memmap) == (np.dtype(dtype).isnative)
    rows = losses.to_rows(found, found, 1, np.float64)
    assert rows.x.dtype == (np.float64 if array.dtype.kind == "f" else np.int64)
    np.testing.assert_array_equal(np.asarray(mapped.loaded(rows.x)).reshape(-1, 3)[:700], array)


def test_a_pickled_array_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAPPED_FROM", 1)
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ConfigError, match="holds Python objects"):
        given.pairs(str(tmp_path / "x.npy"), str(tmp_path / "x.npy"), None)


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["hmc", "sgld", "mclmc"])
def test_a_run_over_mapped_data_is_the_one_over_data_in_memory(tmp_path, monkeypatch, sampler):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("y.npy", Y)
    found = []
    for root, mapped_from in (("memory", np.inf), ("file", 1000)):
        monkeypatch.setattr(files, "MAPPED_FROM", mapped_from)
        job = pipeline.job(
            "run",
            config(
                "data=file",
                "data.path=x.npy",
                "data.labels_path=y.npy",
                "data.noise_scale=residual",
                "model.in_dim=3",
                "model.depth=null",
                "model.widths=[4]",
                "training.steps=50",
                f"sampler={sampler}",
                "sampler.draws=40",
                "sampler.warmup=12",
                "sampler.mcse_target=null",
                "runtime.figures=false",
                f"store.root={root}",
            ),
        )
        pipeline.make(job)
        found.append(Summary.read(job.directory))
        target = artifact.read(job.paths.target, job.config.model, job.config.data)
        assert isinstance(target.x, np.memmap) == (root == "file")
        np.testing.assert_array_equal(target.x, X)
    memory, file = found
    assert (memory.target_id, memory.run_id) == (file.target_id, file.run_id), "where data lie is in no name"
    assert file.llc_mean == pytest.approx(memory.llc_mean, rel=1e-3)
    assert file.singular_fluctuation == pytest.approx(memory.singular_fluctuation, rel=1e-2)


def test_data_that_stay_in_their_file_are_not_counted_as_memory(tmp_path, monkeypatch):
    n, d = 20_000, 50
    np.save(tmp_path / "x.npy", np.zeros((n, d), np.float32))
    np.save(tmp_path / "y.npy", np.zeros((n, 1), np.float32))
    paths = f"data.path={tmp_path}/x.npy", f"data.labels_path={tmp_path}/y.npy"
    made = config(
        "data=file", *paths, "data.noise_scale=1", f"model.in_dim={d}", "model.depth=null", "model.widths=[2]"
    )
    whole = memory.predict(made, "run")["data and training"]
    monkeypatch.setattr(memory, "MAPPED_FROM", 4 * n * d)
    by_rows = memory.predict(made, "run")["data and training"]
    assert whole - by_rows > 16 * n * d, "inputs and labels, and a copy of them, in float64"
    assert by_rows > n * memory.MAPPED_PAIR
