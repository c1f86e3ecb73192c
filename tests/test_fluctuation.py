"""Singular fluctuation and WAIC: exact on linear regressions, whose posterior is a Gaussian; None where there are none."""

import jax
import numpy as np
import problems
import pytest

import lambda_hat
from lambda_hat.analysis import estimates
from lambda_hat.config import sizes
from lambda_hat.samplers import fluctuation, loop
from lambda_hat.store.journal import Journal
from lambda_hat.system import devices
from lambda_hat.targets import losses

REGRESSION = problems.LinearRegression(300, 5)
GAMMA = 30.0
NAMES = ("singular_fluctuation", "waic")


def exact(x, y, w0, sigma, moving=slice(None), gamma=GAMMA):
    """ν and WAIC of y = x·w + N(0, σ²) under the posterior of the weights `moving` around w0.

    The residual of a pair is Gaussian, of mean r and variance s²: Var ℓ = (4r²s² + 2s⁴)/4σ⁴ and E exp(−ℓ) = N(r; 0, σ² + s²).
    """
    n, x_moving = len(x), x[:, moving]
    residual, beta = x @ w0 - y, 1 / np.log(n)
    covariance = np.linalg.inv(beta * x_moving.T @ x_moving / sigma**2 + gamma * np.eye(x_moving.shape[1]))
    mean = residual - x_moving @ covariance @ (beta * x_moving.T @ residual / sigma**2)
    variance = np.einsum("ni,ij,nj->n", x_moving, covariance, x_moving)
    functional = np.sum(4 * mean**2 * variance + 2 * variance**2) / (4 * sigma**4)
    total = sigma**2 + variance
    training = np.mean(0.5 * np.log(2 * np.pi * total) + mean**2 / (2 * total))
    return beta / 2 * functional, training + beta / n * functional


def linear(w, x):
    return x @ w


def estimate(sampler, seed=0, apply=linear, w0=None, x=REGRESSION.x, y=REGRESSION.y[:, 0], **settings):
    w0 = REGRESSION.problem.w0 if w0 is None else w0
    chosen = {"gamma": GAMMA, "noise_scale": REGRESSION.sigma, "draws": 100, "mcse_target": None} | settings
    return lambda_hat.estimate(apply, w0, x, y, sampler=sampler, seed=seed, **chosen).summary


def assert_exact(found, expected, errors=4.0):
    for name, truth in zip(NAMES, expected, strict=True):
        mcse = getattr(found, f"{name}_mcse")
        assert 0 < mcse < 0.1 * abs(truth)
        assert abs(getattr(found, name) - truth) < errors * mcse, name


@pytest.mark.parametrize("sampler", ["hmc", "mclmc", "sgld"])
def test_a_linear_regression_has_its_exact_values_and_honest_errors(sampler):
    found = [estimate(sampler, seed) for seed in range(8)]
    expected = exact(REGRESSION.x, REGRESSION.y[:, 0], REGRESSION.problem.w0, REGRESSION.sigma)
    for name, truth in zip(NAMES, expected, strict=True):
        values = np.array([getattr(summary, name) for summary in found])
        errors = np.array([getattr(summary, f"{name}_mcse") for summary in found])
        assert np.all(np.abs(values - truth) < 4 * errors)
        assert abs(values.mean() - truth) < 3 * errors.mean() / np.sqrt(8)
        assert 0.5 < np.std(values, ddof=1) / errors.mean() < 2


def test_of_some_parameters_and_over_other_data(tmp_path):
    """Over other data w0 is no minimum."""
    generator, columns = np.random.default_rng(1), [0, 3]
    w0 = REGRESSION.problem.w0
    parts = {"held": np.delete(w0, columns), "moving": w0[columns]}

    def apply(parts, x):
        return x[:, np.array([1, 2, 4])] @ parts["held"] + x[:, np.array(columns)] @ parts["moving"]

    found = estimate("hmc", apply=apply, w0=parts, parameters=["moving"])
    y = REGRESSION.y[:, 0]
    assert_exact(found, exact(REGRESSION.x, y, w0, REGRESSION.sigma, columns))

    x = generator.standard_normal((80, 5)) * np.geomspace(1, 0.2, 5)
    other = x @ w0 + 0.4 + REGRESSION.sigma * generator.standard_normal(80)
    np.savez(tmp_path / "other.npz", X=x, Y=other)
    found = estimate("hmc", data=str(tmp_path / "other.npz"))
    assert_exact(found, exact(x, other, w0, REGRESSION.sigma))


