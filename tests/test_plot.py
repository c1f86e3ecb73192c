"""Figures over swept settings: what is drawn together, what is not, where marks lie, and the command."""

import csv
import json
import math
import subprocess
import sys
import xml.etree.ElementTree

import pandas as pd
import pytest
from benchmarks.inspecting import copy
from conftest import ROOT
from test_cli import run_of

import lambda_hat
from lambda_hat import store
from lambda_hat.inspect import series
from lambda_hat.report import layout, plots
from lambda_hat.system.errors import StoreError, UserError


def row(llc=10.0, **values):
    """A run of the tidy table."""
    made = {
        **{"target_id": "tgt_0", "run_id": "run_0", "model": "mlp", "n_data": 100, "seed": 0, "sampler": "hmc"},
        **{"sampler_seed": 0, "status": "ok", "llc_mean": llc, "llc_mcse": 0.1, "llc_low95": None, "llc_high95": None},
        **{"n": 100, "beta": 0.2, "nbeta": 20.0, "gamma": 1.0, "loss": "nll", "ess": 200.0, "truth": None},
        **{"truth_finite": None, "noise_scale": None, "dtype": "float64", "estimator": 2, "target_version": 1},
    } | values
    if llc is not None and values.get("llc_low95") is None:
        made |= {"llc_low95": llc - 0.2, "llc_high95": llc + 0.2}
    return made


def sweep(**axes):
    """A row for each combination, whose λ̂ falls with γ."""
    rows = [{}]
    for name, values in axes.items():
        rows = [made | {name.replace("__", "."): value} for made in rows for value in values]
    return [row(20 / (1 + each.get("gamma", 1.0) / 100), **each) for each in rows]


def marks(ax, kinds="os^Dx"):
    """(x, y, marker) of each run that an axes shows."""
    lines = [line for line in ax.lines if line.get_marker() in kinds]
    return [(float(x), float(y), line.get_marker()) for line in lines for x, y in line.get_xydata()]


def joined(ax):
    """The lines that join means, as lists of y."""
    return [[float(y) for y in line.get_ydata()] for line in ax.lines if line.get_marker() == "None"]


def bars(ax):
    """The ends of each interval that an axes shows."""
    return [tuple(map(float, bar[:, 1])) for lines in ax.collections for bar in lines.get_segments()]


# --- what is drawn together -------------------------------------------------------------------------------------------


def test_an_interval_is_spoken_of_where_one_is_drawn():
    rows = sweep(gamma=[1.0, 10.0])
    for each in rows:
        each |= {"relative_error": -0.01, "relative_error_mcse": None, "waic": -0.8, "waic_mcse": 0.001}
    for y, has in (("llc_mean", True), ("waic", True), ("relative_error", False)):
        drawing = plots.draw(rows, x="gamma", y=y)
        assert ("95 % interval" in drawing.sentences[0]) == has
        assert ("relative_error_mcse" not in drawing.table()[0]) and len(bars(drawing.figure.axes[0])) == 2 * has


def test_seeds_are_points_and_the_line_their_mean():
    rows = sweep(gamma=[1.0, 10.0, 100.0], seed=[0, 1])
    for each in rows:
        each["llc_mean"] += each["seed"]
    (ax,) = plots.draw(rows, x="gamma").figure.axes
    assert len(marks(ax)) == 6
    assert joined(ax) == [pytest.approx([20 / (1 + gamma / 100) + 0.5 for gamma in (1, 10, 100)])]
    assert sorted({round(x, 6) for x, _, _ in marks(ax)}) == [0, 1, 2]  # log10 γ, of its own accord


@pytest.mark.parametrize("other", ["nbeta", "n_data", "model.widths", "training.steps", "loss", "estimator"])
def test_what_estimates_something_else_is_another_series(other):
    values = {"model.widths": ["[4]", "[8]"], "loss": ["nll", "mse"]}.get(other, [10, 20])
    rows = sweep(gamma=[1.0, 10.0, 100.0]) + sweep(gamma=[1.0, 10.0, 100.0])
    for i, each in enumerate(rows):
        each[other] = values[i >= 3]
        if other == "n_data":
            each["n"] = values[i >= 3]
        if other == "nbeta":
            each["beta"] = values[i >= 3] / 100
    (panel,) = series.panels(rows, "gamma")
    assert len(panel.series) == 2 and [len(each.rows) for each in panel.series] == [3, 3]
    assert len({each.label() for each in panel.series}) == 2


def test_samplers_and_their_settings_are_of_one_estimand():
    rows = sweep(gamma=[1.0, 10.0], sampler=["hmc", "sgld"], sampler__chains=[2, 4])
    (panel,) = series.panels(rows, "gamma")
    assert [each.values for each in panel.series] == [{"sampler": "hmc"}, {"sampler": "sgld"}]
    (pooled,) = series.panels(rows, "gamma", hue="sampler.chains")
    assert [each.label() for each in pooled.series] == ["chains = 2", "chains = 4"]


