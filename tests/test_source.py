"""Networks of the user's own: made from a source, named after its text, and the same as the built-in one on the same weights."""

import sys
import textwrap
from importlib.util import spec_from_file_location

import jax
import jax.numpy as jnp
import numpy as np
import problems  # noqa: F401  (settles JAX's precision)
import pytest

from lambda_hat import store
from lambda_hat.config import source as sources
from lambda_hat.jobs import pipeline
from lambda_hat.system.errors import ConfigError
from lambda_hat.targets import artifact, custom

RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 3))
WEIGHTS = {
    "layer0.weight": RNG.standard_normal((3, 4)),
    "layer0.bias": RNG.standard_normal(4),
    "layer1.weight": RNG.standard_normal((4, 1)),
    "layer1.bias": RNG.standard_normal(1),
}
OUTPUTS = (
    np.tanh(X @ WEIGHTS["layer0.weight"] + WEIGHTS["layer0.bias"]) @ WEIGHTS["layer1.weight"] + WEIGHTS["layer1.bias"]
)

NETWORKS = {
    "pair": """
        import jax.numpy as jnp
        def make(width: int = 4):
            def init(key):
                return {"layer0": {"weight": jnp.ones((3, width)), "bias": jnp.zeros(width)},
                        "layer1": {"weight": jnp.ones((width, 1)), "bias": jnp.zeros(1)}}
            def apply(p, x):
                hidden = jnp.tanh(x @ p["layer0"]["weight"] + p["layer0"]["bias"])
                return (hidden @ p["layer1"]["weight"] + p["layer1"]["bias"])[:, 0]
            return init, apply
        """,
    "linen": """
        import flax.linen as nn
        class make(nn.Module):
            width: int = 4
            @nn.compact
            def __call__(self, x):
                return nn.Dense(1)(nn.tanh(nn.Dense(self.width, name="hidden")(x)))
        """,
    "nnx": """
        from flax import nnx
        class make(nnx.Module):
            def __init__(self, rngs, width: int = 4):
                self.first, self.last = nnx.Linear(3, width, rngs=rngs), nnx.Linear(width, 1, rngs=rngs)
                self.dropout = nnx.Dropout(0.5, rngs=rngs)
            def __call__(self, x):
                return self.last(self.dropout(nnx.tanh(self.first(x))))
        """,
    "equinox": """
        import equinox as eqx, jax
        def make(key, width: int = 4):
            return eqx.nn.MLP(3, 1, width, 1, activation=jax.numpy.tanh, key=key)
        """,
    "haiku": """
        import haiku as hk, jax
        def make(width: int = 4):
            return hk.transform(lambda x: hk.nets.MLP([width, 1], activation=jax.numpy.tanh)(x))
        """,
    "torch": """
        from torch import nn
        def make(width: int = 4):
            return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))
        """,
}
NAMES = {  # of the first layer's weight and bias and the last one's, and whether weights are transposed
    "pair": (["layer0.weight", "layer0.bias", "layer1.weight", "layer1.bias"], False),
    "linen": (["hidden.kernel", "hidden.bias", "Dense_0.kernel", "Dense_0.bias"], False),
    "nnx": (["first.kernel", "first.bias", "last.kernel", "last.bias"], False),
    "equinox": (["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"], True),
    "haiku": (["mlp/~/linear_0.w", "mlp/~/linear_0.b", "mlp/~/linear_1.w", "mlp/~/linear_1.b"], False),
    "torch": (["0.weight", "0.bias", "2.weight", "2.bias"], True),
}
NEEDS = {"linen": "flax", "nnx": "flax", "equinox": "equinox", "haiku": "haiku", "torch": "torchax"}
QUICK = (
    "sampler=laplace",
    "sampler.draws=50",
    "runtime.figures=false",
    "store.root=runs",
    "runtime.compilation_cache=null",
)
OWN = ("model=custom", "data=file", "data.path=xy.npz", "data.noise_scale=1", *QUICK)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("xy.npz", X=X, Y=OUTPUTS + 0.1 * RNG.standard_normal((50, 1)))
    np.savez("w.npz", **WEIGHTS)
    return tmp_path