def test_of_one_chain():
    found = estimate("hmc", chains=1, draws=300)
    assert_exact(found, exact(REGRESSION.x, REGRESSION.y[:, 0], REGRESSION.problem.w0, REGRESSION.sigma))


def test_a_likelihood_of_the_callers_own_differs_by_its_constant():
    sigma = REGRESSION.sigma
    ours = estimate("hmc", draws=60)
    own = estimate("hmc", draws=60, noise_scale=None, log_likelihood=lambda f, y: -((f - y) ** 2) / (2 * sigma**2))
    assert own.singular_fluctuation == pytest.approx(ours.singular_fluctuation, rel=1e-3)
    assert ours.waic - own.waic == pytest.approx(0.5 * np.log(2 * np.pi * sigma**2), abs=1e-4)


def test_classes_have_them():
    """Two classes told by one weight: by quadrature, with ℓ = log(1 + exp(∓wx))."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((60, 1))
    y = (generator.random(60) < 1 / (1 + np.exp(-x[:, 0]))).astype(int)
    w0, grid = 0.7, np.linspace(-4, 6, 4001)
    losses_at = np.log1p(np.exp(-(2 * y - 1) * x[:, 0] * grid[:, None]))
    beta = 1 / np.log(60)
    logp = -beta * losses_at.sum(1) - 0.5 * (grid - w0) ** 2
    p = np.exp(logp - logp.max())
    p /= p.sum()
    functional = np.sum(p @ losses_at**2 - (p @ losses_at) ** 2)
    expected = beta / 2 * functional, -np.mean(np.log(p @ np.exp(-losses_at))) + beta / 60 * functional

    def apply(w, x):
        return np.array([0.0, 1.0]) * (x * w)

    found = estimate("hmc", apply=apply, w0=np.array([w0]), x=x, y=y, noise_scale=None, gamma=1.0, draws=400)
    assert found.estimand.loss == "cross-entropy"
    for name, truth in zip(NAMES, expected, strict=True):
        assert abs(getattr(found, name) - truth) < 4 * getattr(found, f"{name}_mcse")


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        ("hmc", {"loss": "mse", "noise_scale": None}),
        ("hmc", {"loss": "student_t"}),
        ("hmc", {"draws": 3}),
        ("laplace", {"draws": 8, "mcse_target": "absent"}),
    ],
)
def test_they_are_none_for_other_losses_for_laplace_and_of_too_few_draws(sampler, settings):
    if settings.get("mcse_target") == "absent":
        found = lambda_hat.estimate(
            linear, REGRESSION.problem.w0, REGRESSION.x, REGRESSION.y[:, 0], noise_scale=0.5, sampler=sampler, draws=8
        ).summary
    else:
        found = estimate(sampler, **({"draws": 20, "warmup": 4} | settings))
    assert [getattr(found, name) for name in (*NAMES, "singular_fluctuation_mcse", "waic_mcse")] == [None] * 4
    assert found.fges.draws == int(found.fges.draws), "no pass is charged that is not made"


def test_an_analytic_loss_has_none():
    found = lambda_hat.estimate(
        potential=lambda w: 0.5 * (w**2).sum(), params=np.zeros(2), n=100, draws=20, warmup=4, mcse_target=None
    )
    assert found.summary.singular_fluctuation is None and found.summary.waic is None


# --- which draws ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chains", [1, 4, 50])
def test_draws_that_are_kept_are_evenly_apart_and_between_half_and_all_there_is_room_for(chains):
    most = sizes.most_kept(chains, 10)
    for count in (*range(1, 300), 1000, 12345):
        kept = loop._kept_among(0, count, most)
        apart = loop._apart(count - 1, most)
        chosen = [number for number in kept if number % apart == 0]
        assert chosen == list(range(0, count, apart))
        assert min(count, most // 2) <= len(chosen) <= most


@pytest.mark.parametrize(("draws", "chains"), [(30, 4), (1000, 4), (5000, 1), (40_000, 4), (10**7, 2), (4000, 100)])
def test_no_call_keeps_more_draws_than_it_has_room_for(draws, chains):
    most, size = sizes.most_kept(chains, 10), -(-draws // loop.CHUNKS)
    room, made = loop._room(size, most), 0
    while made < draws:
        end = min(draws, made + min(size, max(loop.FIRST_CALL, int(loop.GROWTH * made))))
        assert len(loop._kept_among(made, end, most)) <= room
        made = end


def test_positions_too_large_to_keep_are_not_kept():
    assert sizes.most_kept(4, 10_000) == 64 and sizes.most_kept(1, 10) == 256
    assert 8 <= sizes.most_kept(4, 10**6) < 64 and sizes.most_kept(4, 10**7) == 0


def test_positions_that_are_kept_are_those_of_their_draws_and_charged():
    config = problems.config("sampler=hmc", "sampler.draws=150", "sampler.warmup=8", "sampler.save_params=true")
    result = REGRESSION.problem.sample(config)
    kept, draws = result.draws.kept, result.draws
    assert list(kept.numbers) == list(range(0, 150, 4)) and kept.positions.shape == (4, 38, 5)
    shifts = jax.vmap(jax.vmap(result.density.metric.apply))(kept.positions)
    np.testing.assert_allclose(shifts, draws.params[:, kept.numbers], atol=1e-7)
    gradients = draws.steps.gradients
    extra = gradients - np.floor(gradients)
    assert extra.sum() == pytest.approx((4 * 38 + 1) / 3, rel=1e-6)
    assert np.all(np.delete(extra, kept.numbers, 1) == 0)


def test_what_is_measured_is_what_the_losses_say(monkeypatch):
    """At given positions, in one block and in several whose last overlaps."""
    config = problems.config("sampler=hmc", "sampler.draws=40", "sampler.warmup=4")
    problem = REGRESSION.problem
    result = problem.sample(config)
    kept = result.draws.kept
    w = problem.w0 + np.asarray(jax.vmap(jax.vmap(result.density.metric.apply))(kept.positions), float)
    each = (np.einsum("ni,cki->ckn", REGRESSION.x, w) - REGRESSION.y[:, 0]) ** 2 / (2 * REGRESSION.sigma**2)
    of_means = np.var(each.reshape(8, -1, 300).mean(1), 0, ddof=1) / 8
    variance = np.sum(np.var(each, (0, 1)) + of_means)
    ratios = np.exp(-each) / np.exp(-each).mean((0, 1))
    of_ratios = np.var(ratios.reshape(8, -1, 300).mean(1), 0, ddof=1) / 8
    constant = 0.5 * np.log(2 * np.pi * REGRESSION.sigma**2)
    training = constant - np.mean(np.log(np.exp(-each).mean((0, 1)))) - of_ratios.mean() / 2
    for block in (fluctuation.BLOCK, 0):
        monkeypatch.setattr(fluctuation, "BLOCK", block)
        fluctuation._block_program.cache_clear()
        density = result.density._replace(rows=losses.to_rows(REGRESSION.x, REGRESSION.y, 5, np.float32))
        found = fluctuation.measure(problem.loss, density, kept, devices.layout(1e3), 300, Journal())
        assert found.variance == pytest.approx(variance, rel=1e-4)
        assert found.training_loss == pytest.approx(training, rel=1e-5)
        np.testing.assert_allclose(found.training_terms, 1 - ratios.mean(-1), atol=1e-4)


def test_errors_are_honest_where_the_excess_explains_a_part():
    """Autoregressive draws whose terms are x and something else, λ̂ known to an error of its own."""
    generator, found = np.random.default_rng(0), []
    for _ in range(300):
        noise = generator.standard_normal((2, 4, 60))
        x = np.zeros((2, 4, 60))
        for i in range(1, 60):
            x[..., i] = 0.4 * x[..., i - 1] + noise[..., i]
        terms = 3 + 0.7 * x[0] + 0.5 * x[1]
        llc = 0.02 * generator.standard_normal()
        found.append(estimates._put_back(terms.mean(), terms, x[0], (llc, 0.02)))
    values, errors = np.array(found).T
    assert abs(values.mean() - 3) < 4 * values.std() / np.sqrt(300)
    assert 0.85 < values.std() / np.sqrt(np.mean(errors**2)) < 1.15
