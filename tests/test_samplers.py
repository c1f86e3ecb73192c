"""Every sampler on posteriors whose λ̂ is known; their updates, their accounts and their random streams."""

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from conftest import ROOT, soak_but
from problems import config

from lambda_hat.analysis import estimates
from lambda_hat.samplers import base, hmc, loop, mclmc, sample, sgld
from lambda_hat.samplers import density as densities
from lambda_hat.samplers.base import Tuned
from lambda_hat.store.journal import Journal
from lambda_hat.system import devices
from lambda_hat.targets import curvature, losses, metrics, models, truths

# --- λ̂ against exact values -------------------------------------------------------------------------------------------

REGRESSION = problems.LinearRegression(300, 6)


def quadratic(*options):
    made = config(
        "model=quadratic", "model.dim=10", "data.n_data=1000", "posterior.gamma=1", "sampler.dtype=float64", *options
    )
    exact = truths.finite_quadratic(models.build(made.model).curvatures, 1000 / np.log(1000), 1.0)
    return problems.analytic(made), made, exact


def regression(*options):
    made = config("data.n_data=300", "posterior.gamma=1", *options)
    return REGRESSION.problem, made, REGRESSION.finite(300 / np.log(300), 1.0)


def crossing(powers, exact):
    """Exact values by quadrature, at n = 1e4 and γ = 1."""

    def build(*options):
        made = config(
            "model=normal_crossing",
            f"model.powers={powers}",
            "data.n_data=10000",
            "posterior.gamma=1",
            "sampler.dtype=float64",
            *options,
        )
        return problems.analytic(made), made, exact

    return build


HMC = ("sampler=hmc", "sampler.draws=400", "sampler.warmup=200")
MCLMC = ("sampler=mclmc", "sampler.draws=500", "sampler.warmup=200")
SGLD = ("sampler=sgld", "sampler.draws=500", "sampler.warmup=100")
NUTS = ("sampler=nuts", "sampler.draws=300", "sampler.warmup=100")
MALA = ("sampler=mala", "sampler.draws=800", "sampler.warmup=200")
AMCLMC = ("sampler=amclmc", "sampler.draws=400", "sampler.warmup=100")
WHITE, PLAIN = "sampler.metric=curvature", "sampler.metric=identity"
FLAT, CROSS = crossing("[1,0]", 0.500), crossing("[1,1]", 0.391)

GRID = {
    "hmc quadratic curvature": (quadratic, (*HMC, WHITE), 0.0),
    "hmc quadratic identity": (quadratic, (*HMC, PLAIN), 0.0),
    "hmc regression float32": (regression, HMC, 0.0),
    "hmc flat direction": (FLAT, HMC, 0.0),
    "hmc crossing": (CROSS, HMC, 0.0),
    "mclmc quadratic curvature": (quadratic, (*MCLMC, WHITE), 0.02),
    "mclmc quadratic identity": (quadratic, (*MCLMC, PLAIN), 0.02),
    "mclmc regression float32": (regression, MCLMC, 0.02),
    "mclmc crossing": (CROSS, MCLMC, 0.02),
    "nuts regression float32": (regression, NUTS, 0.0),
    "nuts quadratic identity": (quadratic, (*NUTS, PLAIN), 0.0),
    "nuts crossing": (CROSS, NUTS, 0.0),
    "mala regression float32": (regression, MALA, 0.0),
    "mala quadratic identity": (quadratic, (*MALA, PLAIN), 0.0),
    "amclmc regression float32": (regression, AMCLMC, 0.0),
    "amclmc quadratic identity": (quadratic, (*AMCLMC, PLAIN), 0.0),
    "amclmc crossing": (CROSS, AMCLMC, 0.0),
    "sgld quadratic curvature": (quadratic, (*SGLD, WHITE), 0.04),
    "sgld quadratic identity": (quadratic, (*SGLD, PLAIN), 0.04),
    "sgld minibatch": (regression, (*SGLD, "sampler.control_variate=false"), 0.04),
    "sgld control variate": (regression, SGLD, 0.04),
    "sgld flat direction": (FLAT, SGLD, 0.04),
    "sgld crossing": (CROSS, (*SGLD, "sampler.draws=700"), 0.04),
    "sgld rmsprop": (quadratic, (*SGLD, "sampler.precond=rmsprop"), 0.08),
    "sgld adam": (quadratic, (*SGLD, "sampler.precond=adam"), 0.15),
}
"""What is sampled, how, and the relative bias that is allowed beside four Monte Carlo standard errors."""

QUICK = (
    "hmc regression float32",
    "hmc crossing",
    "mclmc regression float32",
    "nuts regression float32",
    "mala regression float32",
    "amclmc regression float32",
    "sgld quadratic curvature",
    "sgld minibatch",
)


@pytest.mark.parametrize("name", soak_but(QUICK, GRID))
def test_llc_is_the_exact_one(name):
    problem, options, bias = GRID[name]
    problem, made, exact = problem(*options)
    result = problem.sample(made)
    found = estimates.summarise(result.draws.records.excess)
    assert found.mcse < 0.12 * exact, "the test would pass for anything"
    assert found.mean == pytest.approx(exact, abs=4 * found.mcse + bias * exact)
    if problem is REGRESSION.problem:
        stein = estimates.summarise(result.draws.records.stein)
        assert stein.mean == pytest.approx(6, abs=4 * stein.mcse + bias * 6)


