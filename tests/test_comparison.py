"""Differences of λ̂ between settings: on records written by hand and on thousands of simulated groups with a planted difference."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from benchmarks.inspecting import copy
from scipy import stats
from test_cli import run_of

from lambda_hat.analysis.summary import Summary
from lambda_hat.inspect import comparison, table
from lambda_hat.inspect.records import RunRecord, flat
from lambda_hat.system.errors import StoreError, UserError

VERSION_1 = json.loads((Path(__file__).parent / "analysis_version1.json").read_text())


def run(widths, seed, llc, mcse=0.1, sampler="hmc", status="ok", n=200, beta=5.0, gamma=1.0, target=None, number=0):
    """A finished run as the reader gives it."""
    posterior = {"loss": "nll", "beta": beta, "gamma": gamma}
    values = {
        "sampler": sampler,
        "n": n,
        "beta": beta,
        "gamma": gamma,
        "llc_mean": llc,
        "llc_mcse": mcse,
        "status": status,
    }
    target = target or f"tgt_{widths}_{seed}_{n}"
    run_id = f"run_{sampler}_{number:04d}_{beta}_{gamma}"
    groups = {"model": {"kind": "mlp", "widths": [widths]}, "data": {"n_data": n}, "seed": seed}
    return RunRecord(
        state="done",
        target_id=target,
        run_id=run_id,
        directory=Path(target) / run_id,
        settings=flat(groups | {"sampler": {"name": sampler, "seed": number}, "posterior": posterior}),
        summary=Summary.from_json(VERSION_1 | values, "analysis.json"),
    )


def compared(runs, key="model.widths", resolution=None):
    return comparison.compare(runs, key, table.COLUMNS, resolution)


A, B = [10.0, 12.0, 11.0, 13.0], [20.0, 24.0, 22.0]


def test_welchs_interval_is_the_textbooks():
    runs = [run(4, i, x) for i, x in enumerate(A)] + [run(8, 10 + i, x) for i, x in enumerate(B)]
    (found,) = compared(runs)
    error = math.sqrt(np.var(A, ddof=1) / 4 + np.var(B, ddof=1) / 3)
    assert (found.a.value, found.b.value, found.method) == ("[4]", "[8]", "Welch")
    assert (found.difference, found.error) == pytest.approx((11.5 - 22.0, error))
    reference = stats.ttest_ind(A, B, equal_var=False)
    low, high = reference.confidence_interval()
    assert found.freedom == pytest.approx(reference.df)
    assert found.freedom == pytest.approx(3.2347, abs=1e-4)  # (5/12 + 4/3)² / ((5/12)²/3 + (4/3)²/2)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.probability == pytest.approx(reference.pvalue / 2)


def test_runs_of_a_target_are_averaged_first_and_bad_ones_do_not_count():
    runs = [run(4, i, x + shift, number=j) for i, x in enumerate(A) for j, shift in enumerate((-1, 1))]
    runs += [run(8, 10 + i, x) for i, x in enumerate(B)] + [run(8, 19, 1e6, status="bad")]
    (found,) = compared(runs)
    assert (found.a.runs, found.a.seeds, found.b.runs, found.b.bad, found.b.seeds) == (8, 4, 4, 1, 3)
    assert found.difference == pytest.approx(-10.5)
    assert found.a.scatter == pytest.approx(np.std(A, ddof=1))
    assert found.a.mcse == pytest.approx(0.1 / math.sqrt(2))


def test_with_one_seed_only_the_samplers_error_is_known_and_said():
    (found,) = compared([run(4, 0, 10.0, 0.3), run(8, 0, 11.0, 0.4)])
    assert (found.error, found.freedom, found.method, found.seeds_needed) == (
        pytest.approx(0.5),
        math.inf,
        "sampler only",
        None,
    )
    assert (found.low, found.high) == pytest.approx((-1 - 0.98, -1 + 0.98), abs=1e-3)
    assert found.probability == pytest.approx(0.02275, abs=1e-5)  # Φ(−2)
    assert "one seed: scatter over seeds unknown" in found.note
    (found,) = compared([run(4, 0, 10.0, 0.3), *(run(8, i, x) for i, x in enumerate(B))])
    assert "one seed of A" in found.note
    assert found.error == pytest.approx(math.sqrt(0.09 + 4 / 3))


def test_the_same_targets_are_paired():
    runs = [run(4, i, x, gamma=g, target=f"tgt_{i}") for i, x in enumerate(A) for g in (1.0,)]
    runs += [
        run(4, i, x + d, gamma=9.0, target=f"tgt_{i}")
        for i, (x, d) in enumerate(zip(A, (1, 1.2, 0.9, 1.1), strict=True))
    ]
    (found,) = compared(runs, "gamma")
    assert found.method == "paired" and found.freedom == 3
    assert found.error == pytest.approx(np.std([1, 1.2, 0.9, 1.1], ddof=1) / 2)
    (found,) = compared([each for each in runs if each.settings["seed"] < 2], "gamma")
    assert found.method == "Welch"


def test_only_what_agrees_in_all_else_is_compared():
    runs = [
        run(w, i, w + 0.1 * i, sampler=s, gamma=g)
        for w in (4, 8)
        for i in range(2)
        for s in ("hmc", "sgld")
        for g in (1.0, 9.0)
    ]
    found = compared(runs)
    assert sorted((each.matched["sampler"], each.matched["gamma"]) for each in found) == [
        ("hmc", 1.0), ("hmc", 9.0), ("sgld", 1.0), ("sgld", 9.0)]  # fmt: skip
    assert all(each.a.runs == each.b.runs == 2 for each in found)
    with pytest.raises(UserError, match="no two groups agree"):
        compared([run(4, 0, 1.0, gamma=1.0), run(8, 0, 1.0, gamma=2.0)])
    with pytest.raises(UserError, match="no two groups agree"):
        compared([run(4, 0, 1.0), run(8, 0, 1.0, sampler="sgld")])


def test_n_may_differ_where_it_is_what_is_compared_and_what_follows_is_said():
    runs = [run(4, i, 1.0 + i, n=n, beta=5.0, target=f"tgt_{n}_{i}") for n in (200, 400) for i in range(3)]
    for record in runs:
        del record.settings["posterior.beta"]  # as with 1/log n
        object.__setattr__(record.summary.estimand, "beta", 1 / math.log(record.summary.estimand.n))
    (found,) = compared(runs, "n_data")
    assert (found.a.value, found.b.value) == (200, 400)
    assert "beta 0.1887 / 0.1669" in found.note
    with pytest.raises(UserError, match="no two groups agree"):
        compared([run(4, 0, 1.0, n=200, beta=5.0), run(4, 0, 1.0, n=400, beta=7.0)], "n_data")


def test_two_sides_by_filters():
    runs = [run(w, i, w + 0.1 * i, sampler=s) for w in (4, 8, 9) for i in range(3) for s in ("hmc", "sgld")]
    sides = [("model.widths", ["[4]"])], [("model.widths", ["[8]"]), ("sampler", ["hmc"])]
    (found,) = comparison.compare_sides(runs, *sides, table.COLUMNS)
    assert found.difference == pytest.approx(-4)
    assert (found.a.value, found.b.value) == ("model.widths=[4]", "model.widths=[8] sampler=hmc")
    with pytest.raises(UserError, match="name what may differ in both"):
        comparison.compare_sides(
            runs, [("model.widths", ["[4]"])], [("widths", ["[8]"]), ("sampler", ["nuts"])], table.COLUMNS
        )
    with pytest.raises(UserError, match="both keep"):
        comparison.compare_sides(runs, [("model.widths", ["[4]"])], [("sampler", ["hmc"])], table.COLUMNS)


# --- against simulation -----------------------------------------------------------------------------------------------


def test_intervals_cover_and_probabilities_are_calibrated():
    """3000 data sets, difference 1 between groups of 4 and 7 seeds whose scatters are 1 and 2; sd of the coverage 0.4 %."""
    random, covered, tail = np.random.default_rng(0), 0, []
    for _ in range(3000):
        a, b = random.normal(1, 1, 4), random.normal(0, 2, 7)
        parts = [np.var(a, ddof=1) / 4, np.var(b, ddof=1) / 7]
        freedom, error = comparison.satterthwaite(parts, [3, 6]), math.sqrt(sum(parts))
        gap = a.mean() - b.mean()
        covered += abs(gap - 1) <= comparison._quantile(freedom, 0.975) * error
        tail.append(comparison._student(freedom, (gap - 1) / error))
    assert 0.935 <= covered / 3000 <= 0.965
    assert np.mean(np.array(tail) < 0.1) == pytest.approx(0.1, abs=0.02)
    assert np.mean(np.array(tail) < 0.9) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("gap", [1.0, 0.0])
def test_the_whole_way_covers_too(gap):
    """400 stores of ten runs: the interval holds the planted difference, and P(A > B) is uniform where there is none."""
    random, covered, probabilities = np.random.default_rng(1), 0, []
    for _ in range(400):
        runs = [run(4, i, random.normal(gap, 1)) for i in range(5)] + [run(8, i, random.normal(0, 1)) for i in range(5)]
        found = comparison.difference("a", runs[:5], "b", runs[5:])
        covered += found.low <= gap <= found.high
        probabilities.append(found.probability)
    assert 0.92 <= covered / 400 <= 0.98
    if gap == 0:
        assert np.quantile(probabilities, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.08)


@pytest.mark.parametrize(("variances", "wanted"), [([1.0, 1.0], 1.0), ([1.0, 9.0], 2.0), ([0.5], 0.6)])
def test_the_seeds_needed_give_that_power(variances, wanted):
    count = comparison.seeds_needed(variances, wanted)
    random, size = np.random.default_rng(2), 20000
    for seeds, enough in ((count, True), (count - 2, False)):
        draws = [random.normal(0, math.sqrt(v), (size, seeds)) for v in variances]
        gap = wanted + sum(sign * each.mean(1) for sign, each in zip((1, -1), draws, strict=False))
        parts = np.array([each.var(1, ddof=1) / seeds for each in draws])
        freedom = parts.sum(0) ** 2 / (parts**2 / (seeds - 1)).sum(0)
        limits = np.array([comparison._quantile(each, 0.975) for each in freedom])
        found = np.mean(np.abs(gap) > limits * np.sqrt(parts.sum(0)))
        assert (found >= 0.79) if enough else (found < 0.80)


def test_seeds_needed_are_the_textbooks():
    assert comparison.seeds_needed([1.0, 1.0], 1.0) == 17  # d = 1, two-sided 5 %, power 0.8 (Cohen 1988, table 2.4.1)
    assert comparison.seeds_needed([1.0, 1.0], 0.5) == 64
    assert comparison.seeds_needed([1.0], 0.5) == 34  # one sample
    assert comparison.seeds_needed([1.0, 1.0], 1e-9) is None
    assert comparison.seeds_needed([1.0, 1.0], 0.0) is None


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_what_it_compares(tiny, tool, tmp_path):
    for made in [run_of(tiny, name) for name in ("hmc", "mclmc")]:
        for seed in (1, 2):
            copy(made, seed)
    (found,) = json.loads(tool("results", "compare=sampler", "status=warn,bad,ok", "--json").out)
    assert (found["value_a"], found["value_b"], found["runs_a"]) == ("hmc", "mclmc", 3)
    outcome = tool("results", "a=sampler=hmc", "b=sampler=mclmc", "resolution=0.5")
    assert outcome.code == 0 and "a difference of 0.5" in outcome.out and "sampler=hmc" in outcome.out
    assert tool("results", "compare=sampler", "-o", "d.csv").code == 0
    assert (tmp_path / "d.csv").read_text().startswith("value_a,runs_a,bad_a")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("compare=smapler",), "Did you mean sampler?"),
        (("compare=status",), "is no setting"),
        (("compare=model.dim",), "all have 2"),
        (("compare=",), "compare= has no value"),
        (("compare=sampler,seed",), "takes one setting"),
        (("a=sampler=hmc",), "go together"),
        (("a=hmc", "b=sampler=mclmc"), "expected filters"),
        (("compare=sampler", "groupby=sampler"), "one at a time"),
        (("compare=sampler", "--temperature"), "one at a time"),
        (("compare=sampler", "resolution=-1"), "a positive number"),
        (("resolution=1",), "give compare= too"),
        (("compare=sampler", "compare=seed"), "given twice"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(tiny, tool, argv, sentence):
    outcome = tool("results", *argv)
    assert outcome.code == 1 and sentence in outcome.err and "Traceback" not in outcome.text
    assert len(outcome.err.strip().splitlines()) == 1


def test_an_unknown_setting_is_named():
    with pytest.raises(StoreError, match="no run here has such a setting"):
        compared([run(4, 0, 1.0)], "model.height")