def test_a_setting_that_follows_the_axis_splits_nothing():
    rows = [row(10.0 + i, n_data=n, n=n, beta=1 / math.log(n), nbeta=n / math.log(n)) for i, n in enumerate((50, 500))]
    (panel,) = series.panels(rows, "n_data")
    assert [len(each.rows) for each in panel.series] == [2]


def test_panels_are_in_order_of_their_numbers():
    rows = sweep(gamma=[1.0, 10.0], model__widths=["[10]", "[4]", "[8,2]"])
    assert [panel.label() for panel in series.panels(rows, "gamma", col="model.widths")] == [
        "widths = [4]",
        "widths = [8,2]",
        "widths = [10]",
    ]


# --- marks ------------------------------------------------------------------------------------------------------------


def test_bad_runs_are_crosses_and_in_no_mean():
    rows = sweep(gamma=[1.0, 10.0, 100.0])
    rows += [row(1e6, gamma=1.0, status="bad"), row(None, gamma=1.0, status="bad"), row(19.0, gamma=1.0, status="bad")]
    drawing = plots.draw(rows, x="gamma")
    (ax,) = drawing.figure.axes
    crosses = [(y, kind) for _, y, kind in marks(ax) if kind == "x"]
    _, high = ax.get_ylim()
    assert len(crosses) == 2 and (19.0, "x") in crosses and high < 30  # the wild one lies on the edge
    assert (pytest.approx(high), "x") in crosses
    assert joined(ax) == [pytest.approx([20 / (1 + gamma / 100) for gamma in (1, 10, 100)])]
    assert "1e+06 (bad)" in " ".join(drawing.sentences) and "1 bad without a value" in " ".join(drawing.sentences)


def test_warned_runs_are_hollow_and_intervals_are_those_of_the_runs():
    rows = [row(10.0, status="warn", gamma=1.0, llc_low95=8.0, llc_high95=13.0), row(11.0, gamma=2.0)]
    (ax,) = plots.draw(rows, x="gamma").figure.axes
    hollow = [line for line in ax.lines if line.get_marker() == "o" and line.get_markerfacecolor() == "none"]
    assert [float(line.get_ydata()[0]) for line in hollow] == [10.0]
    assert (8.0, 13.0) in bars(ax)


def test_other_columns_have_their_standard_errors():
    assert series.interval_of({"waic": 2.0, "waic_mcse": 0.1}, "waic") == pytest.approx((1.804, 2.196))
    assert series.interval_of({"ess": 2.0}, "ess") == (None, None)
    (ax,) = plots.draw(sweep(gamma=[1.0, 2.0]), x="gamma", y="ess").figure.axes
    assert ax.get_ylabel() == "ESS" and {y for _, y, _ in marks(ax)} == {200.0}


def test_known_values_are_marked():
    rows = [row(10.0, gamma=gamma, truth=9.5, truth_finite=9.0 + gamma) for gamma in (1.0, 2.0)]
    drawing = plots.draw(rows, x="gamma")
    exact = [float(line.get_ydata()[0]) for line in drawing.figure.axes[0].lines if line.get_marker() == "_"]
    assert exact == [10.0, 11.0] and "exact λ̂" in " ".join(drawing.sentences)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 10, 100], True),
        ([1, 2, 3], False),
        ([0, 1, 100], True),
        ([-1, 1, 100], False),
        ([5, 5], False),
        ([], False),
    ],
)
def test_axes_are_logarithmic_by_themselves(values, expected):
    assert series.is_log(values) is expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([10, 38, 150], True),
        ([2, 4, 8], True),
        ([1, 2, 3], False),
        ([100, 110, 120], False),
        ([0, 1, 10], False),
        ([2, 8], False),
        ([-1, 1, 4], False),
    ],
)
def test_values_with_even_ratios_stand_on_a_logarithmic_axis(values, expected):
    assert series.is_geometric(values) is expected
    assert layout.Places(values).log is expected or series.is_log(values)


def test_zero_stands_left_of_a_logarithmic_axis():
    rows = [row(10.0, gamma=gamma) for gamma in (0.0, 1.0, 100.0)]
    (ax,) = plots.draw(rows, x="gamma").figure.axes
    places = [x for x, _, _ in marks(ax)]
    assert places == sorted(places) and len(set(places)) == 3
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "100"]


def test_texts_stand_side_by_side():
    rows = sweep(model__widths=["[8]", "[16]"])
    (ax,) = plots.draw(rows, x="widths").figure.axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["[8]", "[16]"]


