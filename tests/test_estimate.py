"""`lambda_hat.estimate`: exact answers, any pytree, the command line's number, the caller's settings, and refusals."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import lambda_hat
from lambda_hat.analysis import estimation
from lambda_hat.jobs import pipeline
from lambda_hat.system.errors import ConfigError
from lambda_hat.targets import artifact

QUICK = {"draws": 200, "warmup": 60, "mcse_target": None}
REGRESSION = problems.LinearRegression(500, 3)


def linear(w, x):
    return x @ w


def on_regression(**settings):
    w0 = REGRESSION.problem.w0
    return lambda_hat.estimate(linear, w0, REGRESSION.x, REGRESSION.y[:, 0], **settings)


@pytest.mark.parametrize("sampler", ["hmc", "mclmc", "laplace"])
def test_a_linear_regression_has_its_exact_value(sampler):
    short = {"draws": 200} if sampler == "laplace" else QUICK
    est = on_regression(noise_scale=REGRESSION.sigma, gamma=2.0, sampler=sampler, **short)
    exact = REGRESSION.finite(500 / np.log(500), 2.0)
    assert est.llc == pytest.approx(exact, abs=1e-3 if sampler == "laplace" else 5 * est.mcse)
    if sampler != "laplace":
        assert est.interval95[0] < exact < est.interval95[1] + 2 * est.mcse
        assert est.trace["posterior"]["llc"].shape == (4, 200)


def test_the_noise_scale_of_the_residuals_is_recorded():
    """σ² = the mean squared residual; λ̂ is that of the same number."""
    residual = REGRESSION.y[:, 0] - REGRESSION.x @ REGRESSION.problem.w0
    sigma = np.sqrt(np.mean(residual**2))
    est = on_regression(noise_scale="residual", sampler="laplace", draws=8)
    assert est.noise_scale == pytest.approx(sigma, rel=1e-9)
    assert est.llc == pytest.approx(on_regression(noise_scale=sigma, sampler="laplace", draws=8).llc, rel=1e-5)


def test_a_potential_of_a_pytree_with_odd_names():
    """A quadratic direction of curvature h gives ½ nβh/(nβh + γ), whatever its array is called."""
    params = {"file": jnp.zeros((2, 1, 1)), "a b/c": [jnp.zeros(()), {"µ.": np.zeros(2, np.float32)}]}
    curvatures = {"file": jnp.full((2, 1, 1), 3.0), "a b/c": [jnp.asarray(0.5), {"µ.": jnp.asarray([0.01, 20.0])}]}

    def potential(params):
        return sum(0.5 * jnp.sum(h * w**2) for h, w in zip(*map(jax.tree.leaves, (curvatures, params)), strict=True))

    est = lambda_hat.estimate(potential=potential, params=params, n=1000, gamma=5.0, **QUICK)
    nbeta, h = 1000 / np.log(1000), np.array([3.0, 3.0, 0.5, 0.01, 20.0])
    assert est.llc == pytest.approx(0.5 * np.sum(nbeta * h / (nbeta * h + 5)), abs=5 * est.mcse)
    assert est.summary.p == 5


def test_a_convolution_has_its_exact_value():
    """Outputs that are linear in a kernel: L_n is a quadratic, whose Hessian is the mean outer product of the patches."""
    x = np.random.default_rng(0).standard_normal((60, 4, 4, 1))
    kernel = np.random.default_rng(1).standard_normal((2, 2, 1, 2)).astype(np.float32)

    def convolution(params, x):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, params["conv"]["kernel"], (1, 1), "VALID", dimension_numbers=layout)

    patches = np.lib.stride_tricks.sliding_window_view(x[..., 0], (2, 2), (1, 2)).reshape(-1, 4)
    y = (patches @ kernel.reshape(4, 2).astype(float)).reshape(60, 3, 3, 2)
    h = np.repeat(np.linalg.eigvalsh(patches.T @ patches / 60 / 0.5**2), 2)  # of either output channel
    nbeta = 60 / np.log(60)
    est = lambda_hat.estimate(convolution, {"conv": {"kernel": kernel}}, x, y, noise_scale=0.5, gamma=50.0, **QUICK)
    assert est.summary.p == 8
    assert est.summary.L0 == pytest.approx(0, abs=1e-9)
    assert est.llc == pytest.approx(0.5 * np.sum(nbeta * h / (nbeta * h + 50)), abs=5 * est.mcse)


def test_labels_of_several_positions_add_up():
    """Three equal logits at each of two positions: 2 log 3."""
    x = np.arange(20).reshape(10, 2) % 3
    y = (x + 1) % 3
    est = lambda_hat.estimate(lambda w, x: w[x], np.zeros((3, 3)), x, y, sampler="laplace", draws=8)
    assert est.summary.L0 == pytest.approx(2 * np.log(3), rel=1e-6)


def test_a_likelihood_of_the_callers_own():
    """The Gaussian written out by hand gives what loss=nll gives."""
    sigma = REGRESSION.sigma
    ours = on_regression(noise_scale=sigma, sampler="laplace", draws=8)
    own = on_regression(log_likelihood=lambda f, y: -((f - y) ** 2) / (2 * sigma**2), sampler="laplace", draws=8)
    assert own.llc == pytest.approx(ours.llc, rel=1e-5)


def test_the_command_lines_number_on_the_same_network():
    config = problems.config(
        "model.widths=[3]", "model.depth=1", "model.in_dim=2", "data.n_data=80", "training.steps=50", "training.polish_steps=20",
        "sampler.draws=30", "sampler.warmup=30", "sampler.mcse_target=null",
    )  # fmt: skip
    target = artifact.build(config, problems.silent)
    curvature = artifact.curvature_at(target, config.posterior)
    made = estimation.estimate_llc(target, curvature, config, log=problems.silent, report=lambda **_: None)
    est = lambda_hat.estimate(
        target.model.apply, target.params, target.x, target.y, noise_scale=0.1, draws=30, warmup=30, mcse_target=None
    )
    assert est.llc == pytest.approx(made.summary.llc_mean, rel=1e-9)


def test_the_callers_jax_settings_stay():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        on_regression(noise_scale=1.0, sampler="laplace", draws=4)
        assert not jax.config.jax_enable_x64
        assert jax.config.jax_numpy_dtype_promotion == "strict"
        assert jax.config.jax_numpy_rank_promotion == "raise"
        assert jnp.zeros(2).dtype == jnp.float32


def test_within_another_hydra_application(tmp_path):
    """Whose composition is as it was afterwards."""
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        callers = GlobalHydra.instance().hydra
        assert on_regression(noise_scale=1.0, sampler="sgld", draws=8, warmup=8).llc is not None
        assert GlobalHydra.instance().hydra is callers


@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")  # ArviZ 0.23 with matplotlib 3.11
def test_what_a_notebook_and_arviz_are_given():
    import arviz as az
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    est = on_regression(noise_scale=1.0, **QUICK)
    assert float(az.summary(est.idata, var_names=["llc"])["mean"].iloc[0]) == pytest.approx(
        float(est.trace["posterior"]["llc"].mean()), abs=0.01
    )
    for draw in (az.plot_trace, az.plot_rank):
        drawn = draw(est.idata, var_names=["llc"])
        figure = drawn.viz["figure"].item() if hasattr(drawn, "viz") else plt.gcf()  # ArviZ 1 and later
        assert any(ax.lines or ax.patches for ax in figure.axes)
        plt.close("all")
    assert "λ̂" in est._repr_html_()
    assert len(est.plot().axes) == 2


X, Y = REGRESSION.x, REGRESSION.y[:, 0]
W = np.zeros(3)
REFUSED = [
    ({}, "noise_scale is missing"),
    ({"noise_scale": 0.1, "drawz": 5}, "drawz: there is no such setting.* Did you mean draws"),
    ({"noise_scale": -1.0}, "noise_scale must be a positive number"),
    ({"noise_scale": 0.1, "draws": 0}, "sampler.draws must be ≥ 1"),
    ({"noise_scale": 0.1, "draws": "many"}, "draws must be a whole number"),
    ({"noise_scale": 0.1, "sampler": "hcm"}, "expected one of .*Did you mean hmc"),
    ({"noise_scale": 0.1, "gamma": 1.0, "prior_radius": 1.0}, "give one of them"),
    ({"noise_scale": 0.1, "beta": 1.0, "nbeta": 1.0}, "both set β; give one"),
    ({"noise_scale": 0.1, "loss": "mse"}, "noise_scale has no use with loss=mse"),
    ({"noise_scale": 0.1, "x": X[:10]}, "equally long; got 10 inputs and 500"),
    ({"noise_scale": 0.1, "y": np.where(Y > 0, Y, np.nan)}, r"y must be finite; y\[\d+\] is nan"),
    ({"noise_scale": 0.1, "y": Y.astype(object)}, "y must be an array of floats or integers"),
    ({"noise_scale": 0.1, "y": np.stack([Y, Y], 1)}, r"outputs' shape \(500, 1\); got y of shape \(500, 2\)"),
    ({"y": Y.astype(int)}, "between 0 and 0, as the network has 1 outputs"),
    ({"y": np.zeros((500, 2), int)}, r"outputs must have their shape \(500, 2\) and one axis more"),
    ({"apply": lambda w, x: x @ w[:, None] @ np.ones((1, 2)), "y": np.arange(500)}, "between 0 and 1, as the network has 2"),
    ({"noise_scale": 0.1, "params": {"w": W, "steps": np.arange(3)}}, "steps is an array of int64"),
    ({"noise_scale": 0.1, "params": {"w": W, "name": "net"}}, "name is str 'net'"),
    ({"noise_scale": 0.1, "params": {}}, "params must hold at least one array"),
    ({"noise_scale": 0.1, "apply": lambda w, x: x @ w[:2]}, "raised TypeError"),
    ({"noise_scale": 0.1, "apply": lambda w, x: (x - x.mean(0)) @ w, "params": W + 1}, "batch norm in training mode"),
    ({"noise_scale": 0.1, "apply": lambda w, x: jnp.sum(x @ w)}, "one row for each example; got shape"),
    ({"noise_scale": 0.1, "apply": lambda w, x: jnp.log(x @ w)}, "finite at w0"),
    ({"noise_scale": 0.1, "apply": lambda w, x: None}, "must return an array of outputs; got NoneType"),
    ({"noise_scale": 0.1, "sampler": "sgld", "batch_size": 501}, "batch_size must be ≤ data.n_data=500"),
    ({"noise_scale": 0.1, "sampler": "sgld", "precond": "adam", "metric": "curvature"}, "set sampler.metric=identity"),
    ({"log_likelihood": lambda f, y: jnp.sum(f - y)}, "one number for each example"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_bad_input_is_refused_in_a_sentence(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        lambda_hat.estimate(**{"apply": linear, "params": W, "x": X, "y": Y} | changes)


def test_outputs_that_change_from_call_to_call_are_refused():
    generator = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="from one call to the next"):
        lambda_hat.estimate(lambda w, x: x @ w + generator.standard_normal(len(x)), W, X, Y, noise_scale=0.1)


def test_a_potential_needs_n_alone():
    with pytest.raises(ConfigError, match="needs n ≥ 2"):
        lambda_hat.estimate(potential=lambda w: jnp.sum(w**2), params=W)
    with pytest.raises(ConfigError, match="x, y cannot be given with potential"):
        lambda_hat.estimate(potential=lambda w: jnp.sum(w**2), params=W, x=X, y=Y, n=10)
    with pytest.raises(ConfigError, match="one finite number"):
        lambda_hat.estimate(potential=lambda w: w**2, params=W, n=10)


# --- kept in a store --------------------------------------------------------------------------------------------------

NETWORK = """
import jax.numpy as jnp

