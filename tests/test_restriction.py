"""Restricted posteriors: some parameters move and the others stay at w0, or L_n is over other data than the target's."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pandas as pd
import problems
import pytest
from test_cli import assert_one_sentence
from test_source import NETWORKS, WEIGHTS, X, files, write  # noqa: F401  (files is a fixture)

import lambda_hat
from lambda_hat import store
from lambda_hat.config.hydra_glue import config_from_plain
from lambda_hat.inspect.groups import grouped
from lambda_hat.inspect.scan import scan
from lambda_hat.inspect.table import COLUMNS
from lambda_hat.jobs import pipeline
from lambda_hat.system.errors import ConfigError
from lambda_hat.targets import custom, models, restriction

QUICK = {"draws": 100, "warmup": 40, "mcse_target": None}
RNG = np.random.default_rng(1)
REGRESSION = problems.LinearRegression(400, 5)


def finite(hessian, n, gamma):
    """λ̂ of the exact posterior of a quadratic: ½ tr nβH(nβH+γ)⁻¹."""
    h = n / np.log(n) * np.linalg.eigvalsh(np.atleast_2d(hessian))
    return 0.5 * np.sum(h / (h + gamma))


def on_regression(**settings):
    w0 = REGRESSION.problem.w0
    params = {"first": w0[:2], "rest": {"b": w0[2:4], "a": w0[4:]}}
    apply = lambda p, x: x[:, :2] @ p["first"] + x[:, 2:4] @ p["rest"]["b"] + x[:, 4:] @ p["rest"]["a"]
    given = {"noise_scale": REGRESSION.sigma, "gamma": 3.0} | settings
    return lambda_hat.estimate(apply, params, REGRESSION.x, REGRESSION.y[:, 0], **given)


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["laplace", "hmc", "sgld", "mclmc"])
def test_a_quadratic_restricted_to_some_directions_has_their_share(sampler):
    """Each direction of curvature h adds ½ nβh/(nβh + γ)."""
    h = {"a": np.array([3.0, 0.05]), "b": {"c": np.array([0.5]), "d": np.array([[0.01, 20.0]])}}

    def potential(p):
        each = ((h["a"], p["a"]), (h["b"]["c"], p["b"]["c"]), (h["b"]["d"], p["b"]["d"]))
        return sum(0.5 * jnp.sum(jnp.asarray(curvature) * w**2) for curvature, w in each)

    params = {"a": np.zeros(2), "b": {"c": np.zeros(1), "d": np.zeros((1, 2))}}
    short = {"draws": 50} if sampler == "laplace" else QUICK
    est = lambda_hat.estimate(
        potential=potential, params=params, n=1000, gamma=5, sampler=sampler, parameters=["b.d", "a"], **short
    )
    assert est.llc == pytest.approx(finite(np.diag([3.0, 0.05, 0.01, 20.0]), 1000, 5), abs=1e-5 + 5 * (est.mcse or 0))
    assert (est.summary.p, est.summary.p_model, est.summary.estimand.parameters) == (4, 5, "a, b.d")
    assert est.summary.stein_identity.expected == 4
    assert "4 of 5 parameters move: a, b.d" in est._repr_html_()


@pytest.mark.parametrize(("patterns", "columns"), [(["rest.*"], [2, 3, 4]), (["first", "rest.a"], [0, 1, 4])])
def test_a_regression_restricted_to_some_weights_has_its_exact_value(patterns, columns):
    exact = finite(REGRESSION.hessian[np.ix_(columns, columns)], 400, 3)
    assert on_regression(sampler="laplace", draws=20, parameters=patterns).llc == pytest.approx(exact, abs=1e-6)
    est = on_regression(parameters=patterns, **QUICK)
    assert est.llc == pytest.approx(exact, abs=1e-5 + 5 * est.mcse)


def test_the_prior_radius_counts_what_moves():
    est = on_regression(sampler="laplace", draws=20, parameters=["rest.*"], gamma=None, prior_radius=0.5)
    assert est.summary.estimand.gamma == 3 / 0.5**2


def test_restricted_is_the_same_as_written_with_constants():
    """A network with some weights restricted, and one that has the others in its code: same seeds, same draws."""
    x = RNG.standard_normal((60, 3))
    first, last = 0.7 * RNG.standard_normal((3, 4)), RNG.standard_normal(4)
    y = np.tanh(x @ first) @ last + 0.1 * RNG.standard_normal(60)
    given = {"x": x, "y": y, "noise_scale": 0.1, "gamma": 100.0, "dtype": "float64"}

    def whole(p, x):
        return jnp.tanh(x @ p["first"]) @ p["last"]

    def part(p, x):
        return jnp.tanh(x @ jnp.asarray(first, p["last"].dtype)) @ p["last"]

    for settings in ({"sampler": "laplace", "draws": 30}, QUICK):
        some = lambda_hat.estimate(
            whole, {"first": first, "last": last}, parameters=["last"], **given, **settings
        ).summary
        alone = lambda_hat.estimate(part, {"last": last}, **given, **settings).summary
        for name in ("llc_mean", "laplace", "baseline_gain", "distance2_mean", "L0", "total_fges"):
            assert getattr(some, name) == pytest.approx(getattr(alone, name), rel=1e-9), name


def test_what_compiled_for_one_restriction_serves_an_equal_one():
    model = models.network(3, (4,), 1, activation="tanh", bias=True, layernorm=False, init="lecun")
    params = custom.fill_in(model.init(models.jax.random.key(0)), WEIGHTS, "here")
    moved = {**params, "layer1": {**params["layer1"], "bias": params["layer1"]["bias"] + 1}}
    one, two = (restriction.Completed(model, params, frozenset(["layer0.weight"])) for _ in range(2))
    other_numbers = restriction.Completed(model, moved, frozenset(["layer0.weight"]))
    other_names = restriction.Completed(model, params, frozenset(["layer0.bias"]))
    assert one == two and hash(one) == hash(two) and one not in (other_numbers, other_names)
    np.testing.assert_array_equal(one(one.part(), X), model.apply(params, X))


@pytest.mark.parametrize(
    "words",
    [
        ("model=small", "model.layernorm=true"),
        ("model=small", "model.bias=false"),
        ("model=deep_linear",),
        ("model=quadratic",),
        ("truth=crossing",),
        ("truth=monomial",),
    ],
)
def test_the_configuration_knows_the_names_and_sizes_of_built_in_models(compose, words):
    config = compose(*words).model
    made = models.build(config).init(models.jax.random.key(0))
    assert config.arrays() == {name: leaf.size for name, leaf in custom.named_leaves(made).items()}
    assert sum(config.arrays().values()) == config.parameters()


def test_the_name_of_a_run_depends_on_the_set_of_patterns(compose):
    def run_id(value):
        return compose(f"posterior.parameters={value}").store.run_id

    assert run_id("[layer0.*,layer1.bias]") == run_id("[layer1.bias,layer0.*,layer0.*]") != run_id("[layer0.*]")
    assert run_id("null") == run_id("['*',layer0.*]") == compose().store.run_id
    posterior = {k: v for k, v in dataclasses.asdict(compose().posterior).items() if k not in ADDED}
    assert store.digest("run", [compose().sampler, posterior]) == compose().store.run_id.rpartition("_")[2]


ADDED = ("parameters", "data", "data_labels_path", "data_target", "data_sha256", "data_labels_sha256")
"""Settings that runs made before they existed lack."""

REFUSED = [
    (("posterior.parameters=[layer7.*]",), "layer7.* matches no parameter; this model has layer0.bias, layer0.weight, "),
    (("posterior.parameters=[layer0.wieght]",), "Did you mean layer0.weight?"),
    (("posterior.parameters=[]",), "posterior.parameters must not be empty"),
    (("posterior.parameters=layer0.bias",), "posterior.parameters must be a list such as [a,b]"),
    (
        ("model.in_dim=1", "model.out_dim=1", "posterior.parameters=[layer2.bias]", "sampler=mclmc"),
        "at least 2 parameters",
    ),
    (("posterior.data=gone.npz",), "gone.npz: the file cannot be read"),
    (("posterior.data=x.npy",), "x.npy holds one array, the inputs; name the labels' with posterior.data_labels_path=y.npy"),
    (("posterior.data=wide.csv",), "posterior.data_target must name the column of labels, one of a, b, c, d, y; got null"),
    (("posterior.data=wide.npz", "posterior.data_target=y"), "posterior.data_target names a column, and posterior.data="),
    (("posterior.data=wide.npz", "posterior.data_labels_path=x.npy"), "posterior.data_labels_path goes with a file .npy"),
    (("posterior.data=x.txt",), "x.txt must be a file .npz, .npy, .csv or .parquet; got '.txt'"),
    (("posterior.data_target=y",), "posterior.data_target says where the labels of posterior.data are, which is not given"),
    (("posterior.data_labels_path=x.npy",), "posterior.data_labels_path says where the labels of posterior.data are"),
    (("data=digits", "model.in_dim=64", "model.out_dim=10", "posterior.data=words.csv", "posterior.data_target=y"),
     "must have numbers for labels, as the target's data; got words: no, yes."),
    (("posterior.data=wide.npz",), "wide.npz has inputs of shape (4,) and needs model.in_dim=4; got model.in_dim=8"),
    (("data=digits", "model.in_dim=4", "model.out_dim=10", "posterior.data=wide.npz"), "must have class numbers for labels"),
    (("model=quadratic", "posterior.data=wide.npz"), "posterior.data has no use with model=quadratic"),
    (("posterior.data_sha256=abc",), "hash of posterior.data, which is not given"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "sentence"), REFUSED)
def test_what_cannot_be_restricted_is_refused_in_a_sentence(command, tmp_path, words, sentence):
    np.savez(tmp_path / "wide.npz", X=np.zeros((9, 4)), Y=np.zeros(9))
    np.save(tmp_path / "x.npy", np.zeros((9, 4)))
    (tmp_path / "x.txt").write_text("1")
    (tmp_path / "wide.csv").write_text("a,b,c,d,y\n1,2,3,4,5\n5,6,7,8,9\n")
    row = ",".join(["0"] * 64)
    header = ",".join(f"x{i}" for i in range(64))
    (tmp_path / "words.csv").write_text(f"{header},y\n{row},yes\n{row},no\n")
    model = () if any(word.startswith("model=") for word in words) else ("model=small",)
    assert_one_sentence(command("sample", *model, *words, "store.root=runs"), sentence)
    assert not (tmp_path / "runs").exists()


# --- the command line -------------------------------------------------------------------------------------------------

OWN = ("model=custom", "model.source=net.py:make", "data=file", "data.path=xy.npz", "data.noise_scale=1")
OWN += ("training=given", "training.path=w.npz", "sampler=laplace", "sampler.draws=50", "runtime.figures=false")
OWN += ("store.root=runs", "runtime.compilation_cache=null")


@pytest.fixture
def own(files, compose):  # noqa: F811
    """`own(*words)`: the job of a run of an own network with these overrides, which lie in the present directory."""
    write(files / "net.py", NETWORKS["pair"])
    y = np.load("xy.npz")["Y"]
    np.savez("other.npz", X=X[:40] + 0.1, Y=y[:40] + 0.2)
    return lambda *words: pipeline.job("run", compose.__wrapped__(*OWN, *words))


def test_runs_say_what_moved_and_are_pooled_by_it(own, caplog):
    for words in ([], ["posterior.parameters=[layer0.*]"], ["posterior.parameters=[layer0.bias,layer0.weight]"]):
        job = own(*words)
        pipeline.make(job)
    with caplog.at_level("INFO"):
        assert not pipeline.tell_result(job)
    assert "16 of 21 parameters move: layer0.bias, layer0.weight" in caplog.text
    assert not list(store.damages(job.paths.target))
    header, groups = grouped([record for record in scan("runs") if record.run_id], ["sampler"], COLUMNS)
    found = {group.values[header.index("parameters")]: group.statistics for group in groups}
    assert {name: (each.runs, each.llc_scatter) for name, each in found.items()} == {
        "all": (1, None),
        "layer0.bias, layer0.weight": (2, 0),
    }
    assert found["all"].llc_mean > found["layer0.bias, layer0.weight"].llc_mean


def test_views_name_a_source_by_the_first_digits_of_its_hash(own, tool):
    """To a filter, which is typed, the whole hash is the value."""
    job = own()
    pipeline.make(job)
    sha256 = job.config.model.sha256
    for argv in (["status", "runs"], ["results", "runs", "groupby=model.sha256"]):
        text = tool(*argv).text
        assert sha256[:12] in text and sha256[:13] not in text
    assert sha256 in tool("results", "runs", "groupby=model.sha256", "--csv").text
    assert job.paths.run_id in tool("status", "runs", f"model.sha256={sha256}").text


def test_the_loss_over_other_data(own, tmp_path, caplog):
    """n and β are the other file's; the run is named after its content; a job that is handed on refuses another content."""
    job = own("posterior.data=other.npz")
    pipeline.make(job)
    summary = lambda_hat.open_run(job.directory).summary
    assert summary.estimand.n == 40 and summary.estimand.beta == 1 / np.log(40)
    assert summary.estimand.other_data == store.sha256(tmp_path / "other.npz")
    with caplog.at_level("INFO"):
        assert not pipeline.tell_result(job)
    assert "of which w0 need be no minimum" in caplog.text
    assert store.open_config(job.directory, "run")["posterior"]["data_sha256"] == summary.estimand.other_data
    weights = {f"layer{i}": {k: jnp.asarray(WEIGHTS[f"layer{i}.{k}"]) for k in ("weight", "bias")} for i in (0, 1)}
    model = models.network(3, (4,), 1, activation="tanh", bias=True, layernorm=False, init="lecun")
    other = np.load("other.npz")
    assert summary.L0 == pytest.approx(
        float(np.mean((model.apply(weights, other["X"]) - other["Y"]) ** 2)) / 2, rel=1e-5
    )

    shutil.copy("other.npz", "same.npz")
    assert own("posterior.data=same.npz").directory == job.directory
    frozen = json.loads(json.dumps(dataclasses.asdict(job.config)))
    assert pipeline.job("run", config_from_plain(frozen)).directory == job.directory
    np.savez("other.npz", X=X[:41], Y=np.zeros(41))
    with pytest.raises(
        ConfigError, match=r"posterior\.data=.*other\.npz: the file has changed since this job was made"
    ):
        pipeline.job("run", config_from_plain(frozen))
    assert own("posterior.data=other.npz").directory != job.directory


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["posterior.parameters=[conv.*]"], "conv.* matches no parameter; this model has layer0.bias"),
        (["posterior.data=wide.npz"], r"wide.npz must have inputs of the target's shape \(3,\); got \(4,\)"),
        (["posterior.data=two.npz"], "two.npz: real-valued labels must have the outputs' shape"),
    ],
)
def test_an_own_network_is_tried_with_the_restriction_before_anything_is_written(own, tmp_path, words, sentence):
    np.savez("wide.npz", X=np.zeros((9, 4)), Y=np.zeros(9))
    np.savez("two.npz", X=np.zeros((9, 3)), Y=np.zeros((9, 2)))
    job = own(*words)
    with pytest.raises(ConfigError, match=sentence):
        pipeline.try_out(job)
    assert not (tmp_path / "runs").exists()
    pipeline.make(own()._replace(stage="target"))
    with pytest.raises(ConfigError, match=sentence):  # where the target is there already
        pipeline.try_out(job)