def test_many_series_have_a_colour_or_a_marker_of_their_own():
    rows = sweep(gamma=[1.0, 10.0], sampler=["hmc", "sgld", "mclmc"], nbeta=[10.0, 20.0, 30.0, 40.0])
    for each in rows:
        each["beta"] = each["nbeta"] / 100
    styles = plots._Styles(series.panels(rows, "gamma"))
    looks = {styles.of(each.values) for each in series.panels(rows, "gamma")[0].series}
    assert len(looks) == 12 and len({colour for colour, _, _ in looks}) == 3


# --- grids and plateaus -----------------------------------------------------------------------------------------------


def grid_of(value, gammas=(1.0, 10.0, 100.0, 1000.0), nbetas=(10.0, 100.0), **more):
    """A grid with λ̂ = value(γ, nβ)."""
    rows = [
        row(value(gamma, nbeta), gamma=gamma, nbeta=nbeta, beta=nbeta / 100, **more)
        for gamma in gammas
        for nbeta in nbetas
    ]
    (grid,) = series.grids(rows, "gamma", "nbeta")
    return grid


def test_a_plateau_is_the_widest_rectangle_on_which_the_estimate_stays():
    grid = grid_of(lambda gamma, nbeta: 5.0 if gamma <= 100 else 2.0)
    found = series.plateau(grid)
    assert (found.x, found.y, found.cells) == ((1.0, 100.0), (10.0, 100.0), 6)
    assert series.sentence(grid) == "Plateau: λ̂ is 5 to 5 for γ from 1 to 100 and nβ from 10 to 100 (6 settings)."


def test_a_plateau_along_one_axis():
    grid = grid_of(lambda gamma, nbeta: 5.0 * (1 if nbeta == 10 else gamma))
    assert series.plateau(grid).y == (10.0, 10.0) and series.plateau(grid).x == (1.0, 1000.0)
    assert "nβ = 10" in series.sentence(grid)


def test_no_plateau_where_it_falls_everywhere():
    grid = grid_of(lambda gamma, nbeta: nbeta / gamma**0.5)
    assert series.plateau(grid) is None and series.sentence(grid).startswith("No plateau: nowhere")


def test_noise_alone_does_not_end_a_plateau_and_no_bad_run_is_on_one():
    noisy = lambda gamma, nbeta: 5.0 + (0.4 if gamma == 10 else -0.4)
    assert series.plateau(grid_of(noisy)).cells == 4
    assert series.plateau(grid_of(noisy, llc_mcse=0.4)).cells == 8
    grid = grid_of(lambda gamma, nbeta: 5.0)
    for each in grid.cells[10.0, 10.0] + grid.cells[10.0, 100.0]:
        each["status"] = "bad"
    assert series.plateau(grid).x == (100.0, 1000.0)


def test_two_settings_are_no_plateau():
    assert series.sentence(grid_of(lambda gamma, nbeta: 5.0, (1.0, 1000.0), (10.0,))) == (
        "No plateau can be told from 2 settings with a usable run."
    )


def test_a_heat_map_has_the_means_and_never_pools():
    rows = sweep(gamma=[1.0, 10.0], nbeta=[10.0, 20.0], seed=[0, 1], model__widths=["[4]", "[8]"])
    for each in rows:
        each["beta"] = each["nbeta"] / 100
        each["llc_mean"] = each["gamma"] + each["nbeta"] + each["seed"]
    figure = plots.draw(rows, x="gamma", heat="nbeta").figure
    maps = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in maps] == ["widths = [4]", "widths = [8]"]
    assert maps[0].images[0].get_array().tolist() == [[11.5, 20.5], [21.5, 30.5]]
    assert [tick.get_text() for tick in maps[0].get_yticklabels()] == ["10", "20"]


def test_the_calibration_page_has_a_line_for_each_network_and_sampler():
    rows = sweep(gamma=[1.0, 10.0, 100.0], nbeta=[10.0, 20.0], sampler=["hmc", "sgld"])
    for each in rows:
        each |= {"beta": each["nbeta"] / 100, "relative_distance": 0.1, "stein_residual": 0.01}
    drawing = plots.calibration(rows)
    assert len([ax for ax in drawing.figure.axes if ax.images or ax.patches]) >= 8
    assert [sentence.partition(":")[0] for sentence in drawing.sentences] == ["hmc", "sgld"]
    with pytest.raises(UserError, match="sweep them"):
        plots.calibration(sweep(seed=[0, 1]))


