"""Estimates against ArviZ, closed forms and planted faults; trace.nc as ArviZ reads it."""

from types import SimpleNamespace

import arviz as az
import numpy as np
import problems  # noqa: F401  (starts JAX in float64)
import pytest
import xarray as xr

from lambda_hat.analysis import estimates, status, trace
from lambda_hat.samplers.density import Record
from lambda_hat.samplers.loop import Draws, Step

# --- estimates --------------------------------------------------------------------------------------------------------


def autoregressive(rho, chains, draws, seed=0):
    """Stationary AR(1) chains of mean 3 and variance 1."""
    generator = np.random.default_rng(seed)
    x = np.empty((chains, draws))
    x[:, 0] = generator.standard_normal(chains)
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * generator.standard_normal(chains)
    return 3 + x


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_summary_of_an_autoregression(rho):
    """ESS = N(1−ρ)/(1+ρ), MCSE = 1/√ESS; ArviZ's estimate of the ESS is good to about 10 % at this length."""
    found = estimates.summarise(autoregressive(rho, 8, 5000))
    ess = 40_000 * (1 - rho) / (1 + rho)
    assert found.ess == pytest.approx(ess, rel=0.15)
    assert found.mcse == pytest.approx(1 / np.sqrt(ess), rel=0.1)
    assert found.within == pytest.approx(1 / np.sqrt(ess), rel=0.1)
    assert found.between == pytest.approx(1 / np.sqrt(ess), rel=4 / np.sqrt(14))  # from eight chain means
    assert found.mean == pytest.approx(3, abs=4 / np.sqrt(ess))
    assert found.std == pytest.approx(1, abs=4 / np.sqrt(ess))
    assert found.rhat < 1.01


def test_summary_is_arvizs():
    values = autoregressive(0.5, 4, 200)
    found = estimates.summarise(values)
    data = xr.Dataset({"v": (("chain", "draw"), values)})
    assert found.ess == pytest.approx(float(az.ess(data, method="bulk")["v"]))
    assert found.rhat == pytest.approx(float(az.rhat(data, method="rank")["v"]))
    assert found.mcse == pytest.approx(float(az.mcse(data, method="mean")["v"]))
    assert found.between == pytest.approx(values.mean(1).std(ddof=1) / 2)


def test_error_grows_where_chains_disagree():
    """Four chains, each at its own level: the error is that of four numbers."""
    levels = np.array([0.0, 1.0, 2.0, 3.0])
    values = autoregressive(0, 4, 1000) + levels[:, None]
    found = estimates.summarise(values)
    assert found.between == pytest.approx(levels.std(ddof=1) / 2, rel=0.1)
    assert found.mcse >= 0.95 * found.between
    assert found.within == pytest.approx(1 / np.sqrt(4000), rel=0.1)
    assert found.quantile == pytest.approx(3.182, rel=1e-3)  # Student's t of 3 degrees of freedom


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_the_interval_covers(rho):
    """Of 500 experiments 95 % hold the mean, within 4 standard errors of that share."""
    held = 0
    for seed in range(500):
        low, high = estimates.budget(estimates.summarise(autoregressive(rho, 4, 500, seed)), 0.0, 0.0, 0.0).interval
        held += low < 3 < high
    assert held / 500 == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 500))


def test_budget():
    """A corrected bias moves the interval, one that is not widens it, a baseline lifts its upper end."""
    llc = estimates.Chains(10.0, 1.0, 0.1, 0.1, 0.05, 1.96, 500.0, 1.0)
    plain = estimates.budget(llc, 0.0, 0.0, 0.0)
    assert plain.interval == pytest.approx((9.804, 10.196))
    assert plain.dominant == "within"
    corrected = estimates.budget(llc, 0.4, 0.25, 0.0)
    half = np.hypot(0.196, 0.1)
    assert corrected.interval == pytest.approx((9.6 - half, 9.6 + half))
    assert corrected.dominant == "discretisation"
    widened = estimates.budget(llc, -0.4, None, 0.5)
    half = np.hypot(0.196, 0.4)
    assert widened.interval == pytest.approx((10 - half, 10.5 + half))
    assert widened.dominant == "baseline"
    apart = estimates.budget(llc._replace(mcse=0.3, between=0.3, quantile=3.18), 0.0, 0.0, 0.0)
    assert apart.dominant == "between"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_draw_that_is_not_finite_leaves_no_estimate(bad):
    values = autoregressive(0, 2, 50)
    values[1, 30] = bad
    assert np.all(np.isnan(estimates.summarise(values)))