# --- the contract -----------------------------------------------------------------------------------------------------

COMPLETE = {
    base.Kernel: {"gradients_per_step", "init", "step", "view"},
    base.Sampler: {"bias"},
    base.MarkovSampler: {"bias", "kernel", "settle", "tune"},
}


@pytest.mark.parametrize(
    ("contract", "lacking"), [(c, name) for c, names in COMPLETE.items() for name in sorted(names)]
)
def test_a_sampler_that_forgets_something_cannot_be_made(contract, lacking):
    """What it costs, how biased it is, how it moves and is tuned: each is required, whatever else is there."""
    members = {name: lambda self, *_: None for name in COMPLETE[contract]}
    arguments = (REGRESSION.problem.loss,) if contract is base.Kernel else (None, REGRESSION.problem.loss, 300, 1.0)
    type("Whole", (contract,), members)(*arguments)
    members.pop(lacking)
    with pytest.raises(TypeError, match=lacking):
        type("Partial", (contract,), members)(*arguments)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "sampler").glob("*.yaml")))
def test_every_sampler_is_of_the_contract(name):
    """And says how biased it is, in a way that analysis knows."""
    made = sample.make(config(f"sampler={name}").sampler, REGRESSION.problem.loss, 300, 50.0)
    assert isinstance(made, base.Sampler)
    assert type(made).__module__ == f"lambda_hat.samplers.{name}"
    found = made.bias({"predicted_bias": 0.02, "predicted_bias_is_a_bound": False})
    assert found.kind in get_args(get_type_hints(base.Bias)["kind"])


def test_kernels_that_are_equal_share_a_program():
    """Programs are compiled for what a kernel's fields say: not for a seed or a number of draws."""
    problem, first, _ = regression("sampler=sgld", "sampler.seed=1", "sampler.draws=10")
    _, second, _ = regression("sampler=sgld", "sampler.seed=2", "sampler.draws=20")
    one, other = (sgld.make_kernel(made.sampler, problem.loss, 300, 60) for made in (first, second))
    assert one == other and hash(one) == hash(other)
    assert one != sgld.make_kernel(first.sampler, problem.loss, 300, 30)
    assert hmc.Leapfrog(problem.loss) == hmc.Leapfrog(problem.loss) != mclmc.IsokineticLangevin(problem.loss)


# --- SGLD's update ----------------------------------------------------------------------------------------------------


def density_of(problem, made, metric):
    nbeta = problem.n * sample.inverse_temperature(made.posterior, problem.n)
    rows = problem.rows(made.sampler.dtype)
    return densities.build(
        problem.loss, rows, problem.w0, nbeta, made.posterior.gamma, problem.curvature(), metric, made.sampler.dtype
    )


@pytest.mark.parametrize(
    ("precond", "metric"), [("none", "identity"), ("none", "curvature"), ("rmsprop", "identity"), ("adam", "identity")]
)
def test_sgld_update(precond, metric):
    """Three full-batch steps against the formula of the module, in NumPy, with the same noise."""
    euler = "sampler.integrator=euler"
    problem, made, _ = regression("sampler=sgld", f"sampler.precond={precond}", euler, "sampler.dtype=float64")
    density = density_of(problem, made, metric)
    nbeta, gamma, eps, a, b1, b2 = 300 / np.log(300), 1.0, 0.003, 0.2, 0.9, 0.99
    kernel = sgld.make_kernel(made.sampler, problem.loss, 300, 300)
    tuning = sgld.Tuning(jnp.asarray(eps), jnp.asarray(0.5), jnp.asarray(a), jnp.zeros(6))
    state = kernel.init(density, jnp.asarray(np.linspace(-0.3, 0.4, 6)), jax.random.key(0))
    m_metric = np.asarray(jax.vmap(density.metric.apply)(jnp.eye(6)))
    u, v, m = np.linspace(-0.3, 0.4, 6), np.ones(6), np.zeros(6)
    step = jax.jit(kernel.step)
    for t in range(1, 4):
        key = jax.random.key(t)
        state, _ = step(density, tuning, state, key, None)
        noise = np.asarray(jax.random.normal(jax.random.split(key)[1], (6,)))
        shift = m_metric @ u
        g = REGRESSION.hessian @ shift  # ∇L_n(w0) = 0
        v, m = b2 * v + (1 - b2) * g**2, b1 * m + (1 - b1) * g
        eps_t, drift = np.full(6, eps), g
        if precond != "none":
            eps_t = eps / (np.sqrt(v / (1 - b2**t)) + a)
        if precond == "adam":
            drift = m / (1 - b1**t)
        u = u - eps_t / 2 * (m_metric @ (gamma * shift + nbeta * drift)) + np.sqrt(eps_t) * noise
        np.testing.assert_allclose(state.position, u, rtol=1e-9)