# --- other data in other files ----------------------------------------------------------------------------------------

TABLE = ("model=small", "model.in_dim=3", "model.out_dim=3", "model.widths=[2]", "model.depth=null", "data=file")
TABLE += ("training.steps=20", "sampler=laplace", "sampler.draws=20", "runtime.figures=false")
TABLE += ("store.root=runs", "runtime.compilation_cache=null")


@pytest.fixture
def tables(tmp_path, monkeypatch, compose):
    """`tables(*words)`: the job of a network on a table whose labels are words, in the present directory."""
    monkeypatch.chdir(tmp_path)
    x = pd.DataFrame(RNG.standard_normal((60, 3)), columns=["a", "b", "c"])
    kinds = np.array(["cat", "dog", "eel"])[np.digitize(x["a"], [-0.5, 0.5])]
    x.assign(kind=kinds).to_csv("all.csv", index=False)
    few = x.assign(kind=kinds)[kinds != "cat"]  # where dog is the first word, and the second of the target's
    few.to_csv("few.csv", index=False)
    few.rename(columns={"kind": "animal"}).to_csv("renamed.csv", index=False)
    few[["b", "a", "c", "kind"]].to_csv("turned.csv", index=False)
    few.replace({"kind": {"eel": "emu"}}).to_csv("emu.csv", index=False)
    numbers = few["kind"].map({"dog": 1, "eel": 2}).to_numpy()
    np.savez("few.npz", X=few[["a", "b", "c"]].to_numpy(), Y=numbers)
    np.save("x.npy", few[["a", "b", "c"]].to_numpy())
    np.save("y.npy", numbers)
    words = (*TABLE, "data.path=all.csv", "data.target=kind")
    return lambda *more: pipeline.job("run", compose.__wrapped__(*words, *more))


