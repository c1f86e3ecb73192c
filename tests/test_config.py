"""conf/ and lambda_hat/config.py: everything composes, and what cannot be run is refused in one sentence."""

import dataclasses
import math

import numpy as np
import pytest
from conftest import ROOT

from lambda_hat import config as configs
from lambda_hat.config import launcher as options
from lambda_hat.system.errors import ConfigError

GROUPS = ("model", "data", "training", "posterior", "sampler", "logger")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((ROOT / "conf" / group).glob("*.yaml"))]
CLASSES = [cls for kinds in configs.KINDS.values() for cls in kinds.values()]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What options that take a user's file need beside their name."""
    x = np.zeros((5, 8))
    pairs, weights = (tmp_path_factory.mktemp("given") / f"{name}.npz" for name in ("xy", "w"))
    np.savez(pairs, X=x, Y=x[:, :1])
    np.savez(weights, w=x)
    (pairs.parent / "net.py").write_text("def make(): ...")
    own = (f"data.path={pairs}", "data.noise_scale=1")
    network = ("model=custom", f"model.source={pairs.parent / 'net.py'}:make")
    return {
        ("data", "file"): own,
        ("model", "custom"): (network[1], "data=file", *own),
        ("data", "modular"): network,
        ("data", "digits_plain"): network,
        ("data", "features"): network,
        ("data", "sequence"): network,
        ("training", "given"): (f"training.path={weights}",),
    }


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes_and_can_be_run(compose, files, group, option):
    configs.check(compose(f"{group}={option}", *files.get((group, option), ())))


UNHASHED = [configs.Store, configs.Runtime, configs.Request, configs.Resources]


@pytest.mark.parametrize("cls", [*CLASSES, *UNHASHED, configs.Config], ids=lambda c: c.__name__)
def test_every_setting_has_a_meaning_and_no_default(cls):
    for f in dataclasses.fields(cls):
        assert f.metadata.get("meaning"), f.name
        assert f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING, f.name


@pytest.mark.parametrize("cls", [options.Here, options.Local, options.Slurm], ids=lambda c: c.__name__)
def test_every_option_of_a_launcher_has_a_meaning(cls):
    """They have defaults in their classes, as those of hydra-submitit-launcher have, from which they inherit."""
    assert [f.name for f in dataclasses.fields(cls) if not f.metadata.get("meaning")] == []


def test_every_class_is_reached_from_conf(compose, files):
    reached = {
        type(getattr(compose(f"{group}={option}", *files.get((group, option), ())), group)) for group, option in OPTIONS
    }
    assert reached == set(CLASSES)


def test_every_experiment_composes(compose):
    for path in (ROOT / "conf" / "experiment").glob("*.yaml"):
        configs.check(compose(f"experiment={path.stem}"))


def test_values_are_typed_by_the_schema(compose):
    config = compose("posterior.gamma=7", "model.widths=[4,3]", "model.depth=null", "posterior.beta=null")
    assert type(config.posterior.gamma) is float
    assert config.model.widths == [4, 3]
    assert config.posterior.beta is None


def test_the_temperature_is_one_over_log_n_or_beta_or_nbeta_over_n(compose):
    assert compose().posterior.inverse_temperature(1000) == pytest.approx(1 / math.log(1000), rel=1e-15)
    assert compose("posterior.beta=0.5").posterior.inverse_temperature(1000) == 0.5
    assert compose("posterior.nbeta=250").posterior.inverse_temperature(1000) == 0.25