def test_the_default_step_takes_the_mean_of_two_noises():
    """Against the formula, in NumPy, with the same noise and a size of it below 1."""
    problem, made, _ = regression("sampler=sgld", "sampler.dtype=float64")
    density, nbeta, eps, size = density_of(problem, made, "identity"), 300 / np.log(300), 0.003, 0.9
    kernel = sgld.make_kernel(made.sampler, problem.loss, 300, 300)
    tuning = sgld.Tuning(*map(jnp.asarray, (eps, size, 0.0)), jnp.zeros(6))
    u = np.linspace(-0.3, 0.4, 6)
    state = kernel.init(density, jnp.asarray(u), jax.random.key(0))
    before = np.asarray(state.noise)
    assert before.std() > 0.1
    for t in range(1, 4):
        state, _ = jax.jit(kernel.step)(density, tuning, state, jax.random.key(t), None)
        noise = np.asarray(jax.random.normal(jax.random.split(jax.random.key(t))[1], (6,)))
        u = u - eps / 2 * (u + nbeta * REGRESSION.hessian @ u) + np.sqrt(eps) * size * (before + noise) / 2
        np.testing.assert_allclose(state.position, u, rtol=1e-9)
        before = noise


@pytest.mark.parametrize(("integrator", "heating"), [("euler", 0.25 / (1 - 0.25)), ("leimkuhler_matthews", 0.0)])
def test_the_default_step_leaves_a_quadratic_no_bias(integrator, heating):
    """Full batch, whitened, ε = 1: Euler's variances are 1/(1 − ε/4), the default's 1."""
    problem, made, exact = regression(
        *("sampler=sgld", "sampler.step_size=1", "sampler.batch_size=300", "sampler.draws=4000", "sampler.thin=3"),
        *(f"sampler.integrator={integrator}", "sampler.mcse_target=null", WHITE),
    )
    found = estimates.summarise(problem.sample(made).draws.records.excess)
    assert found.mean == pytest.approx(exact * (1 + heating), abs=4 * found.mcse)
    assert found.mcse < 0.01 * exact


@pytest.mark.parametrize("batch", [10, 30])
def test_smaller_noise_makes_up_for_the_minibatch(batch):
    """A regression with ten outlying pairs, no control variate: without it λ̂ would be too large by more than 10 %."""
    problem, made, exact = regression(
        *("sampler=sgld", "sampler.step_size=0.1", f"sampler.batch_size={batch}", "sampler.draws=4000"),
        *("sampler.thin=5", "sampler.control_variate=false", "sampler.mcse_target=null", WHITE, "sampler.chains=8"),
    )
    result = problem.sample(made)
    found = estimates.summarise(result.draws.records.excess)
    heating = 1 - result.tuned["noise_size"] ** 2
    assert heating > 0.04
    assert found.mean == pytest.approx(exact, abs=4 * found.mcse + 0.3 * heating * exact)


@pytest.mark.parametrize("control", [True, False])
def test_stochastic_gradient_is_unbiased(control):
    """Over 4000 minibatches, within 4 standard errors a coordinate; on a quadratic the control variate cuts the noise."""
    problem, made, _ = regression("sampler=sgld", f"sampler.control_variate={control}", "sampler.dtype=float64")
    density = density_of(problem, made, "identity")
    shift = jnp.full(6, 0.05)
    grad0 = losses.value_and_grad(problem.loss, density.rows, density.w0)[1]
    tuning = sgld.Tuning(*map(jnp.asarray, (0.1, 1.0, 0.0)), grad0)
    one = lambda key: sgld._gradient(made.sampler, problem.loss, density, tuning, shift, key, 300, 10)
    each = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4000)))
    errors = each.std(0) / np.sqrt(4000)
    np.testing.assert_array_less(np.abs(each.mean(0) - REGRESSION.hessian @ shift), 4 * errors)
    # the noise of −x(y − x·w0)/σ² at w0 is that of xx'·shift/σ² times σ/|x·shift|
    residual = REGRESSION.x * (REGRESSION.y - REGRESSION.x @ problem.w0[:, None]) / REGRESSION.sigma**2
    plain = (residual.var(0) / 10).sum()
    assert (each.var(0).sum() < 0.2 * plain) == control


# --- accounts ---------------------------------------------------------------------------------------------------------


class Counted:
    """The regression's loss, with every pair whose loss is evaluated counted while the program runs."""

    def __init__(self):
        self.pairs, self._lock = 0, threading.Lock()
        plain = REGRESSION.problem.loss

        def outputs(w, x):
            jax.debug.callback(lambda _: self._add(len(x)), w[0] + x[0, 0])
            return plain.outputs(w, x)

        self.problem = REGRESSION.problem._replace(loss=plain._replace(outputs=outputs))

    def _add(self, pairs):
        with self._lock:
            self.pairs += pairs

    def gradients(self):
        jax.effects_barrier()
        return self.pairs / REGRESSION.n


SMALL_BATCH = ("sampler=sgld", "sampler.thin=4", "sampler.step_size=0.05", "sampler.batch_size=60")


@pytest.mark.parametrize(
    "options",
    [
        ("sampler=hmc", "sampler.thin=2", "sampler.step_size=0.3"),
        ("sampler=mclmc", "sampler.thin=3", "sampler.step_size=0.2", "sampler.decoherence_length=2"),
        (*SMALL_BATCH, "sampler.control_variate=true"),
        SMALL_BATCH,
        ("sampler=sgld", "sampler.thin=4", "sampler.step_size=0.05", "sampler.batch_size=300"),
    ],
    ids=["hmc", "mclmc", "sgld control variate", "sgld", "sgld full batch"],
)
def test_gradients_are_counted(options):
    """Reported full-data gradients of the recorded draws are those that the program evaluated.

    One chain, as callbacks of several devices are not all called."""
    counted = Counted()
    _, made, _ = regression(*options, "sampler.chains=1", "sampler.draws=20", "sampler.warmup=0")
    problem = counted.problem
    density = density_of(problem, made, "curvature")
    method = sample.make(made.sampler, problem.loss, 300, float(density.nbeta))
    chains = loop.Loop(method.kernel, density, made.sampler, made.sampler.thin, Journal())
    states = chains.states(loop.starts(density, density.metric, 1, 0))
    states, tuning, _, _ = method.tune(chains, states, 0, 0, problems.silent)
    before = counted.gradients()
    draws, _ = chains.run(tuning, states)
    assert float(np.sum(draws.steps.gradients)) == pytest.approx(counted.gradients() - before, rel=1e-12)


