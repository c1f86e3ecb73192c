"""Command lines as people type them: order, homes, quotes, and what is refused before anything is composed."""

import os

import pytest
from conftest import TINY

from lambda_hat.config import options, overrides, sweeps
from lambda_hat.system.errors import ConfigError

RUN_DIR = ("--cfg", "job", "--resolve", "-p", "store.run_dir")


@pytest.mark.parametrize(
    "typed",
    [
        ("store.root=x", *RUN_DIR, *TINY),
        (*TINY, "--cfg", "job", "store.root=x", "--resolve", "-p", "store.run_dir"),
        (*RUN_DIR, *TINY, "--", "store.root=x"),
        ("--cfg=job", "store.root=x", "-p", "store.run_dir", *TINY, "--resolve"),
    ],
)
def test_flags_and_overrides_may_come_in_any_order(command, typed):
    outcome = command("sample", *typed)
    assert outcome.code == 0, outcome
    assert outcome.out.startswith("x/targets/tgt_1885956a7750/run_hmc_")


def test_overrides_may_stand_on_both_sides_of_m(tiny, command):
    outcome = command("sample", *TINY, "-m", "sampler=hmc,mclmc")
    assert outcome.code == 0, outcome
    assert [line.split()[0] for line in outcome.out.splitlines() if "λ̂ =" in line] == ["hmc", "mclmc"]


@pytest.mark.parametrize("typed", ["~/runs", "'~/runs'", '"~/runs"'])
def test_a_path_may_begin_with_the_home(command, monkeypatch, typed):
    monkeypatch.setenv("HOME", "/home/somebody")
    outcome = command("sample", f"store.root={typed}", *RUN_DIR)
    assert outcome.out.startswith("/home/somebody/runs/targets/")


def test_a_hint_about_quotes_is_itself_a_command_that_works(command):
    refused = command("sample", "store.root=/tmp/a=b", *RUN_DIR)
    assert refused.code == 1
    hint = refused.err.rpartition("'store")[2].removesuffix("'.\n")
    assert command("sample", f"store{hint}", *RUN_DIR).out.startswith("/tmp/a=b/targets/")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("seed=1", "seed=2"), "seed is set twice, by seed=1 and seed=2"),
        (("sampler=hmc", "sampler=sgld"), "sampler is set twice, by sampler=hmc and sampler=sgld"),
        (("-m", "seed=1,2", "+seed=3"), "seed is set twice, by seed=1,2 and +seed=3"),
        (("resources/model=nope",), "resources/model=nope: there is no such option; expected one of base, wide."),
        (
            ("model=custom", "data=digits"),
            "data=digits sets model.in_dim, which this model (Custom) does not have: choose another data (digits_plain sets no "
            "sizes) or another model.",
        ),
        (("local=nope",), "local=nope: there is no such option"),
        (("hydra.output_subdir=.hydra",), "hydra.output_subdir cannot be set"),
        (("hydra.run.dir=here",), "hydra.run.dir cannot be set"),
        (("-m", "hydra.sweep.dir=here"), "hydra.sweep.dir cannot be set"),
        (("hydra.job.chdir=true",), "hydra.job.chdir cannot be set"),
        (("hydra/sweeper=basic",), "hydra/sweeper cannot be set; it stays local"),
        (("hydra/job_logging=default",), "hydra/job_logging cannot be set; it stays plain"),
        (("-sc", "query=bash"), "query=… is how a shell asks for completions"),
        (("model.widths=[[4]]",), "model.widths must be a list such as [16,16]; got [[4]]."),
        (("model.widths={a:1}",), "model.widths must be a list such as [16,16]"),
        (("model=quadratic", "model.curvatures=[[1.0]]"), "model.curvatures must be a list such as [0.5,2.0]"),
    ],
)
def test_what_hydra_would_take_otherwise_than_it_was_meant_is_one_sentence(
    command, monkeypatch, tmp_path, words, sentence
):
    monkeypatch.delenv("COMP_LINE", raising=False)
    outcome = command("sample", *words)
    assert outcome.code == 1 and outcome.out == "", outcome
    assert outcome.err.startswith(sentence) and outcome.err.count("\n") == 1, outcome
    assert list(tmp_path.iterdir()) == []


def test_a_huge_sweep_is_refused_with_its_count_before_it_is_made():
    with pytest.raises(ConfigError, match=r"The sweep has 19999998 combinations \(9999999 of seed × 2 of sampler\)"):
        sweeps.combinations(["seed=range(1,10000000)", "sampler=hmc,sgld"], None, None, 10_000, None)


def test_combinations_are_the_product_and_the_command_line_goes_before_an_experiment():
    made = sweeps.combinations(["seed=range(1,3)", "a.b=x,[1,2]"], {"seed": "7,8", "c": "choice(1,2)"}, None, 8, None)
    assert made == [[f"c={c}", f"seed={seed}", f"a.b={b}"] for c in "12" for seed in "12" for b in ("x", "[1,2]")]
    with pytest.raises(ConfigError, match="an interval has no values"):
        sweeps.combinations(["seed=interval(0,1)"], None, None, 8, None)


def test_every_flag_that_takes_a_value_keeps_it():
    for flag in overrides.TAKE_A_VALUE:
        assert overrides.arranged(["a=1", flag, "value", "b=2"]) == ([flag, "value"], ["a=1", "b=2"])
    assert overrides.arranged(["--info", "a=1"]) == (["--info"], ["a=1"])
    assert overrides.arranged(["--info", "searchpath", "a=1"]) == (["--info", "searchpath"], ["a=1"])


def test_the_groups_are_the_directories_of_conf():
    assert {"model", "data", "sampler", "training"} <= set(options.groups())
    assert "schema" not in options.groups() and os.path.isfile(options.conf_directory() / "config.yaml")