def test_three_draws_have_a_mean_only():
    found = estimates.summarise(np.array([[1.0, 2.0, 3.0]]))
    assert (found.mean, found.std) == (2, 1)
    assert np.all(np.isnan(found[2:]))


# A quadratic with curvatures h at nβ and γ: w_i ~ N(0, 1/(nβh_i + γ)), λ̂ = ½Σρ_i, ρ = nβh/(nβh + γ).
H, NBETA, GAMMA = np.geomspace(0.01, 10, 8), 50.0, 3.0
RHO = NBETA * H / (NBETA * H + GAMMA)


def exact_draws(chains=4, draws=20_000):
    """excess, |w|², and the Stein form with A = diag ρ."""
    w = np.random.default_rng(0).standard_normal((chains, draws, len(H))) / np.sqrt(NBETA * H + GAMMA)
    force = (NBETA * H + GAMMA) * w
    return NBETA * np.sum(H * w**2, -1) / 2, np.sum(w**2, -1), np.sum(RHO * w * force, -1)


def test_sensitivities_of_a_quadratic():
    """dλ̂/d ln β = ½Σρ(1−ρ) = −dλ̂/d ln γ, also by finite differences of ½Σρ; within 4 standard errors."""
    excess, distance2, _ = exact_draws()
    found = estimates.sensitivities(excess, distance2, GAMMA)

    def llc(log_beta, log_gamma):
        stiffness = NBETA * np.exp(log_beta) * H
        return 0.5 * np.sum(stiffness / (stiffness + GAMMA * np.exp(log_gamma)))

    d_beta, d_gamma = (llc(1e-4, 0) - llc(-1e-4, 0)) / 2e-4, (llc(0, 1e-4) - llc(0, -1e-4)) / 2e-4
    assert d_beta == pytest.approx(0.5 * np.sum(RHO * (1 - RHO)), rel=1e-6)
    centred = excess - excess.mean()
    each_beta = excess - centred**2
    each_gamma = -GAMMA / 2 * centred * (distance2 - distance2.mean())
    root = np.sqrt(excess.size)
    assert found["dllc_dlog_beta"] == pytest.approx(d_beta, abs=4 * each_beta.std() / root)
    assert found["dllc_dlog_gamma"] == pytest.approx(d_gamma, abs=4 * each_gamma.std() / root)
    assert each_gamma.std() / root < 0.1 * abs(d_gamma)


def test_variance_estimator_of_a_quadratic():
    """(nβ)² Var L = ½Σρ²."""
    excess, _, _ = exact_draws()
    found = estimates.summarise(excess)
    error = ((excess - excess.mean()) ** 2).std() / np.sqrt(excess.size)
    assert found.std**2 == pytest.approx(0.5 * np.sum(RHO**2), abs=4 * error)


def test_control_variate_leaves_a_quadratic_no_variance():
    excess, _, stein = exact_draws(draws=500)
    found, coefficient = estimates.control_variate(excess, stein, RHO.sum())
    assert coefficient == pytest.approx(0.5, rel=1e-10)
    assert found.mean == pytest.approx(0.5 * RHO.sum(), rel=1e-10)
    assert found.std < 1e-10


def test_control_variate_without_variance_is_left_out():
    excess, _, _ = exact_draws(draws=500)
    found, coefficient = estimates.control_variate(excess, np.zeros_like(excess), 0.0)
    assert coefficient == 0
    assert found == estimates.summarise(excess)


# --- status -----------------------------------------------------------------------------------------------------------

P = 12