def test_formulas_of_the_accounts():
    """MCLMC: 2 a step. SGLD: batch/n, twice that with the control variate, and 1 a record. HMC: the leapfrog steps.
    Besides a third for the losses of the pairs at each draw, and once at w0."""
    common = ("sampler.chains=2", "sampler.draws=10", "sampler.warmup=0")
    cases = {
        ("sampler=mclmc", "sampler.thin=3", "sampler.step_size=0.2"): 6,
        ("sampler=sgld", "sampler.thin=5", "sampler.step_size=0.05", "sampler.batch_size=30"): 5 * 0.1 + 1,
        (*SMALL_BATCH, "sampler.control_variate=true"): 4 * 2 * 0.2 + 1,
        ("sampler=hmc", "sampler.step_size=10", "sampler.trajectory_length=1"): 1,
    }
    of_losses = (20 + 1) / 3 / 20
    for options, expected in cases.items():
        problem, made, _ = regression(*common, *options)
        np.testing.assert_allclose(problem.sample(made).draws.steps.gradients, expected + of_losses)


# --- random streams ---------------------------------------------------------------------------------------------------

RUNS = {
    "hmc": ("sampler=hmc",),
    "mclmc": ("sampler=mclmc", "sampler.thin=2"),
    "sgld": ("sampler=sgld", "sampler.thin=2", "sampler.batch_size=30"),
}


@pytest.mark.parametrize("name", soak_but(["hmc"], RUNS))
def test_chunks_do_not_change_draws(name, monkeypatch):
    """Five chunks or two, of lengths that do not divide the draws evenly."""
    problem, made, _ = regression(*RUNS[name], "sampler.chains=2", "sampler.draws=101", "sampler.warmup=40")
    runs = []
    for chunks in (5, 2):
        monkeypatch.setattr(loop, "CHUNKS", chunks)
        runs.append(problem.sample(made).draws.records)
    jax.tree.map(np.testing.assert_array_equal, *runs)


def test_adding_a_chain_leaves_the_others():
    """Starts are equal to the last bit; draws at a fixed step up to the rounding of a differently shaped program."""
    problem, made, _ = regression("sampler=hmc", "sampler.step_size=0.5", "sampler.draws=5", "sampler.warmup=0")
    made = replace(made, sampler=replace(made.sampler, dtype="float64"))
    density = density_of(problem, made, "curvature")
    two, three = (np.asarray(loop.starts(density, density.metric, chains, 7)) for chains in (2, 3))
    np.testing.assert_array_equal(two, three[:2])
    assert len(np.unique(three[:, 0])) == 3
    draws = [problem.sample(replace(made, sampler=replace(made.sampler, chains=c))).draws.records for c in (2, 3)]
    np.testing.assert_allclose(draws[0].excess, draws[1].excess[:2], rtol=1e-8)
    assert not np.any(np.isclose(draws[1].excess[0], draws[1].excess[2]))


def test_starts_are_shrunk_laplace_draws():
    """0.3 (nβH + γ)^{-1/2} z around w0 in either metric."""
    problem, made, _ = regression("sampler=hmc", "sampler.dtype=float64")
    white, plain = (density_of(problem, made, metric) for metric in ("curvature", "identity"))
    u, shift = (np.asarray(loop.starts(density, white.metric, 2000, 0)) for density in (white, plain))
    np.testing.assert_allclose(jax.vmap(white.metric.apply)(u), shift, rtol=1e-9)
    np.testing.assert_allclose(u.var(0), 0.09, rtol=4 * np.sqrt(2 / 2000))


# --- tuning -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_a_users_step_size_is_kept(name):
    problem, made, _ = regression(*RUNS[name], "sampler.step_size=0.0123", "sampler.draws=10", "sampler.warmup=30")
    assert problem.sample(made).tuned["step_size"] == 0.0123


def test_mclmc_survives_an_absurd_target():
    """An energy variance a thousand times too large: the draws are finite, whatever their bias."""
    problem, made, _ = regression("sampler=mclmc", "sampler.energy_variance=1", "sampler.draws=50", "sampler.warmup=50")
    result = problem.sample(made)
    assert np.all(np.isfinite(result.draws.records.excess))
    assert np.isfinite(result.tuned["step_size"])