DIGITS = ("data=digits", "model=small")
REFUSED = [
    (("model.depth=-1",), "model.depth must be ≥ 1 and ≤ 100; got -1"),
    (("model.widths=[]",), "model.widths must not be empty"),
    (("model.widths=[8,8,8]",), "model.depth=2 but model.widths=[8, 8, 8] has 3"),
    (("model.depth=null",), "model.widths=null needs both model.depth and model.target_params"),
    (("model.widths=[8,0]",), "model.widths must be ≥ 1"),
    (("model.kind=quadratic",), "model.kind must be one of mlp; got 'quadratic'"),
    (("model.activation=''",), "model.activation must be one of relu, tanh, gelu, identity; got ''"),
    (
        ("model=quadratic", "model.dim=3", "model.curvatures=[1,2]"),
        "model.curvatures must have model.dim=3 entries; got 2",
    ),
    (("model=quadratic", "model.dim=1", "model.curvatures=[0]"), "model.curvatures must not all be zero"),
    (("model=quadratic", "model.curvature_min=0"), "model.curvature_min must be > 0"),
    (("model=quadratic", "model.curvature_min=20"), "model.curvature_min=20.0 must not exceed"),
    (("model=normal_crossing", "model.powers=[0,0]"), "model.powers must not all be zero"),
    (("model=quadratic", "posterior.loss=mse"), "posterior.loss must be nll for model=quadratic"),
    (("data.n_data=0",), "data.n_data must be ≥ 2"),
    (("model=deep_linear", "data.teacher_rank=4"), "data.teacher_rank must be ≤ 3"),
    (("data.teacher_rank=1",), "data.teacher_rank > 0 needs a linear teacher"),
    (("data.teacher_depth=2",), "data.teacher_depth needs data.teacher_widths"),
    (("training=teacher", "data.teacher_widths=[3]"), "training=teacher takes the teacher's parameters"),
    ((*DIGITS, "training=teacher"), "training=teacher needs data with a teacher"),
    ((*DIGITS, "posterior.loss=mse"), "posterior.loss must be nll (cross-entropy)"),
    ((*DIGITS, "model.in_dim=3"), "data=digits needs model.in_dim=64"),
    (("training.batch_size=1001",), "training.batch_size must be ≤ data.n_data=1000; got 1001"),
    (("posterior.gamma=-1",), "posterior.gamma must be > 0"),
    (("posterior.gamma=0",), "posterior.gamma must be > 0"),
    (("posterior.gamma=nan",), "posterior.gamma must be > 0 and ≤ 1e+12; got nan"),
    (("posterior.gamma=inf",), "posterior.gamma must be > 0 and ≤ 1e+12; got inf"),
    (("posterior.beta=-inf",), "posterior.beta must be > 0"),
    (
        ("posterior.beta=1", "posterior.nbeta=1000"),
        "posterior.beta=1 and posterior.nbeta=1000 say the same thing twice",
    ),
    (("sampler=sgld", "sampler.batch_size=1001"), "sampler.batch_size must be ≤ data.n_data=1000; got 1001"),
    (("sampler=sgld", "sampler.precond=rmsprop", "sampler.metric=curvature"), "sampler.precond=rmsprop is defined in"),
    (("sampler.name=sgld",), "sampler.name must be one of hmc; got 'sgld'"),
    (("sampler=mclmc", "model=quadratic", "model.dim=1"), "sampler=mclmc needs at least 2 parameters"),
    (("seed=-1",), "seed must be ≥ 0"),
    (("seed=99999999999999999999",), "seed must be ≥ 0 and < 9.223e+18"),
    (("sampler.seed=-1",), "sampler.seed must be ≥ 0"),
    (("runtime.platform=tpu",), "runtime.platform must be one of auto, cpu, gpu; got 'tpu'"),
    (("store.root=",), "store.root must not be empty"),
    (("+model.foo=1",), "model.foo: there is no such setting"),
    (("+foo=1",), "foo: there is no such setting"),
]


@pytest.mark.parametrize(("overrides", "sentence"), REFUSED, ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
def test_what_cannot_be_run_is_refused_in_one_sentence_naming_the_key(compose, overrides, sentence):
    with pytest.raises(ConfigError) as refusal:
        configs.check(compose(*overrides))
    assert str(refusal.value).startswith(sentence)
    assert str(refusal.value).endswith(".")
    assert len(str(refusal.value).splitlines()) == 1


def test_all_problems_are_listed_at_once(compose):
    with pytest.raises(ConfigError) as refusal:
        configs.check(compose("model.depth=-1", "seed=-1", "posterior.gamma=nan", "sampler.draws=0"))
    lines = str(refusal.value).splitlines()
    assert sorted(line.split()[0] for line in lines) == ["model.depth", "posterior.gamma", "sampler.draws", "seed"]


def test_clashes_are_listed_at_once(compose):
    config = compose("training.batch_size=3000", "sampler=sgld", "sampler.batch_size=3000")
    assert [p.split()[0] for p in configs.problems(config)] == ["training.batch_size", "sampler.batch_size"]


def _limited():
    for cls in CLASSES:
        for f in dataclasses.fields(cls):
            if f.metadata["ge"] is not None or f.metadata["gt"] is not None:
                yield pytest.param(cls, f, id=f"{cls.__name__}.{f.name}")


@pytest.mark.parametrize(("cls", "f"), list(_limited()))
def test_every_lower_bound_refuses_what_is_just_below_and_takes_what_is_on_it(cls, f):
    def refused(value):
        group = object.__new__(cls)  # with nothing but this set
        for other in dataclasses.fields(cls):
            object.__setattr__(group, other.name, None)
        object.__setattr__(group, f.name, [value] if "list" in str(f.type) else value)
        return any(p.startswith(f"g.{f.name} ") for p in configs.range_problems({"g": group}))

    ge, gt = f.metadata["ge"], f.metadata["gt"]
    bound = ge if gt is None else gt
    assert refused(bound) is (gt is not None)
    assert refused(bound - 1)
    assert not refused(math.nextafter(bound, math.inf) if gt is not None else bound)


def test_help_of_a_group_explains_every_setting_and_every_kind(command):
    for group, kinds in configs.KINDS.items():
        text = " ".join(command("sample", "--help", group).out.split())
        for cls in kinds.values():
            assert cls.__doc__.splitlines()[0] in text
            for f in dataclasses.fields(cls):
                assert f"{group}.{f.name} " in text and f.metadata["meaning"] in text.replace("- ", "-"), f.name
    assert "runtime.platform where JAX computes; auto = a GPU if there is one (one of auto, cpu, gpu)" in " ".join(
        command("sample", "--help", "runtime").out.split()
    )
    outcome = command("sample", "--help", "smpler")
    assert outcome.code == 1 and outcome.err.endswith("Did you mean sampler?\n")