# --- what it is asked for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x": None}, UserError, "x= is missing, the setting on the x axis; these vary here: gamma"),
        ({"x": "gama"}, StoreError, "did you mean gamma"),
        ({"x": "gamma", "y": "status"}, UserError, "status holds no number, such as ok; draw a statistic"),
        ({"x": "gamma", "y": "truth"}, UserError, "truth is not known of any of these runs"),
        ({"x": "gamma", "hue": "seed", "heat": "nbeta"}, UserError, "do not go together"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        plots.draw(sweep(gamma=[1.0, 10.0]), **options)


def test_too_many_panels_are_refused():
    with pytest.raises(UserError, match="30 panels, more than 24"):
        plots.draw(sweep(gamma=[1.0], model__dim=list(range(30))), x="gamma", col="dim")


@pytest.fixture
def seeds(tiny):
    """The tiny store with three seeds of its hmc run, one of which is bad."""
    run = run_of(tiny, "hmc")
    made = [run, copy(run, 1), copy(run, 2)]
    for i, status in enumerate(("ok", "warn", "bad")):
        path = made[i] / "analysis.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": status, "status_reasons": []}))
        store.seal(made[i])
    return made


def test_the_command_draws_figures_and_their_data(seeds, tool, tmp_path):
    outcome = tool("plot", "x=sampler.seed", "sampler=hmc")
    assert outcome.code == 0, outcome.text
    svg, png, data = (tmp_path / "runs" / "plots" / f"llc_mean_sampler.seed{end}" for end in (".svg", ".png", ".csv"))
    assert all(str(path.relative_to(tmp_path)) in outcome.out for path in (svg, png, data)) and "3 runs" in outcome.out
    assert xml.etree.ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    lines = list(csv.DictReader(data.read_text().splitlines()))
    assert sorted(line["sampler_seed"] for line in lines) == ["0", "1", "2"]
    assert sum(line["status"] == "bad" for line in lines) == 1
    assert {"llc_mean", "llc_mcse", "llc_low95", "llc_high95", "target_id", "run_id"} <= set(lines[0])
    again = svg.read_bytes()
    assert tool("plot", "x=sampler.seed", "sampler=hmc").code == 0 and svg.read_bytes() == again


def test_the_command_leaves_everything_else_as_it_was(seeds, tool, tmp_path):
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    outcome = tool("plot", "x=sampler", "y=ess", "-o", "out/ess.pdf", "--json")
    assert outcome.code == 0, outcome.text
    assert json.loads(outcome.out)["files"] == ["out/ess.pdf", "out/ess.csv"] and json.loads(outcome.out)["runs"] == 4
    assert (tmp_path / "out" / "ess.pdf").read_bytes().startswith(b"%PDF")
    after = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert before == after


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "x= is missing"),
        (("x=",), "x= has no value"),
        (("x=seed", "x=gamma"), "given twice"),
        (("x=seed,gamma",), "takes one setting"),
        (("x=seed", "-o", "figure.bmp"), "ends in .svg, .png, .pdf"),
        (("x=seed", "status=failed"), "no run there matches"),
        (("--calibration", "x=seed"), "leave x= out"),
        (("--calibration",), "no two runs"),
        (("x=widthz",), "no such setting"),
        (("x=seed", "y=sampler"), "holds no number"),
    ],
)
def test_wrong_words_are_a_sentence_and_draw_nothing(words, message, tiny, tool, tmp_path):
    outcome = tool("plot", *words)
    assert outcome.code == 1 and message in outcome.err and "Traceback" not in outcome.err
    assert outcome.err.count("\n") == 1 and not (tmp_path / "runs" / "plots").exists()


def test_it_imports_no_jax(tiny, tmp_path):
    argv = [sys.executable, "-X", "importtime", str(ROOT / "bin" / "plot.py"), "x=sampler"]
    outcome = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in outcome.stderr.splitlines()}
    assert "matplotlib.figure" in imported
    assert not imported & {"jax", "blackjax", "arviz", "pandas", "hydra", "matplotlib.pyplot"}


def test_the_front_door_takes_a_root_or_a_frame(seeds, tmp_path):
    root = tmp_path / "runs"
    whole = lambda_hat.plot(root, x="sampler.seed", sampler="hmc")
    assert len(marks(whole.axes[0])) == 3
    frame = lambda_hat.load_results(root)
    part = lambda_hat.plot(frame[frame["status"] != "bad"], x="sampler_seed", hue="sampler")
    assert isinstance(frame, pd.DataFrame) and len(marks(part.axes[0])) == 2  # those of hmc that are not bad
    with pytest.raises(UserError, match="choose rows of the DataFrame"):
        lambda_hat.plot(frame, x="seed", sampler="hmc")
    table = lambda_hat.load_results(root, sampler="hmc")
    assert table["nbeta"].iloc[0] == pytest.approx(table["n"].iloc[0] * table["beta"].iloc[0])
    assert table["relative_distance"].isna().all()  # w0 of the quadratic is 0
    assert table["stein_residual"].iloc[0] == pytest.approx(
        table["stein_mean"].iloc[0] / table["stein_expected"].iloc[0] - 1
    )