def test_mclmc_survives_a_wild_tuner(monkeypatch):
    """A tuner that returns a step a thousand times too long, and states to match, is shortened until it is sound."""

    def wild(config, chains, states, tuning, steps):
        broken = jax.tree.map(lambda leaf: leaf * 1e3, states)
        return mclmc.Tuning(jnp.asarray(30.0), jnp.asarray(2.0)), broken, 0.0

    monkeypatch.setattr(mclmc, "_tune", wild)
    problem, made, _exact = regression("sampler=mclmc", "sampler.draws=200", "sampler.warmup=50")
    result = problem.sample(made)
    assert result.tuned["retries"] > 0
    assert np.all(np.isfinite(result.draws.records.excess))
    assert result.tuned["step_size"] < 30


def test_hmc_reaches_its_target_acceptance():
    problem, made, _ = quadratic(*HMC, WHITE, "sampler.warmup=500", "sampler.target_acceptance=0.7")
    accepted = problem.sample(made).draws.steps.acceptance
    # each chain's mean over 400 draws scatters by about 0.02, the adapted step by as much
    assert np.mean(accepted) == pytest.approx(0.7, abs=0.1)


def test_hmc_reaches_the_narrow_arms_of_a_crossing():
    """64 chains at the tuned step against quadrature: at too long a step they stay out of the arms, and λ̂ is low."""
    problem, made, exact = crossing("[2,1,1]", None)("sampler=hmc", "sampler.draws=500", "sampler.warmup=100")
    exact = models.build(made.model).finite(10_000 / np.log(10_000), 1.0)
    made = replace(made, sampler=replace(made.sampler, chains=64))
    result = problem.sample(made)
    assert np.mean(result.draws.steps.diverging) < 0.005
    distance2 = estimates.summarise(result.draws.records.distance2)
    assert distance2.rhat < 1.01
    llc = estimates.summarise(result.draws.records.excess)
    assert llc.mcse < 0.02 * exact
    assert llc.mean == pytest.approx(exact, abs=4 * llc.mcse)


def test_hmc_jitter_is_common_to_chains():
    settings = ("sampler.step_size=0.1", "sampler.trajectory_length=1.5", "sampler.draws=50", "sampler.warmup=0")
    problem, made, _ = regression("sampler=hmc", *settings)
    gradients = problem.sample(made).draws.steps.gradients
    assert np.all(gradients == gradients[0])
    assert gradients.min() >= 7  # 0.5 · 1.5 / 0.1, and 1.5 · 1.5 / 0.1 at most
    assert gradients.max() <= 23
    assert len(np.unique(gradients)) > 5


def test_baseline_gain_is_the_newton_decrease():
    """w0 moved off the minimum by δ: ½ gᵀ(nβH + γ)^{-1} g with g = nβHδ."""
    delta = np.linspace(0.01, 0.03, 6)
    problem, made, _ = regression(*HMC, "sampler.dtype=float64")
    made = replace(made, sampler=replace(made.sampler, draws=5, warmup=0))
    moved = problem._replace(w0=problem.w0 + delta)
    stiffness = 300 / np.log(300) * REGRESSION.hessian
    g = stiffness @ delta
    expected = 0.5 * g @ np.linalg.solve(stiffness + np.eye(6), g)
    assert moved.sample(made).baseline_gain == pytest.approx(expected, rel=1e-8)


def test_prior_radius_sets_the_localization():
    posterior = replace(config().posterior, prior_radius=0.5)
    assert sample.localization(posterior, 100) == 400
    assert sample.localization(replace(posterior, prior_radius=None, gamma=7.0), 100) == 7
    assert sample.inverse_temperature(posterior, 1000) == pytest.approx(1 / np.log(1000))
    assert sample.inverse_temperature(replace(posterior, beta=0.3), 1000) == 0.3


def test_default_batch_is_the_cheapest_where_nbeta_pairs_are_as_noisy_as_a_step_is_wrong():
    """Cost (B + 200)(1 + nβ/B) is least at B = √(200 nβ)."""
    sampler = config("sampler=sgld").sampler
    assert sgld.batch_size(sampler, 2000, 263.1) == 230
    assert sgld.batch_size(sampler, 100, 263.1) == 100
    assert sgld.batch_size(sampler, 20000, 5e6) == 10000  # the noise of the whole data could not be measured
    assert sgld.batch_size(replace(sampler, batch_size=7), 2000, 263.1) == 7


def test_hmc_default_trajectory():
    """1.1 in whitened coordinates, 0.75/√γ in plain ones."""
    for metric, expected in ((WHITE, 1.1), (PLAIN, 0.75 / 2)):
        problem, made, _ = regression("sampler=hmc", metric, "sampler.warmup=0")
        made = replace(made, posterior=replace(made.posterior, gamma=4.0))
        density = density_of(problem, made, metric.split("=")[1])
        chains = loop.Loop(hmc.Leapfrog(problem.loss), density, made.sampler, 1, Journal())
        tuning = hmc.HMC(made.sampler, problem.loss, 300, 1.0).tune(chains, None, 0, 0, problems.silent).tuning
        assert float(tuning.trajectory_length) == pytest.approx(expected)


