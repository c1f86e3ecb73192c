"""Data and weights that a user gives in files: read, hashed by content, and used as they are."""

import dataclasses
import hashlib
import json

import numpy as np
import pandas as pd
import problems  # noqa: F401  (settles JAX's precision)
import pytest

from lambda_hat import store
from lambda_hat.config.hydra_glue import config_from_plain
from lambda_hat.jobs import pipeline
from lambda_hat.store import given
from lambda_hat.system.errors import ConfigError
from lambda_hat.targets import artifact

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3))
Y = X @ [1.0, -1.0, 0.5] + 0.1 * RNG.standard_normal(40)
LINEAR = ("model=deep_linear", "model.in_dim=3", "model.widths=[2]", "model.out_dim=1")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A working directory with the same pairs in every format, and weights of the network LINEAR."""
    monkeypatch.chdir(tmp_path)
    np.savez("xy.npz", X=X, Y=Y)
    np.savez_compressed("small.npz", x=X, y=Y)
    np.save("x.npy", X)
    np.save("y.npy", Y)
    table = pd.DataFrame(X, columns=["a", "b", "c"])
    table.insert(1, "label", Y)
    table.to_csv("table.csv", index=False, float_format="%.17g")
    weights = {"layer0.weight": RNG.standard_normal((3, 2)), "layer1.weight": RNG.standard_normal((2, 1))}
    np.savez("w.npz", **weights)
    write_safetensors("w.safetensors", {name: array.astype(np.float32) for name, array in weights.items()})
    return tmp_path


def write_safetensors(path, arrays):
    header, start = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [start, start + array.nbytes]}
        start += array.nbytes
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in arrays.values()))


def settings(*words, compose):
    return compose.__wrapped__("data=file", "data.noise_scale=0.1", *LINEAR, *words)


SOURCES = [
    ("data.path=xy.npz",),
    ("data.path=small.npz",),
    ("data.path=x.npy", "data.labels_path=y.npy"),
    ("data.path=table.csv", "data.target=label"),
]


@pytest.mark.parametrize("words", SOURCES, ids=lambda words: words[0])
def test_every_format_gives_the_same_pairs(files, compose, words):
    target = artifact.prepare(settings(*words, compose=compose))
    np.testing.assert_array_equal(target.x, X)
    np.testing.assert_array_equal(target.y, Y[:, None])


def test_parquet_gives_the_same_pairs(files, compose):
    pytest.importorskip("pyarrow")
    pd.DataFrame({"a": X[:, 0], "label": Y, "b": X[:, 1], "c": X[:, 2]}).to_parquet("table.parquet")
    target = artifact.prepare(settings("data.path=table.parquet", "data.target=label", compose=compose))
    np.testing.assert_array_equal(target.x, X)


def test_words_and_integers_are_classes_and_integers_a_regression_where_asked(files, compose):
    table = pd.DataFrame(X, columns=["a", "b", "c"])
    table["kind"] = np.where(Y > 0, "up", "down")
    table.to_csv("kinds.csv", index=False)
    np.savez("whole.npz", X=np.arange(120).reshape(40, 3), Y=(Y > 0).astype(int))
    words = compose.__wrapped__("data=file", "data.path=kinds.csv", "data.target=kind", *LINEAR, "model.out_dim=2")
    np.testing.assert_array_equal(artifact.prepare(words).y, Y > 0)
    whole = compose.__wrapped__("data=file", "data.path=whole.npz", *LINEAR, "model.out_dim=2")
    assert whole.data.labels == "classes" and artifact.prepare(whole).x.dtype == np.int64
    real = artifact.prepare(settings("data.path=whole.npz", "data.labels=real", compose=compose))
    assert real.y.dtype == np.float64 and real.y.shape == (40, 1)


def test_a_subset_is_drawn_from_all_pairs(files, compose):
    target = artifact.prepare(settings("data.path=xy.npz", "data.n_data=10", compose=compose))
    rows = [int(np.flatnonzero((row == X).all(1))[0]) for row in target.x]
    assert len(set(rows)) == 10 and rows != list(range(10))
    np.testing.assert_array_equal(target.y[:, 0], Y[rows])


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_name_depends_on_content_alone(files, compose):
    words = ("training=given", "training.path={0}w.npz", "data.path={0}xy.npz")

    def target_id(directory=""):
        return settings(*(word.format(directory) for word in words), compose=compose).store.target_id

    first = target_id()
    (files / "elsewhere").mkdir()
    for name in ("w.npz", "xy.npz"):
        (files / "elsewhere" / name).write_bytes((files / name).read_bytes())
    assert target_id("elsewhere/") == first
    np.savez("elsewhere/xy.npz", X=X, Y=Y + 1e-9)
    second = target_id("elsewhere/")
    np.savez("elsewhere/w.npz", **{name: 2 * array for name, array in np.load("w.npz").items()})
    assert len({first, second, target_id("elsewhere/")}) == 3


def test_a_file_is_hashed_once_until_it_changes(files, compose, monkeypatch):
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: hashed.append(file.name) or digest(file, kind))
    for seed in range(3):
        settings("data.path=xy.npz", f"seed={seed}", compose=compose)
    assert hashed == [str(files / "xy.npz")]
    np.savez("xy.npz", X=X, Y=Y + 1)
    settings("data.path=xy.npz", compose=compose)
    assert len(hashed) == 2


def test_what_is_stored_names_no_path_and_a_frozen_job_refuses_a_file_that_has_changed(files, compose):
    config = settings("data.path=xy.npz", "training=given", "training.path=w.npz", compose=compose)
    assert str(files) not in json.dumps(store.plain({"data": config.data, "training": config.training}))
    frozen = config_from_plain(dataclasses.asdict(config))
    assert frozen == config
    np.savez("xy.npz", X=X, Y=Y + 1)
    with pytest.raises(ConfigError, match=r"data\.path=.*xy\.npz: the file has changed since this job was made"):
        artifact.prepare(frozen)
    np.savez("xy.npz", X=X, Y=Y)
    np.savez("w.npz", w=X)
    with pytest.raises(ConfigError, match=r"training\.path=.*w\.npz: the file has changed"):
        artifact.prepare(frozen)


# --- weights and σ ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors"])
def test_given_weights_are_w0_as_they_are(files, compose, name):
    config = settings("data.path=xy.npz", "training=given", f"training.path={name}", compose=compose)
    target = artifact.build(config, lambda line: None)
    weights = given.named_arrays(name, "training.path")
    for layer in ("layer0", "layer1"):
        np.testing.assert_array_equal(target.params[layer]["weight"], weights[f"{layer}.weight"])
    residual = X @ (weights["layer0.weight"] @ weights["layer1.weight"]) - Y[:, None]
    assert target.meta["metrics"]["L0"] == pytest.approx(np.mean(residual**2) / (2 * 0.1**2), rel=1e-6)
    assert target.meta["metrics"]["steps"] == target.meta["metrics"]["polish_iterations"] == 0
    assert target.meta["metrics"]["further_descent_gain"] > 0


def test_given_weights_are_polished_where_asked(files, compose):
    words = ("data.path=xy.npz", "training=given", "training.path=w.npz", "training.polish_steps=500")
    words += ("training.polish_localization=1",)
    target = artifact.build(settings(*words, compose=compose), lambda line: None)
    product = np.asarray(target.params["layer0"]["weight"] @ target.params["layer1"]["weight"])
    np.testing.assert_allclose(product[:, 0], np.linalg.lstsq(X, Y)[0], atol=1e-2)


@pytest.mark.parametrize("training", [("training=given", "training.path=w.npz"), ("training.steps=200",)])
def test_a_residual_noise_scale_is_that_of_the_residuals_at_w0(files, compose, training):
    config = settings("data.path=xy.npz", "data.noise_scale=residual", *training, compose=compose)
    target = artifact.build(config, lambda line: None)
    residual = X @ np.asarray(target.params["layer0"]["weight"] @ target.params["layer1"]["weight"]) - Y[:, None]
    assert target.noise_scale == pytest.approx(np.sqrt(np.mean(residual**2)), rel=1e-12)
    assert target.meta["metrics"]["L0"] == pytest.approx(0.5)
    assert target.meta["metrics"]["steps"] == (200 if "training.steps=200" in training else 0)


def test_a_target_of_files_is_published_read_and_sampled_without_them(files, compose):
    words = ("data.path=xy.npz", "training=given", "training.path=w.npz", "sampler=laplace", "runtime.figures=false")
    job = pipeline.job("run", settings(*words, "store.root=runs", compose=compose))
    pipeline.make(job)
    for name in ("xy.npz", "w.npz"):
        (files / name).unlink()
    again = compose.__wrapped__(
        f"target={job.paths.target_id}", "store.root=runs", "sampler=laplace", "posterior.gamma=50"
    )
    pipeline.make(pipeline.job("run", again))
    assert len(list(job.paths.target.glob("run_*"))) == 2
    assert not list(store.damages(job.paths.target))


# --- what does not fit ------------------------------------------------------------------------------------------------

FILE = ("data=file", "data.noise_scale=0.1", *LINEAR)
GOOD = (*FILE, "data.path=xy.npz")
REFUSED = [
    ((*FILE, "data.path=none.npz"), "data.path={}/none.npz: the file cannot be read (No such file or directory)"),
    ((*FILE, "data.path=."), "a file is expected, and this is none"),
    ((*FILE, "data.path=pickle.npz"), "holds Python objects (an array of dtype object, or a pickle)"),
    ((*FILE, "data.path=objects.npz"), "holds Python objects (an array of dtype object, or a pickle)"),
    ((*FILE, "data.path=w.npz"), "must hold arrays X and Y; got layer0.weight, layer1.weight"),
    ((*FILE, "data.path=text.npz"), "holds Python objects"),
    ((*FILE, "data.path=strings.npz"), "labels must be floats or integers; got an array of <U1"),
    ((*FILE, "data.path=nan.npz"), "labels must be finite; entry [3] is nan"),
    ((*FILE, "data.path=unequal.npz"), "inputs and labels must be equally many; got 40 and 39"),
    ((*FILE, "data.path=one.npz"), "must hold at least 2 pairs, since β = 1/log n; got 1"),
    ((*FILE, "data.path=w.safetensors"), "must be a file .npz, .npy, .csv or .parquet; got '.safetensors'"),
    ((*FILE, "data.path=x.npy"), "name the labels' with data.labels_path=y.npy"),
    ((*GOOD, "data.target=label"), "data.target names a column"),
    ((*GOOD, "data.labels_path=y.npy"), "data.labels_path goes with a file .npy"),
    ((*FILE, "data.path=table.csv"), "data.target must name the column of labels, one of a, label, b, c; got null"),
    ((*FILE, "data.path=table.csv", "data.target=d"), "one of a, label, b, c; got d"),
    ((*FILE, "data.path=hole.csv", "data.target=label"), "column a has no value in row 2"),
    ((*FILE, "data.path=words.csv", "data.target=label"), "column a must hold numbers; got 'red'"),
    ((*FILE, "data.path=empty.csv", "data.target=label"), "is no CSV table"),
    ((*GOOD, "data.noise_scale=null"), "data.noise_scale is missing"),
    ((*GOOD, "data.noise_scale=0"), "data.noise_scale must be > 0 and ≤ 1e+06; got 0.0"),
    ((*GOOD, "data.noise_scale=little"), "data.noise_scale must be a positive number or residual; got little"),
    ((*GOOD, "data.n_data=41"), "data.n_data must be ≤ 40, the pairs that data.path={}/xy.npz holds; got 41"),
    ((*GOOD, "data.labels=classes"), "data.labels=classes needs integers"),
    ((*GOOD, "model.in_dim=4"), "has inputs of shape (3,) and needs model.in_dim=3; got model.in_dim=4"),
    ((*GOOD, "model.out_dim=2"), "has labels of shape (1,) and needs as many outputs; got model.out_dim=2"),
    ((*FILE, "data.path=classes.npz", "model.out_dim=3"), "data.noise_scale has no use with labels that are classes"),
    ((*FILE, "data.path=classes.npz", "data.noise_scale=null"), "has class numbers up to 2 and needs model.out_dim ≥ 3"),
    ((*FILE, "data.path=negative.npz", "model.out_dim=3", "data.noise_scale=null"), "class numbers must be ≥ 0; got -1"),
    ((*GOOD, "training=given", "training.path=w.pt"), "must be a file .npz or .safetensors, since a pickle runs"),
    ((*GOOD, "training=given", "training.path=xy.npz"), "it lacks layer0.weight, layer1.weight; unknown are X, Y"),
    ((*GOOD, "training=given", "training.path=w.npz", "model.widths=[4]"), "must have shape (3, 4), as the model's; got (3, 2)"),
    ((*GOOD, "training=given", "training.path=broken.safetensors"), "is not a .safetensors file of arrays"),
    ((*GOOD, "training=given", "training.path=nan_w.npz"), "layer1.weight must be finite; 100% of it is not"),
    ((*GOOD, "training=given", "training.path=whole_w.npz"), "must be an array of floats; got one of int64"),
    (("training=given", "training.path=w.npz", "model=quadratic"), "training=given has no use with model=quadratic"),
    (("training=given",), "training.path is missing"),
    (("data=file",), "data.path is missing"),
]  # fmt: skip


@pytest.fixture
def bad_files(files):
    np.savez("objects.npz", X=X, Y=np.array([{}] * 40))
    np.save("pickle.npy", np.array([{}]))
    (files / "pickle.npy").rename("pickle.npz")
    (files / "text.npz").write_text("not a zip")
    np.savez("strings.npz", X=X, Y=np.array(["a"] * 40))
    np.savez("nan.npz", X=X, Y=np.where(np.arange(40) == 3, np.nan, Y))
    np.savez("unequal.npz", X=X, Y=Y[1:])
    np.savez("one.npz", X=X[:1], Y=Y[:1])
    np.savez("classes.npz", X=X, Y=np.arange(40) % 3)
    np.savez("negative.npz", X=X, Y=np.arange(40) % 3 - 1)
    (files / "hole.csv").write_text("a,label\n1,2\n3,4\n,5\n")
    (files / "words.csv").write_text("a,label\nred,2\nblue,4\n")
    (files / "empty.csv").write_text("")
    (files / "w.pt").write_bytes(b"\x80\x04.")
    (files / "broken.safetensors").write_bytes(b"\xff" * 40)
    weights = dict(np.load("w.npz"))
    np.savez("nan_w.npz", **weights | {"layer1.weight": np.full((2, 1), np.nan)})
    np.savez("whole_w.npz", **weights | {"layer1.weight": np.ones((2, 1), int)})
    return files


@pytest.mark.parametrize(("words", "sentence"), REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence_and_nothing_is_written(bad_files, command, words, sentence):
    before = sorted(bad_files.rglob("*"))
    last = {word.partition("=")[0]: word for word in words}
    outcome = command("sample", *last.values(), "runtime.compilation_cache=null")
    assert outcome.code == 1 and sentence.format(bad_files) in outcome.text
    assert "Traceback" not in outcome.text and len(outcome.text.strip().splitlines()) == 1
    assert sorted(bad_files.rglob("*")) == before