def write(path, text):
    path.write_text(textwrap.dedent(text))


def settings(*words, compose):
    return compose.__wrapped__(*OWN, *words)


@pytest.mark.parametrize("framework", NETWORKS)
def test_every_framework_computes_with_given_weights(files, compose, framework):
    if framework in NEEDS:
        pytest.importorskip(NEEDS[framework])
    write(files / "net.py", NETWORKS[framework])
    names, transposed = NAMES[framework]
    arrays = [array.T if transposed and array.ndim == 2 else array for array in WEIGHTS.values()]
    np.savez("named.npz", **dict(zip(names, arrays, strict=True)))
    config = settings("model.source=net.py:make", "training=given", "training.path=named.npz", compose=compose)
    target = artifact.prepare(config)
    np.testing.assert_allclose(target.model.apply(target.params, jnp.asarray(X)), OUTPUTS, rtol=1e-6)
    assert set(custom.named_leaves(target.params)) == set(names)
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), target.params)
    assert target.model.apply(single, jnp.asarray(X, np.float32)).dtype == np.float32
    target = target._replace(meta={"seed": 0})
    (files / "tgt_000000000000").mkdir()
    artifact.write(files / "tgt_000000000000", target, "tgt_000000000000")
    store.seal(files / "tgt_000000000000")
    again = artifact.read(files / "tgt_000000000000", config.model, config.data)
    np.testing.assert_array_equal(again.w0, target.w0)


def test_the_same_network_as_built_in_and_as_own_gives_the_same_estimate(files, compose):
    write(files / "net.py", NETWORKS["pair"])
    given = ("training=given", "training.path=w.npz")
    built_in = ("model=small", "model.in_dim=3", "model.depth=null", "model.widths=[4]")
    data = ("data=file", "data.path=xy.npz", "data.noise_scale=1")
    estimates = []
    for words in (("model=custom", "model.source=net.py:make"), built_in):
        job = pipeline.job("run", compose.__wrapped__(*words, *data, *given, *QUICK))
        pipeline.make(job)
        found = store.read_json(job.directory / "analysis.json")
        estimates.append((found["llc_mean"], found["L0"], found["p"], found["baseline_gain"]))
    np.testing.assert_allclose(estimates[0], estimates[1], rtol=1e-9)


def test_a_parameter_may_have_any_name_and_shape(files, compose):
    write(
        files / "net.py",
        """
        import jax.numpy as jnp
        def make():
            init = lambda key: {"file": jnp.ones(3), "conv": {"kernel": jnp.ones((2, 1, 1, 2))}, "x/~/y": [jnp.ones(())]}
            def apply(p, x):
                return x @ p["file"] * p["conv"]["kernel"].sum() + p["x/~/y"][0]
            return init, apply
        """,
    )
    job = pipeline.job("run", settings("model.source=net.py:make", "training.steps=5", compose=compose))
    pipeline.make(job)
    arrays = store.read_arrays(job.paths.target / "params.npz")
    assert {name: array.shape for name, array in arrays.items()} == {
        "conv.kernel": (2, 1, 1, 2),
        "file": (3,),
        "x/~/y.0": (),
    }
    assert (job.paths.target / "source.py").read_text() == (files / "net.py").read_text()
    assert not list(store.damages(job.paths.target))


def test_integer_inputs_and_a_label_for_each_position(files, compose):
    np.savez("xy.npz", X=RNG.integers(0, 5, (30, 6)), Y=RNG.integers(0, 5, (30, 6)))
    write(
        files / "net.py",
        """
        import jax
        def make():
            return lambda key: {"embedding": jax.random.normal(key, (5, 5))}, lambda p, x: p["embedding"][x]
        """,
    )
    config = compose.__wrapped__(*OWN[:3], *QUICK, "model.source=net.py:make", "training.steps=5")
    target = artifact.build(config, lambda line: None)
    assert target.x.dtype == np.int64 and target.y.shape == (30, 6)