# --- coordinates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_coordinates_are_whitened_along_the_chains(name):
    """w1² (1 + 100 w2²): at w0 the curvature of w1 is 2, at typical draws of w2 it is far larger, and the metric knows."""
    problem, made, _ = regression(*RUNS[name], "sampler.draws=10", "sampler.warmup=80", "sampler.dtype=float64", WHITE)
    potential = lambda w: w[0] ** 2 * (1 + 100 * w[1] ** 2)
    problem = problem._replace(
        loss=problem.loss._replace(potential=potential, outputs=None),
        w0=np.zeros(2),
        rows=lambda dtype: losses.to_rows(np.zeros((1, 0)), np.zeros((1, 0)), 1, dtype),
    )
    nbeta = 300 / np.log(300)
    found = problem.sample(made)
    precision = np.asarray(found.density.metric.apply(jnp.asarray([1.0, 0.0])))[0] ** -2
    assert precision > 3 * (2 * nbeta + 1)
    unsettled = problem.sample(replace(made, sampler=replace(made.sampler, warmup=sample.SETTLED_FROM - 1)))
    assert np.asarray(unsettled.density.metric.apply(jnp.asarray([1.0, 0.0])))[0] ** -2 == pytest.approx(2 * nbeta + 1)


@pytest.mark.parametrize("name", RUNS)
def test_where_the_posterior_is_gaussian_the_chains_meet_the_curvature_at_w0(name):
    problem, made, _ = regression(*RUNS[name], "sampler.draws=10", "sampler.warmup=80", "sampler.dtype=float64", WHITE)
    expected = np.linalg.inv(300 / np.log(300) * REGRESSION.hessian + np.eye(6))
    applied = np.asarray(jax.vmap(problem.sample(made).density.metric.apply)(jnp.eye(6)))
    np.testing.assert_allclose(applied @ applied, expected, rtol=1e-6)


def test_laplace_draws_are_shrunk_to_where_the_posterior_is():
    """Not at all on a Gaussian; where L_n rises steeper, to where uᵀ∇U = p, and the curvature is that met there."""
    problem, made, _ = regression("sampler=hmc", "sampler.dtype=float64")
    white = density_of(problem, made, "curvature")
    density, size, gradients = sample._whiten_around(problem.loss, white, 0, Journal())
    assert size == pytest.approx(1, rel=1e-9)
    assert gradients == 3 + 2  # a Gauss-Newton matrix of one output: 1 + 0.6, rounded up
    np.testing.assert_allclose(density.metric.apply(jnp.ones(6)), white.metric.apply(jnp.ones(6)), rtol=1e-6)

    white = white._replace(w0=jnp.zeros(6))
    steep = problem.loss._replace(potential=lambda w: 0.5 * w @ w + 5 * jnp.sum(w**4), outputs=None)
    density, size, _ = sample._whiten_around(steep, white, 0, Journal())
    assert 0.3 < size < 0.9
    z = jax.random.normal(loop.stream(0, "metric"), (sample.LAPLACE_DRAWS, 6), jnp.float64)[0]
    virial = -size * z @ densities.evaluate(steep, white, size * z)[1] / (z @ z)
    assert virial == pytest.approx(1, abs=0.2)
    falling = problem.loss._replace(potential=lambda w: -(w @ w), outputs=None)
    assert sample._whiten_around(falling, white, 0, Journal())[:2] == (white, sample.SMALLEST_START)


@pytest.mark.soak
def test_a_large_network_starts_in_the_curvature_around_w0(monkeypatch):
    """A network counts as large here from two parameters on."""
    monkeypatch.setattr(curvature, "DENSE_LIMIT", 1)
    made = config(
        "model.target_params=100",
        "data.n_data=200",
        "training=teacher",
        "sampler=hmc",
        "sampler.draws=4",
        "sampler.warmup=1",
    )
    problem = problems.of(made)
    warm, cold = (
        problem.sample(replace(made, sampler=replace(made.sampler, warmup=draws))).density.metric for draws in (1, 0)
    )
    assert warm.scales[0].shape == cold.scales[0].shape
    assert not np.allclose(warm.scales[0], cold.scales[0], rtol=0.01)


def test_a_breakdown_while_settling_keeps_the_curvature_at_w0(monkeypatch):
    """The run goes on, its draws are not finite, and the log says why."""
    problem, made, _ = regression("sampler=hmc", "sampler.draws=10", "sampler.warmup=80", WHITE)
    monkeypatch.setattr(loop.Loop, "positions", lambda self, states: np.full((4, 6), np.nan))
    said = []
    result = problem.sample(made, lambda line, frequent=False: said.append(line))
    assert any("broke down" in line for line in said)
    assert np.all(np.isfinite(result.draws.records.excess))


def test_where_the_hessian_vanishes_sgld_alone_whitens_and_takes_care():
    """By the curvature along its chains, by Euler's step and at a smaller bias target; HMC and MCLMC stay in plain coordinates."""
    short = ("sampler.draws=10", "sampler.warmup=80")
    for sampler, expected in (("hmc", "identity"), ("mclmc", "identity"), ("sgld", "curvature")):
        problem, made, _ = CROSS(f"sampler={sampler}", *short)
        found = problem.sample(made).tuned
        assert found["metric"] == expected
    assert found["predicted_bias"] <= sgld.CAREFUL + 1e-9 and "noise_size" not in found


def cheapest(made, problem, n, batch, **changes):
    """The setting that SGLD chooses from measurements of ours: step·largest ≤ 1 and 0.08/(1 + noise) bound the step."""
    measured = {"largest_curvature": 1.0, "typical_curvature": 1.0, "gradient_noise": 1.0, "controlled_noise": 1.0}
    settled = Tuned(None, sgld.Tuning(*map(jnp.asarray, (0.04, 1.0, 0.0)), None), 0.0, measured | changes)
    config, batch, settled = sgld._cheapest(made.sampler, problem.loss, settled, n, batch)
    return config.control_variate, batch, float(settled.tuning.step_size)