def test_the_loss_over_another_table_or_over_arrays_is_the_same(tables):
    """Words have the numbers of the target's classes, though the other table lacks the first of them."""
    found = {}
    for words in (
        ["posterior.data=few.npz"],
        ["posterior.data=few.csv"],
        ["posterior.data=renamed.csv", "posterior.data_target=animal"],
        ["posterior.data=x.npy", "posterior.data_labels_path=y.npy"],
    ):
        job = tables(*words)
        pipeline.try_out(job)
        pipeline.make(job)
        found[job.directory] = lambda_hat.open_run(job.directory).summary
    assert len(found) == 4 and len({summary.estimand.other_data for summary in found.values()}) == 4
    first, *others = found.values()
    assert (
        first.estimand.n == len(np.load("x.npy"))
        and first.L0 != lambda_hat.open_target(job.paths.target).meta.metrics.L0
    )
    for other in others:
        assert (other.L0, other.llc_mean) == (first.L0, first.llc_mean)


def test_a_job_handed_on_refuses_other_labels(tables):
    words = ["posterior.data=x.npy", "posterior.data_labels_path=y.npy"]
    job = tables(*words)
    frozen = json.loads(json.dumps(dataclasses.asdict(job.config)))
    np.save("y.npy", np.zeros(len(np.load("x.npy")), int))
    with pytest.raises(ConfigError, match=r"posterior\.data_labels_path=.*y\.npy: the file has changed since this job"):
        pipeline.job("run", config_from_plain(frozen))
    assert tables(*words).directory != job.directory


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("turned.csv", "must have the inputs of the target's table, in their order: a, b, c; got b, a, c."),
        ("emu.csv", "must have labels among the target's classes, cat, dog, eel; got emu."),
        ("renamed.csv", r"posterior.data_target must name the column of labels, one of a, b, c, animal; got kind"),
    ],
)
def test_a_table_that_is_not_like_the_target_s_is_refused_before_anything_is_written(tables, tmp_path, path, sentence):
    for is_built in (False, True):
        if is_built:
            pipeline.make(tables()._replace(stage="target"))
        with pytest.raises(ConfigError, match=sentence):
            pipeline.try_out(tables(f"posterior.data={path}"))
        assert (tmp_path / "runs").exists() == is_built


def test_an_estimate_over_a_table(tmp_path):
    w0, path = REGRESSION.problem.w0, tmp_path / "other.csv"
    table = pd.DataFrame(REGRESSION.x[:50], columns=list("abcde")).assign(y=REGRESSION.y[:50, 0])
    table.to_csv(path, index=False)
    np.savez(tmp_path / "other.npz", X=REGRESSION.x[:50], Y=REGRESSION.y[:50, 0])
    common = {"noise_scale": REGRESSION.sigma, "gamma": 3.0, "sampler": "laplace", "draws": 20}
    over = lambda **data: lambda_hat.estimate(
        lambda w, x: x @ w, w0, REGRESSION.x, REGRESSION.y[:, 0], **common, **data
    )
    one, other = over(data=str(path), data_target="y"), over(data=str(tmp_path / "other.npz"))
    assert one.llc == pytest.approx(other.llc, rel=1e-9) and one.summary.estimand.n == 50
    with pytest.raises(
        ConfigError, match=r"posterior.data_target must name the column of labels, one of a, b, c, d, e, y"
    ):
        over(data=str(path))
