"""What the status says of runs that were spoilt on purpose, and of the same runs unspoilt."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from conftest import soak_but

from lambda_hat.analysis import estimation
from lambda_hat.samplers import loop, mclmc
from lambda_hat.samplers.density import Record
from lambda_hat.targets import artifact, curvature, models

TRAINED = ("training.steps=3000",)
UNTRAINED = ("training.steps=0", "training.polish_steps=0")


@cache
def target(*options):
    """A 433-parameter tanh network, and its curvature."""
    made = problems.config(*options)
    built = artifact.build(made, problems.silent)
    built.meta["target_id"] = "tgt_planted"
    loss = built.loss(made.posterior)
    return built, curvature.at(loss, built.rows(np.float64), built.w0, seed=0)


def judged(*options, of=TRAINED):
    """The `Summary` of a run."""
    made = problems.config(*of, *options)
    built, curved = target(*of)
    return estimation.estimate_llc(built, curved, made, log=problems.silent, report=problems.silent).summary


@pytest.mark.parametrize("sampler", soak_but(["hmc"], ["hmc", "mclmc", "sgld"]))
def test_an_unspoilt_run_is_ok(sampler):
    found = judged(f"sampler={sampler}")
    assert (found.status, found.status_reasons) == ("ok", ())


LET_GO = ("posterior.gamma=0.01", "sampler.draws=300", "sampler.warmup=100")

SPOILT = {
    "hmc, step 10 times too large": (("sampler=hmc", "sampler.step_size=2.5"), "acceptance"),
    "hmc, step 10 times too small": (
        ("sampler=hmc", "sampler.step_size=0.025", "sampler.draws=200", "sampler.warmup=20"),
        "far too small",
    ),
    "mclmc, step 10 times too large": (("sampler=mclmc", "sampler.step_size=60"), ""),
    "mclmc, step 10 times too small": (("sampler=mclmc", "sampler.step_size=0.3", "sampler.thin=1"), "ESS"),
    "sgld, step 10 times too large": (("sampler=sgld", "sampler.step_size=0.33"), "not finite"),
    "sgld, step 10 times too small": (("sampler=sgld", "sampler.step_size=0.0033", "sampler.thin=20"), "ESS"),
    "hmc, a localization that lets go": (("sampler=hmc", *LET_GO, "sampler.max_leapfrog_steps=30"), ""),
    "mclmc, a localization that lets go": (("sampler=mclmc", *LET_GO), ""),
    "sgld, a localization that lets go": (("sampler=sgld", *LET_GO), ""),
    "20 draws": (("sampler=hmc", "sampler.draws=20"), "ESS"),
    "no warm-up": (("sampler=hmc", "sampler.warmup=0"), "warm-up 0"),
    "no warm-up, sgld": (("sampler=sgld", "sampler.warmup=0"), "warm-up 0"),
}
QUICK = ("hmc, step 10 times too large", "20 draws")


@pytest.mark.parametrize("name", soak_but(QUICK, SPOILT))
def test_a_spoilt_run_is_not_ok(name):
    options, reason = SPOILT[name]
    found = judged(*options)
    assert found.status in ("warn", "bad"), (found.llc_mean, found.llc_mcse)
    assert any(reason in line for line in found.status_reasons), found.status_reasons


@pytest.mark.parametrize("sampler", soak_but([], ["hmc", "mclmc", "sgld"]))
def test_an_untrained_network_is_bad(sampler):
    found = judged(f"sampler={sampler}", "sampler.draws=200", of=UNTRAINED)
    assert found.status == "bad"
    assert any("minimum" in line for line in found.status_reasons), found.status_reasons


def test_a_chain_that_stays_elsewhere_is_noticed(monkeypatch):
    """The first chain starts ten Laplace widths out and takes steps that are too short to come back."""
    started = loop.starts

    def away(*arguments, **named):
        return started(*arguments, **named) * jnp.asarray([30.0, 1, 1, 1])[:, None]

    monkeypatch.setattr(loop, "starts", away)
    found = judged("sampler=hmc", "sampler.warmup=0", "sampler.step_size=0.002", "sampler.trajectory_length=0.01")
    assert found.status == "bad"
    assert any("R-hat" in line for line in found.status_reasons), found.status_reasons


def test_a_dead_tuner_is_noticed(monkeypatch):
    """A step that leaves the chains where they are."""

    def dead(config, chains, states, tuning, steps):
        return mclmc.Tuning(jnp.asarray(1e-12), jnp.asarray(1.0)), states, 0.0

    monkeypatch.setattr(mclmc, "_tune", dead)
    found = judged("sampler=mclmc", "sampler.draws=200")
    assert found.status == "bad"


@pytest.mark.parametrize("name", Record._fields)
def test_nan_in_the_middle_is_bad(monkeypatch, name):
    """Of one chain something is lost half way, however few draws were enough."""
    run = loop.Loop.run

    def broken(self, *arguments):
        draws, states = run(self, *arguments)
        values = getattr(draws.records, name).copy()
        values[1, values.shape[1] // 2 :] = np.nan
        return draws._replace(records=draws.records._replace(**{name: values})), states

    monkeypatch.setattr(loop.Loop, "run", broken)
    found = judged("sampler=hmc", "sampler.draws=100")
    assert found.status == "bad"
    assert "50 of 400 draws are not finite" in found.status_reasons[0]
    assert name != "excess" or found.llc_mean is None


SGLD = ("sampler=sgld", "posterior.gamma=1", "sampler.mcse_target=null")
QUADRATIC = ("model=quadratic", "model.dim=10", "data.n_data=1000", *SGLD)
CROSSING = (*SGLD, "model=normal_crossing", "model.powers=[1,1]", "data.n_data=10000")


@pytest.mark.parametrize("precond", soak_but(["rmsprop"], ["none", "rmsprop", "adam"]))
@pytest.mark.parametrize(
    ("options", "draws"),
    [(QUADRATIC, 200), pytest.param(CROSSING, 500, marks=pytest.mark.soak)],
    ids=["quadratic", "crossing"],
)
def test_no_preconditioner_is_wrong_and_ok(options, draws, precond):
    """Of 20 runs at least 18 hold the exact value or say that something is wrong; on the quadratic the draws' own mean does not."""
    made = problems.config(*options, f"sampler.draws={draws}", f"sampler.precond={precond}")
    problem = problems.analytic(made)
    exact = models.build(made.model).finite(problem.n * made.posterior.inverse_temperature(problem.n), 1.0)
    found = problem.summaries(made, 20)
    right = [low <= exact <= high for low, high in (summary.llc_interval95 for summary in found)]
    honest = [held or summary.status != "ok" for held, summary in zip(right, found, strict=True)]
    assert sum(honest) >= 18, [(summary.llc_mean / exact, summary.llc_interval95) for summary in found]
    if options is QUADRATIC:
        assert np.mean([summary.llc_raw for summary in found]) > 1.01 * exact


def test_the_judge_is_blind_to_the_truth():
    """Nothing between a configuration and its status reads a truth: the same draws with another truth are judged alike."""
    built, _ = target(*TRAINED)
    assert "truth" not in jax.tree_util.tree_structure(built._replace(meta={})).__str__()
    plain = judged("sampler=hmc", "sampler.draws=100")
    built.meta["truth"] = {"lambda": 1.0, "multiplicity": 1, "source": "made up"}
    try:
        told = judged("sampler=hmc", "sampler.draws=100")
    finally:
        built.meta["truth"] = None
    assert told.truth.relative_error == plain.llc_mean - 1
    assert replace(told, truth=None) == plain