def test_sgld_takes_the_batch_and_the_control_variate_that_cost_least():
    """Euler's cost without control variate, (B + 200)(1 + B0/B), is least at B = √(200 B0) = 2830 for B0 = 40000."""
    problem, made, _ = regression("sampler=sgld", "sampler.integrator=euler", "sampler.bias_target=0.02")
    assert cheapest(made, problem, 100_000, 40_000) == (False, 2048, pytest.approx(0.08 / (1 + 40_000 / 2048)))
    assert cheapest(made, problem, 20000, 1024)[:2] == (False, 1024)  # 512 would save a tenth: not worth compiling for
    assert cheapest(made, problem, 20000, 64, gradient_noise=9.0, controlled_noise=9.0)[:2] == (False, 256)  # larger
    assert cheapest(made, problem, 20000, 8192, controlled_noise=0.01)[0]
    # stability holds the step at 1/1000: the smallest batch does not shorten it by more than its steps are cheaper
    assert cheapest(made, problem, 20000, 2048, largest_curvature=1000.0) == (False, 32, pytest.approx(0.001))
    assert cheapest(made, problem, 2048, 2048) == (None, 2048, pytest.approx(0.04))  # the whole data: no noise to trade
    typed = config("sampler=sgld", "sampler.batch_size=50", "sampler.control_variate=true")
    assert cheapest(typed, problem, 20000, 50) == (True, 50, pytest.approx(0.02 / 0.45))


def test_the_default_step_of_sgld_is_as_long_as_what_the_noise_leaves_allows():
    """0.45 noise ε/4 ≤ 0.005 and ε·largest ≤ 1: the batch shrinks until the first holds the step as the second does."""
    problem, made, _ = regression("sampler=sgld", "sampler.control_variate=false")
    assert cheapest(made, problem, 20000, 2048) == (False, 2048, pytest.approx(0.02 / 0.45))
    assert cheapest(made, problem, 20000, 2048, gradient_noise=0.01) == (False, 512, pytest.approx(1.0))
    assert cheapest(made, problem, 20000, 2048, gradient_noise=0.01, largest_curvature=10.0)[1] == 64


def test_sgld_measures_what_its_bias_is_made_of():
    """At w0 of a linear regression, whitened: no noise with the control variate; without, the residuals', by formula."""
    problem, made, _ = regression("sampler=sgld", "sampler.chains=32", "sampler.dtype=float64")
    density = density_of(problem, made, "curvature")
    kernel = sgld.make_kernel(made.sampler, problem.loss, 300, 50)
    states = jax.vmap(lambda u: kernel.init(density, u, jax.random.key(0)))(jnp.zeros((32, 6)))
    chains = loop.Loop(kernel, density, made.sampler, 1, Journal())
    started = sgld._begin(made.sampler, problem.loss, chains, states)
    found = sgld._choose(made.sampler, problem.loss, chains, started, 0, 300, 50).chosen
    nbeta = 300 / np.log(300)
    whitener = np.linalg.inv(nbeta * REGRESSION.hessian + np.eye(6))
    shares = nbeta * REGRESSION.hessian @ whitener
    residual = REGRESSION.x * (REGRESSION.y - REGRESSION.x @ problem.w0[:, None]) / REGRESSION.sigma**2
    noise = nbeta**2 / 50 * np.cov(residual.T) @ whitener  # similar to M C M
    assert found["largest_curvature"] == pytest.approx(1, rel=1e-2)
    assert found["typical_curvature"] == pytest.approx(1, rel=1e-3)  # tr R/tr R, whichever the probes
    assert found["controlled_noise"] < 1e-12
    assert found["gradient_noise"] == pytest.approx(np.trace(noise @ shares) / np.trace(shares), rel=0.2)
    warm = started._replace(chosen={"llc_in_warmup": np.trace(shares) / 8})  # λ̂ a quarter of what Laplace has it
    assert sgld._choose(made.sampler, problem.loss, chains, warm, 0, 300, 50).chosen["typical_curvature"] == (
        pytest.approx(4 * found["typical_curvature"])
    )


def test_the_algorithm_of_a_loop_may_be_changed():
    """With another batch size half way, as SGLD's warm-up does: the same states go on, at the other cost."""
    problem, made, _ = regression("sampler=sgld", "sampler.draws=20", "sampler.thin=2")
    density = density_of(problem, made, "curvature")
    chains = loop.Loop(sgld.make_kernel(made.sampler, problem.loss, 300, 60), density, made.sampler, 2, Journal())
    states = chains.states(loop.starts(density, density.metric, 4, 0))
    tuning = sgld.Tuning(*map(jnp.asarray, (0.01, 1.0, 0.0)), jnp.zeros(6, jnp.float32))
    states, before = chains.advance(tuning, states, "warmup", 0, 5)
    chains.use(sgld.make_kernel(made.sampler, problem.loss, 300, 30))
    states, after = chains.advance(tuning, states, "warmup", 5, 5)
    np.testing.assert_allclose(before.steps.gradients, 2 * 0.2 + 1)
    np.testing.assert_allclose(after.steps.gradients, 2 * 0.1 + 1)
    assert np.all(np.asarray(states.count) == 20)