def make(bend: bool = False, wide: bool = False):
    def apply(params, x):
        outputs = jnp.tanh(x @ params["layer"]["w"]) if bend else x @ params["layer"]["w"]
        return jnp.stack([outputs, outputs], 1) if wide else outputs
    return lambda key: {"layer": {"w": jnp.zeros(3)}}, apply
"""
KEPT = {
    "noise_scale": REGRESSION.sigma,
    "gamma": 2.0,
    "store": "runs",
    "source": "net.py:make",
    "sampler": "laplace",
    "draws": 200,
}
QUICK_HMC = {"sampler": "hmc", **QUICK}
W0 = {"layer": {"w": REGRESSION.problem.w0}}


@pytest.fixture
def network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    return tmp_path


def in_layer(params, x):
    return x @ params["layer"]["w"]


def keep(**changes):
    return lambda_hat.estimate(**{"apply": in_layer, "params": W0, "x": X, "y": Y} | KEPT | changes)


def sampled(monkeypatch):
    """A list that grows by one for each time that draws are made."""
    calls, sample = [], estimation.sample.sample
    monkeypatch.setattr(estimation.sample, "sample", lambda *args: calls.append(1) or sample(*args))
    return calls


def test_with_a_store_the_second_call_finds_what_the_first_has_made(network, monkeypatch):
    calls = sampled(monkeypatch)
    first, again = keep(**QUICK_HMC), keep(**QUICK_HMC)
    assert len(calls) == 1
    assert again.summary == first.summary and again.noise_scale == REGRESSION.sigma
    np.testing.assert_array_equal(again.trace["posterior"]["llc"], first.trace["posterior"]["llc"])
    table = lambda_hat.load_results("runs")
    assert table["llc_mean"].tolist() == [first.llc]
    without = keep(store=None, source=None, **QUICK_HMC)
    assert len(calls) == 2
    assert first.llc == pytest.approx(without.llc, rel=1e-9)
    assert first.summary.estimand == without.summary.estimand
    keep(seed=1, **QUICK_HMC)
    assert len(calls) == 3 and len(list(network.glob("runs/targets/tgt_*"))) == 1
    keep(y=Y + 1e-3, **QUICK_HMC)
    assert len(calls) == 4 and len(list(network.glob("runs/targets/tgt_*"))) == 2


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_command_line_finds_what_an_estimate_has_kept(network, compose, dtype):
    """With the same arrays in files, restricted to the same parameters."""
    x, w = X.astype(dtype), W0["layer"]["w"].astype(dtype)
    est = keep(x=x, params={"layer": {"w": w}}, noise_scale="residual", parameters=["layer.*"])
    np.savez("xy.npz", X=x, Y=Y)
    np.savez("w.npz", **{"layer.w": w})
    config = compose.__wrapped__(
        "model=custom", "model.source=net.py:make", "data=file", "data.path=xy.npz", "data.noise_scale=residual",
        "training=given", "training.path=w.npz", "sampler=laplace", "sampler.draws=200", "posterior.gamma=2",
        "posterior.parameters=[layer.*]",
    )  # fmt: skip
    job = pipeline.job("run", config)
    assert pipeline.is_done(job)
    assert (job.paths.target_id, job.paths.run_id) == (est.summary.target_id, est.summary.run_id)
    residual = Y - X @ W0["layer"]["w"]
    assert est.noise_scale == pytest.approx(np.sqrt(np.mean(residual**2)), rel=1e-4)


SURROUNDINGS = """
import os, numpy as np, lambda_hat, jax, jax.numpy as jnp
import lambda_hat.jobs.estimate
def surroundings():
    flags = {name: getattr(jax.config, name) for name in dir(jax.config) if name.startswith("jax_")}
    return flags, dict(os.environ), str(jnp.zeros(1).dtype)