def evidence(excess=None, **changes):
    """What a clean run leaves: a chi-square of P degrees of freedom over two, four chains of 1000 draws."""
    generator = np.random.default_rng(1)
    if excess is None:
        excess = generator.chisquare(P - 2, (4, 1000)) / 2
    plain = {
        "excess": excess,
        "distance2": generator.chisquare(P, excess.shape) / 100,
        "llc": estimates.summarise(excess),
        "predicted_bias": 0.0,
        "low": estimates.summarise(excess).mean - 0.1,
        "stein": estimates.summarise(generator.chisquare(P, excess.shape)),
        "p": P,
        "w0_norm2": 10.0,
        "baseline_gain": 1e-3,
        "acceptance": 0.8,
        "warmup": 300,
        "shortened": False,
        "divergences": 0,
        "sampler": "hmc",
    }
    plain |= changes
    return status.Evidence(**{name: plain[name] for name in status.Evidence._fields})


def clean():
    return np.random.default_rng(2).chisquare(P - 2, (4, 1000)) / 2


def test_a_clean_run_is_ok():
    assert status.judge(evidence()) == ("ok", [])
    assert status.judge(evidence(acceptance=np.nan)) == ("ok", [])
    assert status.judge(evidence(acceptance=0.995, shortened=True)) == ("ok", [])
    warm = estimates.summarise(np.random.default_rng(3).chisquare(P, (4, 1000)) * 1.06)
    assert status.judge(evidence(stein=warm, predicted_bias=0.05)) == ("ok", [])


def planted(change):
    values = clean()
    change(values)
    return values


def stick(values):
    values[2] = 5.0


def break_down(values):
    values[1, 500:] = np.nan


def shift_slightly(values):
    values[0] += 1.5


def shift_far(values):
    values[0] += 4


def drift(values):
    values += np.where(np.arange(1000) < 750, 0, 0.8)


def sink(values):
    values[:, ::20] = -0.5


def sink_deep(values):
    values -= 20


def blow_up(values):
    values += 10


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        (stick, "bad", "1 of 4 chains do not move"),
        (break_down, "bad", "500 of 4000 draws are not finite"),
        (shift_slightly, "warn", "R-hat"),
        (shift_far, "bad", "R-hat"),
        (drift, "warn", "still moves by +0."),
        (sink, "warn", "5 % of draws lie below"),
        (sink_deep, "bad", "lie below L_n(w0)"),
        (blow_up, "bad", "exceeds p/2"),
    ],
)
def test_planted_draws_are_noticed(change, verdict, reason):
    found, reasons = status.judge(evidence(planted(change)))
    assert found == verdict, reasons
    assert any(reason in line for line in reasons), reasons


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        ({"warmup": 0}, "warn", "warm-up 0"),
        ({"acceptance": 0.3}, "warn", "acceptance 0.30"),
        ({"acceptance": 0.05}, "bad", "acceptance 0.05"),
        ({"acceptance": 0.999}, "warn", "far too small"),
        ({"divergences": 50}, "warn", "50 of 4000 transitions diverged"),
        ({"divergences": 800}, "bad", "800 of 4000 transitions diverged"),
        ({"w0_norm2": 0.01}, "warn", "has left w0"),
        ({"baseline_gain": 0.1}, "warn", "w0 is not a minimum"),
        ({"baseline_gain": 2.0}, "bad", "w0 is not a minimum"),
        (
            {
                "stein": estimates.summarise(np.random.default_rng(3).chisquare(P, (4, 1000)) * 1.06),
                "predicted_bias": 0.01,
            },
            "warn",
            "Stein identity off by +",
        ),
        (
            {"stein": estimates.summarise(np.random.default_rng(3).chisquare(P, (4, 1000)) * 0.9)},
            "warn",
            "Stein identity off by -",
        ),
    ],
)
def test_planted_evidence_is_noticed(change, verdict, reason):
    found, reasons = status.judge(evidence(**change))
    assert found == verdict, reasons
    assert any(reason in line for line in reasons), reasons


def test_enough_needs_error_and_diagnostics():
    """4000 draws of mean 30: MCSE 0.4 % of it."""
    values = clean()
    error = estimates.summarise(values).mcse / values.mean()
    assert status.is_enough(estimates.summarise(values), 1.01 * error)
    assert not status.is_enough(estimates.summarise(values), 0.99 * error)
    assert not status.is_enough(estimates.summarise(values), None)
    assert not status.is_enough(estimates.summarise(values[:, :90]), 0.5), "ESS below 400"
    assert not status.is_enough(estimates.summarise(planted(shift_slightly)), 0.5), "R-hat above 1.01"
    assert not status.is_enough(estimates.summarise(planted(break_down)), 0.5)
    assert not status.is_enough(estimates.summarise(planted(stick)), 0.5)