# --- little work ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_draws_end_where_they_are_enough(name):
    """The first draws of a longer run, bit for bit, and no more once the rule says so."""
    problem, made, _ = regression(*RUNS[name], "sampler.chains=2", "sampler.draws=120", "sampler.warmup=40")
    whole, seen = problem.sample(made).draws, []

    def enough(so_far):
        seen.append(so_far.records.excess.shape)
        return seen[-1][1] >= 20

    short = problem.sample(made, enough=enough).draws
    assert seen == [(2, 3 * i) for i in range(1, 8)]
    assert short.seconds.shape == (21,)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:, :21]), short.records, whole.records)


def test_thin_balances_moving_and_recording():
    """Against a scan of effective draws per gradient of an AR(1) process, tanh(x/2) = (1 − e^-x)/(1 + e^-x)."""
    rate, cost = 0.0155, 0.032
    decay = np.exp(-rate * np.arange(1, 401))
    efficiency = (1 - decay) / (1 + decay) / (1 + cost * np.arange(1, 401))
    assert sgld._cheapest_thin(rate, cost) == 1 + np.argmax(efficiency) == 89
    assert sgld._cheapest_thin(1e-9, 1e-9) == sgld.MOST_THIN
    assert sgld._cheapest_thin(5.0, 1.0) == sgld.THIN


def test_laplace_is_exact_on_a_quadratic():
    """½ tr nβH(nβH + γ)^{-1}, and draws of the posterior itself: mean of the Stein identity p."""
    problem, made, exact = regression("sampler=laplace", "sampler.draws=500", "sampler.dtype=float64")
    result = problem.sample(made)
    assert result.laplace == pytest.approx(exact, rel=1e-6)
    drawn = estimates.summarise(result.draws.records.excess)
    assert drawn.mean == pytest.approx(exact, abs=4 * drawn.mcse)
    stein = estimates.summarise(result.draws.records.stein)
    assert stein.mean == pytest.approx(6, abs=4 * stein.mcse)
    assert result.draws.steps.gradients.sum() == 4 * 500


@pytest.mark.parametrize("name", soak_but([], ["hmc", "mclmc", "sgld"]))
def test_layers_and_hessian_give_the_same_llc(name, monkeypatch):
    """A network's λ̂ does not depend on which curvature whitens it."""
    options = (
        "model.target_params=100",
        "data.n_data=200",
        f"sampler={name}",
        "sampler.draws=300",
        "posterior.gamma=100",
    )
    made = config(*options, "training.steps=500")
    found = []
    for limit in (1000, 10):
        monkeypatch.setattr(curvature, "DENSE_LIMIT", limit)
        result = problems.of(made).sample(made)
        assert result.tuned["metric"] == "curvature"
        assert type(result.density.metric) is (metrics.Metric if limit == 1000 else metrics.LayerMetric)
        found.append(estimates.summarise(result.draws.records.excess))
    a, b = found
    assert a.mcse < 0.05 * a.mean
    assert b.mean == pytest.approx(a.mean, abs=4 * np.hypot(a.mcse, b.mcse) + (0.02 * a.mean if name == "sgld" else 0))


def test_a_gpu_takes_all_chains_and_large_chunks(monkeypatch):
    """Chosen by the devices there are: no setting of the user's."""
    x, y = np.zeros((20_000, 32)), np.zeros((20_000, 1))
    chunks, one_by_one = {}, {}
    for platform in ("cpu", "gpu"):
        device = SimpleNamespace(platform=platform, memory_stats=lambda: {"bytes_limit": 10 * 2**30})
        monkeypatch.setattr(devices, "_chosen", lambda device=device: [device])
        rows = losses.to_rows(x, y, 62, "float32", devices.parts(1e9))
        layout = devices.layout(losses.gradient_operations(rows, 9921))
        chunks[platform], one_by_one[platform] = rows.weight.shape[0], layout.one_by_one
    assert chunks["gpu"] <= 2 < chunks["cpu"]
    assert one_by_one == {"cpu": True, "gpu": False}


@pytest.mark.parametrize("name", sorted(RUNS))
def test_a_warmup_of_any_length_is_made(name):
    problem, made, _ = regression(*RUNS[name], "sampler.draws=4", "sampler.thin=1", "sampler.chains=2")
    for warmup in (*range(8), 11, 12, 13, 15, 16, 17, 23):
        result = problem.sample(replace(made, sampler=replace(made.sampler, warmup=warmup)))
        assert result.draws.records.excess.shape == (2, 4) and np.all(np.isfinite(result.draws.records.excess))


# --- compiled programs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["hmc", "mclmc", "sgld"])
def test_a_run_of_another_seed_and_length_compiles_nothing(sampler):
    """What is compiled for a run serves all that differ from it in numbers."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _seconds, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    problem, settings = REGRESSION.problem, (f"sampler={sampler}", "sampler.draws=200", "data.n_data=300")
    problem.sample(config(*settings), enough=lambda so_far: so_far.records.excess.shape[1] >= 30)
    assert compiled, "the listener hears of a first run"
    for seed, enough in ((1, 25), (2, 60), (3, 130)):
        compiled.clear()
        problem.sample(
            config(*settings, f"sampler.seed={seed}"),
            enough=lambda so_far, enough=enough: so_far.records.excess.shape[1] >= enough,
        )
        assert compiled == []
