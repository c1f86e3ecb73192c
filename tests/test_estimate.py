"""`lambda_hat.estimate`: exact answers, any pytree, the command line's number, the caller's settings, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import lambda_hat
from lambda_hat.analysis import estimation
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


def test_what_a_notebook_and_arviz_are_given():
    import arviz as az

    est = on_regression(noise_scale=1.0, **QUICK)
    assert float(az.summary(est.idata, var_names=["llc"])["mean"].iloc[0]) == pytest.approx(
        float(est.trace["posterior"]["llc"].mean()), abs=0.01
    )
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
