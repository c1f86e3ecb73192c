"""λ from runs at several β: on curves with a planted λ, exact or with noise, and on records written by hand."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from lambda_hat.analysis.summary import Summary
from lambda_hat.commands import results
from lambda_hat.inspect import table, temperature
from lambda_hat.inspect.records import RunRecord
from lambda_hat.inspect.temperature import Point
from lambda_hat.system.errors import UserError

VERSION_1 = json.loads((Path(__file__).parent / "analysis_version1.json").read_text())
NBETA = np.array([1e3, 3e3, 1e4, 3e4, 1e5])


def points(llc, mcse, n=200):
    return [Point(t, t / n, float(x), float(e), None, None) for t, x, e in zip(NBETA, llc, mcse, strict=True)]


def made(llc, mcse):
    found = temperature.fit(points(llc, mcse))
    assert found is not None
    return found


def test_an_exact_line_gives_its_slope_whatever_the_baseline():
    error = 0.01 * np.ones(5)
    found = made(2.5 * np.ones(5), error)
    assert (found.llc, found.chi2, found.verdict) == (pytest.approx(2.5), pytest.approx(0, abs=1e-8), "linear")
    baseline = made(2.5 + 0.3 * NBETA / 1e5, error)  # n (L_min − L(w0)) = 0.3/500, at w0 off the minimum
    assert baseline.llc == pytest.approx(2.5)
    assert baseline.verdict == "linear"


def test_the_error_is_that_of_weighted_least_squares():
    x, y, error = np.array([0.1, 0.3, 1.0]), np.array([1.0, 2.0, 2.5]), np.array([0.1, 0.2, 0.3])
    found = temperature.line(x, y, error)
    design = np.stack([np.ones(3), x], 1) / error[:, None]
    covariance = np.linalg.inv(design.T @ design)
    assert (found.intercept, found.slope) == pytest.approx(tuple(covariance @ design.T @ (y / error)))
    assert found.error == pytest.approx(math.sqrt(covariance[1, 1]))


def test_the_regressions_interval_covers():
    """2000 curves: sd of the coverage 0.5 %."""
    random, error = np.random.default_rng(0), np.array([0.02, 0.03, 0.02, 0.04, 0.03])
    found = [made(1.5 + error * random.normal(size=5), error) for _ in range(2000)]
    assert 0.935 <= np.mean([each.low <= 1.5 <= each.high for each in found]) <= 0.97
    assert np.mean([each.llc for each in found]) == pytest.approx(1.5, abs=0.003)
    assert np.mean([each.verdict != "linear" for each in found]) == pytest.approx(0.01, abs=0.008)


EXACT = {3: 0.361, 4: 0.391, 5: 0.411, 6: 0.425}
"""log10 n → λ̂ of (w1 w2)² at β = 1/log n and γ = 1, by quadrature; λ = ½, m = 2."""


def test_a_multiplicity_of_two_is_extrapolated():
    nbeta = [10**k / math.log(10**k) for k in EXACT]
    found = temperature.at_multiplicity(nbeta, np.array(list(EXACT.values())), 0.0005 * np.ones(4), 2)
    assert found.llc == pytest.approx(0.5, abs=0.005)
    line = temperature.fit(
        [Point(t, t / 200, llc, 0.0005, None, None) for t, llc in zip(nbeta, EXACT.values(), strict=True)]
    )
    assert line is not None and line.llc < 0.43 and line.verdict == "λ̂ depends on β"
    assert line.extrapolated == found.llc


def test_the_extrapolations_interval_covers():
    """1000 curves of λ = ½ with the constant c = 2: sd of the coverage 0.7 %."""
    random, error = np.random.default_rng(1), 0.005 * np.ones(5)
    curve = 0.5 - 1 / (np.log(NBETA) + 2)
    found = [temperature.at_multiplicity(NBETA, curve + error * random.normal(size=5), error, 2) for _ in range(1000)]
    assert 0.92 <= np.mean([each.low <= 0.5 <= each.high for each in found]) <= 0.98
    assert np.median([each.llc for each in found]) == pytest.approx(0.5, abs=0.01)


def test_what_neither_fits_is_said_and_not_extrapolated():
    found = made(10 - 155 / NBETA, 1e-5 * np.ones(5))  # a quadratic minimum whose γ is felt
    assert found.verdict == "λ̂ depends on β"
    assert found.extrapolated is None and found.extrapolated_chi2 > 1e3
    assert found.error > 0.01  # widened, from some 1e-6; even so it need not hold λ
    assert found.llc < 10 and found.high < 10


def test_two_temperatures_cannot_be_checked_and_one_is_no_fit():
    assert temperature.fit(points(np.ones(5), np.ones(5))[:1]) is None
    found = temperature.fit(points(np.ones(5), 0.1 * np.ones(5))[:2])
    assert found is not None and found.verdict == "not checked" and found.chi2_reduced is None


def run(target, beta, llc, gamma=1.0, status="ok", sampler="hmc", slope=None):
    values = {
        "sampler": sampler,
        "n": 200,
        "beta": beta,
        "gamma": gamma,
        "llc_mean": llc,
        "llc_mcse": 0.01,
        "status": status,
    }
    values["sensitivities"] = VERSION_1["sensitivities"] | {"dllc_dlog_beta": slope}
    run_id = f"run_{sampler}_{beta}_{gamma}_{status}"
    return RunRecord(
        state="done",
        target_id=target,
        run_id=run_id,
        directory=Path(target) / run_id,
        settings={"model.kind": "mlp", "data.n_data": 200, "seed": 0, "sampler.chains": 4, "posterior.beta": beta},
        summary=Summary.from_json(VERSION_1 | values, "analysis.json"),
    )  # fmt: skip


def test_runs_are_fitted_by_target_sampler_and_gamma():
    wbic = 1 / math.log(200)
    runs = [run("tgt_a", beta, 3.0, gamma) for beta in (wbic, 1.0, 5.0) for gamma in (1.0, 10.0)]
    runs += [run("tgt_b", beta, 4.0) for beta in (1.0, 5.0)] + [run("tgt_b", 9.0, 400.0, status="bad")]
    runs += [run("tgt_b", 1.0, 4.0, sampler="sgld")]
    found = {(each.matched["target_id"], each.matched["gamma"]): each for each in temperature.fits(runs, table.COLUMNS)}
    assert set(found) == {("tgt_a", 1.0), ("tgt_a", 10.0), ("tgt_b", 1.0)}
    assert found["tgt_a", 1.0].llc == pytest.approx(3.0)
    assert found["tgt_a", 1.0].wbic == pytest.approx(3.0) and found["tgt_a", 1.0].wbic_error == pytest.approx(0.01)
    assert (found["tgt_b", 1.0].llc, found["tgt_b", 1.0].bad, found["tgt_b", 1.0].wbic) == (pytest.approx(4.0), 1, None)


def test_the_slope_is_what_the_run_recorded_else_from_the_variance():
    curve = temperature.fits([run("tgt_a", 1.0, 3.0, slope=0.25), run("tgt_a", 5.0, 3.0)], table.COLUMNS)[0].curve
    summary = run("tgt_a", 5.0, 3.0).summary
    assert curve[0].slope == 0.25
    if summary.llc_raw is not None and summary.llc_variance_estimator is not None:
        assert curve[1].slope == summary.llc_raw - summary.llc_variance_estimator


def test_the_curve_is_in_every_kind_of_output(monkeypatch, capsys, tmp_path):
    runs = [run("tgt_a", beta, 3.0 + beta, slope=0.25) for beta in (1.0, 5.0, 9.0)]
    monkeypatch.setattr(results, "scan", lambda root: runs)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()

    def printed(*words):
        monkeypatch.setattr("sys.argv", ["results.py", "--temperature", *words])
        with pytest.raises(SystemExit) as ended:
            results.main()
        assert not ended.value.code
        return capsys.readouterr().out

    (fit,) = json.loads(printed("--json"))
    assert [point["llc"] for point in fit["curve"]] == [4.0, 8.0, 12.0] and fit["temperatures"] == 3
    assert [point["slope"] for point in fit["curve"]] == [0.25] * 3 and "curve_llc" not in fit
    lines = list(csv.DictReader(printed("--csv").splitlines()))
    assert [float(line["curve_llc"]) for line in lines] == [4.0, 8.0, 12.0]
    assert [float(line["beta"]) for line in lines] == [1.0, 5.0, 9.0]
    assert [float(line["llc"]) for line in lines] == pytest.approx([fit["llc"]] * 3)
    printed("-o", "curve.csv")
    assert list(csv.DictReader((tmp_path / "curve.csv").read_text().splitlines())) == lines


def test_one_temperature_is_a_sentence():
    with pytest.raises(UserError, match="at two inverse temperatures"):
        temperature.fits([run("tgt_a", 1.0, 3.0), run("tgt_a", 5.0, 3.0, gamma=2.0)], table.COLUMNS)


def test_the_command(tiny, tool):
    outcome = tool("results", "--temperature")
    assert outcome.code == 1 and "at two inverse temperatures" in outcome.err