# --- names and imports ------------------------------------------------------------------------------------------------


def test_a_target_is_named_after_the_text_and_the_typed_options(files, compose):
    text = "def make(width: int = 4, slope: float = 1.0, name='net', *, depth: int | None = None): ..."
    write(files / "net.py", text)

    def target_id(options="{}", source="net.py:make"):
        return settings(f"model.source={source}", f"model.options={options}", compose=compose).store.target_id

    assert target_id("{slope: 2}") == target_id("{slope: 2.0}") != target_id()
    assert target_id("{width: 2.0}") == target_id("{width: 2}") != target_id("{width: 3}")
    (files / "other.py").write_text((files / "net.py").read_text())
    first = target_id()
    assert target_id(source="other.py:make") == first
    write(files / "net.py", text + "  # changed")
    assert target_id() != first


def test_a_module_of_a_package_that_is_on_no_path_is_found_where_its_finder_says(tmp_path, monkeypatch):
    """As an editable installation of a package is."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "__init__.py").write_text("raise ImportError('only looked for')")
    write(tmp_path / "src" / "net.py", "def make(): ...")

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return spec_from_file_location(name, tmp_path / "src" / "__init__.py") if name == "no_path" else None

    with pytest.raises(ConfigError, match=r"there is no module no_path.net on Python's path"):
        sources.locate("no_path.net:make")
    sources._of_module.cache_clear()
    monkeypatch.setattr("sys.meta_path", [*sys.meta_path, Finder])
    assert sources.locate("no_path.net:make") == (str(tmp_path / "src" / "net.py"), "no_path.net", "make")
    assert "no_path" not in sys.modules
    with pytest.raises(ConfigError, match=r"there is no module __main__.net"):
        sources.locate("__main__.net:make")


def test_a_source_is_imported_where_the_command_line_names_it_alone(files, compose, command):
    write(files / "net.py", NETWORKS["pair"] + "\n        __import__('pathlib').Path('imported').touch()\n")
    job = pipeline.job("run", settings("model.source=net.py:make", "training.steps=5", compose=compose))
    assert not (files / "imported").exists()
    pipeline.make(job)
    (files / "imported").unlink()
    for name, *words in (("status",), ("results",), ("report", "-o", "report.html"), ("store", "verify")):
        assert _view(name, *words) == 0, name
    assert not (files / "imported").exists()
    again = (f"target={job.paths.target_id}", "posterior.gamma=50", *QUICK)
    refused = command("sample", *again)
    assert (
        refused.code == 1
        and "imported only where the command line names it: add model=custom model.source=" in refused.text
    )
    write(files / "other.py", NETWORKS["pair"])
    refused = command("sample", *again, "model=custom", "model.source=other.py:make")
    assert refused.code == 1 and "was made from make in a source whose sha256 is" in refused.text
    assert not (files / "imported").exists()
    accepted = command("sample", *again, "model=custom", f"model.source={job.paths.target}/source.py:make")
    assert accepted.code == 0 and (files / "imported").exists(), accepted.text


def _view(name, *words):
    import importlib
    import sys
    from unittest import mock

    with mock.patch.object(sys, "argv", [f"{name}.py", *words]):
        try:
            importlib.import_module(f"lambda_hat.commands.{name}").main()
        except SystemExit as stop:
            return stop.code or 0
    return 0


# --- what does not fit ------------------------------------------------------------------------------------------------

LINEAR = "init = lambda key: {'w': jnp.ones((3, 1))}\n"
REFUSED = [
    ("", "net.py", "must be a file or a module and a callable in it, such as net.py:make; got net.py"),
    ("", "none.py:make", "none.py: the file cannot be read (No such file or directory)"),
    ("", "no.such.module:make", "there is no module no.such.module on Python's path"),
    ("def make(:", "net.py:make", "is not Python in line 1"),
    ("other = 3", "net.py:make", "make must be a callable; there is no such name"),
    ("make = 3", "net.py:make", "make must be a callable; got int"),
    ("1 / 0", "net.py:make", "net.py raised ZeroDivisionError: division by zero"),
    ("import nothing_at_all", "net.py:make", "raised ModuleNotFoundError"),
    ("raise SystemExit('bye')", "net.py:make", "raised SystemExit: bye"),
    ("def make(): return 1 / 0", "net.py:make", "make raised ZeroDivisionError"),
    ("def make(): return 3", "net.py:make", "must return a Flax, Equinox or Haiku model, a torch.nn.Module or a pair"),
    ("def make(width): ...", "net.py:make", "make needs width; add 'model.options={width: …}'"),
    ("def make(): return (lambda key: {'n': 3}), None", "net.py:make", "a pair (init, apply) of functions; got tuple"),
    ("make = lambda: ((lambda key: {'n': 3}), print)", "net.py:make", "every leaf must be an array of floats"),
    ("make = lambda: ((lambda key: {}), print)", "net.py:make", "must hold at least one array"),
    ("make = lambda: ((lambda key: 1 / 0), print)", "net.py:make", "init(key) raised ZeroDivisionError"),
    (LINEAR + "make = lambda: (init, lambda p, x: x[:, :2] @ p['w'])", "net.py:make", "make(params, float64[8, 3]) raised"),
    (LINEAR + "make = lambda: (init, lambda p, x: jnp.log(x @ p['w']))", "net.py:make", "must be finite at w0"),
    (LINEAR + "make = lambda: (init, lambda p, x: (x - x.mean(0)) @ p['w'])", "net.py:make", "batch norm in training mode"),
    (LINEAR + "import random\nmake = lambda: (init, lambda p, x: x @ p['w'] * random.random())", "net.py:make", "dropout"),
    (LINEAR + "make = lambda: (init, lambda p, x: (x @ p['w'])[:3])", "net.py:make", "one row for each example; got shape"),
    (LINEAR + "make = lambda: (init, lambda p, x: x)", "net.py:make", "real-valued labels must have the outputs' shape"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "source", "sentence"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_does_not_fit_is_refused_in_a_sentence_and_nothing_is_written(files, command, text, source, sentence):
    (files / "net.py").write_text(f"import jax.numpy as jnp\n{text}" if "jnp" in text else text)
    before = sorted(files.rglob("*"))
    outcome = command("sample", *OWN, f"model.source={source}")
    assert outcome.code == 1 and sentence in outcome.text, outcome.text
    assert "Traceback" not in outcome.text and len(outcome.text.strip().splitlines()) == 1
    assert sorted(files.rglob("*")) == before


def test_options_that_the_callable_does_not_take_are_refused(files, compose):
    write(files / "net.py", "def make(width: int = 4, key=None): ...")
    for options, sentence in {
        "{widht: 3}": "make has no option widht; it takes width",
        "{key: 3}": "make has no option key",
        "{width: a}": "must be of type int, as make says; got 'a' of str",
        "{width: 2.5}": "must be of type int, as make says; got 2.5 of float",
    }.items():
        with pytest.raises(ConfigError, match=sentence.replace("(", r"\(")):
            settings("model.source=net.py:make", f"model.options={options}", compose=compose)


def test_weights_that_do_not_match_name_what_they_lack(files, compose):
    write(files / "net.py", NETWORKS["pair"])
    np.savez("w.npz", **{name.replace("bias", "b"): array for name, array in WEIGHTS.items()})
    config = settings("model.source=net.py:make", "training=given", "training.path=w.npz", compose=compose)
    with pytest.raises(ConfigError, match=r"it lacks layer0\.bias, layer1\.bias; unknown are layer0\.b, layer1\.b"):
        artifact.prepare(config)