x = np.linspace(-1, 1, 90).reshape(30, 3)
before = surroundings()
est = lambda_hat.estimate(
    lambda w, x: x @ w["layer"]["w"], {"layer": {"w": np.ones(3)}}, x, x @ np.ones(3), noise_scale=1, gamma=1,
    sampler="laplace", draws=50, store="runs", source="net.py:make",
)
print(est.llc, surroundings() == before, os.environ["HOME"], jnp.zeros(1).dtype)
"""


def test_the_surroundings_of_an_estimate_that_is_kept_stay(network):
    """All settings of JAX, devices and caches among them, and the environment, of a process that has settled nothing itself."""
    environment = os.environ | {"HOME": "/dev/null/nobody", "JAX_PLATFORMS": "cpu"}
    process = [sys.executable, "-c", SURROUNDINGS]
    done = subprocess.run(process, cwd=network, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    llc, *rest = done.stdout.split()
    assert rest == ["True", "/dev/null/nobody", "float32"]
    x = np.linspace(-1, 1, 90).reshape(30, 3)
    here = keep(
        x=x, y=x @ np.ones(3), params={"layer": {"w": np.ones(3)}}, noise_scale=1, gamma=1, draws=50, store="here"
    )
    assert float(llc) == pytest.approx(here.llc, rel=1e-9)
    assert GlobalHydra.instance().hydra is None


def test_options_of_a_source_are_in_the_name(network):
    bent = keep(apply=lambda w, x: jnp.tanh(in_layer(w, x)), options={"bend": True})
    straight = keep()
    assert bent.summary.target_id != straight.summary.target_id
    assert bent.llc != pytest.approx(straight.llc, rel=1e-3)


REFUSED_BY_A_STORE = [
    ({"source": None}, "store='runs' names what it keeps after the source .* got source=None: give source='net.py:make'"),
    ({"store": None}, "source has a use only with store, .* got 'net.py:make' without: give store='runs' as well"),
    ({"store": None, "source": None, "options": {}}, "options has a use only with store"),
    ({"store": 5}, "store must be the path of a directory, such as 'runs'; got 5"),
    ({"log_likelihood": lambda f, y: f - y, "noise_scale": None}, "got log_likelihood, a function that .* leave store out"),
    ({"source": "net.py"}, "must be a file or a module and a callable in it"),
    ({"source": "other.py:make"}, "other.py: the file cannot be read"),
    ({"source": "net.py:build"}, "build must be a callable; there is no such name"),
    ({"options": {"depth": 2}}, "make has no option depth; it takes bend, wide"),
    ({"options": {"bend": object()}}, "bend"),
    ({"params": {"layer": {"v": W}}, "apply": lambda p, x: x @ p["layer"]["v"]}, "it lacks layer.w; unknown are layer.v"),
    ({"params": {"layer": {"w": np.zeros(2)}}, "apply": lambda p, x: x[:, :2] @ p["layer"]["w"]}, r"must have shape \(3,\), as"),
    ({"options": {"wide": True}}, r"it has outputs of shape \(8, 2\) for 8 examples, and apply has \(8, 1\)"),
    ({"options": {"bend": True}}, "source=net.py:make must make the network that apply .* has other outputs than apply at w0"),
    ({"options": {"bend": True}, "params": {"layer": {"w": W}}}, "has other outputs than apply beside w0"),
    ({"parameters": ["layer.v"]}, "match(es)? no parameter"),
    ({"draws": 0}, "sampler.draws must be ≥ 1"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), REFUSED_BY_A_STORE)
def test_what_a_store_cannot_keep_is_refused_in_a_sentence_and_nothing_written(network, changes, sentence):
    with pytest.raises(ConfigError, match=sentence) as refused:
        keep(**changes)
    assert "\n" not in str(refused.value)
    assert {path.name for path in network.iterdir()} == {"net.py"}


def test_a_potential_has_no_source(network):
    with pytest.raises(ConfigError, match="got potential, a function"):
        lambda_hat.estimate(potential=lambda w: jnp.sum(w**2), params=W, n=10, store="runs", source="net.py:make")