def test_laplace_verdict():
    drawn = estimates.summarise(clean())
    assert status.judge_laplace(drawn.mean, drawn, 0.0) == ("ok", [])
    assert status.judge_laplace(1.1 * drawn.mean, drawn, 0.0)[0] == "warn"
    assert status.judge_laplace(3 * drawn.mean, drawn, 0.0)[0] == "bad"
    assert status.judge_laplace(0.0, drawn, 0.0)[0] == "bad"
    assert status.judge_laplace(drawn.mean, drawn._replace(mean=np.nan), 0.0)[0] == "bad"
    verdict, (reason,) = status.judge_laplace(drawn.mean, drawn, 0.5 * drawn.mean)
    assert verdict == "bad" and "w0 is not a minimum" in reason


@pytest.mark.parametrize(("draws", "verdict"), [(3, "bad"), (5, "bad"), (60, "warn")])
def test_few_draws_are_noticed(draws, verdict):
    found, reasons = status.judge(evidence(clean()[:, :draws]))
    assert found == verdict, reasons


def test_one_chain_is_noticed():
    found, reasons = status.judge(evidence(clean().reshape(1, -1)))
    assert found == "warn"
    assert reasons == ["one chain alone cannot show whether it has converged"]


def test_the_worst_reason_comes_first():
    found, reasons = status.judge(evidence(planted(shift_slightly), acceptance=0.05))
    assert found == "bad"
    assert reasons[0].startswith("acceptance")
    assert reasons[1].startswith("R-hat")


# --- trace ------------------------------------------------------------------------------------------------------------


def draws(params=None):
    generator = np.random.default_rng(0)
    records = Record(*(generator.standard_normal((2, 10)) for _ in Record._fields))
    nan = np.full((2, 10), np.nan)
    steps = Step(
        acceptance=generator.random((2, 10)),
        energy=nan,
        energy_error2=nan,
        diverging=np.zeros((2, 10), bool),
        gradients=np.full((2, 10), 3.0),
    )
    return Draws(records, steps, np.arange(10.0), params)


@pytest.mark.parametrize("params", [None, np.ones((2, 10, 5))])
def test_trace_opens_with_arviz(tmp_path, params):
    made = draws(params)
    trace.write(tmp_path / "trace.nc", trace.dataset(made, 2.0, 100.0, 8.0, {"n": 50, "target_id": "tgt_x"}))
    opened = az.from_netcdf(tmp_path / "trace.nc")
    posterior, stats = opened["posterior"], opened["sample_stats"]
    np.testing.assert_array_equal(posterior["llc"].values, made.records.excess)
    np.testing.assert_allclose(posterior["L"].values, 2 + made.records.excess / 100)
    np.testing.assert_array_equal(stats["distance2"].values, made.records.distance2)
    np.testing.assert_array_equal(stats["acceptance_rate"].values, made.steps.acceptance)
    np.testing.assert_array_equal(stats["gradient_evaluations"].values, 4 + 3.0 * np.arange(1, 11) * np.ones((2, 1)))
    assert stats["diverging"].values.dtype == bool
    assert "energy" not in stats
    assert posterior["llc"].dims == ("chain", "draw")
    assert ("w_minus_w0" in posterior) == (params is not None)
    assert float(az.ess(xr.Dataset({"llc": posterior["llc"]}))["llc"]) > 0
    ours = trace.read(tmp_path / "trace.nc")
    assert isinstance(ours, xr.DataTree)
    assert ours.attrs["n"] == 50
    assert ours.attrs["target_id"] == "tgt_x"
    np.testing.assert_array_equal(ours["posterior"]["llc"].values, made.records.excess)
    ours.close()


def test_trace_needs_only_what_draws_hold():
    """`dataset` reads attributes of its argument, so that draws of another origin can be written too."""
    made = draws()
    tree = trace.dataset(SimpleNamespace(**made._asdict()), 0.0, 1.0, 0.0, {})
    assert set(tree.children) == {"posterior", "sample_stats"}
