"""Command lines nobody meant: each runs, or stops before any work with a sentence, exit code 1 or 2, and nothing written.

LAMBDA_HAT_FUZZ says how many lines to try (250).
"""

import os

import pytest
from conftest import TINY
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lambda_hat.commands import main as cli
from lambda_hat.config import HASHED, KINDS, Config, Runtime, Store
from lambda_hat.jobs import memory
from lambda_hat.launch import local

LINES = int(os.environ.get("LAMBDA_HAT_FUZZ", "250"))

GROUPS = ("model", "data", "training", "posterior", "sampler", "truth", "experiment", "hydra/launcher", "hydra/sweeper")
OPTIONS = sorted({path.stem for group in GROUPS for path in (cli.CONF / group).glob("*.yaml")})
FIELDS = sorted(
    [f"{group}.{name}" for group in HASHED for kind in KINDS[group].values() for name in kind.__dataclass_fields__]
    + [f"store.{name}" for name in Store.__dataclass_fields__]
    + [f"runtime.{name}" for name in Runtime.__dataclass_fields__]
    + [
        *Config.__dataclass_fields__,
        "hydra.run.dir",
        "hydra.sweep.dir",
        "hydra.job.name",
        "hydra.verbose",
        "hydra.mode",
    ]
)
MEANT = [
    "1",
    "2",
    "0",
    "0.5",
    "1e3",
    "true",
    "false",
    "null",
    "[1,2]",
    "[0.5]",
    "relu",
    "mse",
    "none",
    "float64",
    "cpu",
]
UNMEANT = [
    *("", " ", "nan", "inf", "-inf", "-1", "-0.0", "1e400", "1e-400", "99999999999999999999999", "1.5", "0x10", "1_0"),
    *(
        "[]",
        "[[]]",
        "[nan]",
        "[1,a]",
        "[,]",
        "{}",
        "{a:1}",
        "[1",
        "'1'",
        '"a b"',
        "a b",
        "ü",
        "\\n",
        "???",
        "~",
        "=",
        "a=b",
    ),
    *(
        "${seed}",
        "${nope}",
        "${oc.env:HOME}",
        "${oc.env:NOPE,x}",
        "${store.root}",
        "${digest:run,1}",
        "${first:1}",
        "${",
    ),
    *("../x", "../../etc/passwd", "/dev/null", "/dev/null/x", ".", "..", "a/../../b", "x" * 300, "tgt_000000000000"),
    *(
        "range(2)",
        "range(-1)",
        "choice(1,2)",
        "1,2",
        "glob(*)",
        "sort(2,1)",
        "tag(a,1)",
        "shuffle(1,2)",
        "int(x)",
        "str(1)",
    ),
    *("!!python/object/apply:os.system [x]", "{_target_: os.system, command: x}", "os.system", "__import__('os')"),
]
GOOD = [
    *(
        "seed=3",
        "sampler=sgld",
        "sampler=mclmc",
        "model=base",
        "model=tanh",
        "data=digits",
        "training=sgd",
        "truth=crossing",
    ),
    *(
        "posterior.gamma=1e2",
        "posterior.beta=0.5",
        "sampler.draws=10",
        "sampler.step_size=null",
        "model.activation=relu",
    ),
    *(
        "data.n_data=100",
        "model.depth=null",
        "model.widths=[4]",
        "runtime.devices=1",
        "store.root=a b/ü",
        "strict=true",
    ),
]
KEYS = st.one_of(
    st.sampled_from(FIELDS),
    st.sampled_from(GROUPS),
    st.sampled_from(
        ["", "modle", "model.nope", "model.depth.x", "model@x", "a.b.c", "-m", "--cfg", "_target_", "store..x"]
    ),
)
VALUES = st.one_of(
    st.sampled_from(MEANT),
    st.sampled_from(UNMEANT),
    st.sampled_from(OPTIONS),
    st.integers().map(str),
    st.text(max_size=8),
)
WORDS = st.one_of(
    st.sampled_from(GOOD),
    st.sampled_from(GOOD),
    st.tuples(st.sampled_from(["", "", "", "", "+", "++", "~"]), KEYS, st.just("="), VALUES).map("".join),
    st.tuples(st.sampled_from(["~", ""]), KEYS).map("".join),
)
COMMANDS = st.tuples(st.sampled_from([(), ("-m",)]), st.lists(WORDS, min_size=1, max_size=3)).map(
    lambda line: [*line[0], *(word.replace("\0", "") for word in line[1])]
)


@pytest.fixture
def accepted(monkeypatch):
    """Jobs that were found fit to be made, which are not."""
    jobs = []

    def make(job, number):
        try:
            memory.check(job.config, job.stage)
        except memory.UserError as error:
            print(error)
            return 1
        jobs.append(job)
        return 0

    monkeypatch.setattr(local, "_make", make)
    monkeypatch.setenv("PATH", "")  # no cluster is to hear of it
    return jobs


@pytest.mark.parametrize("lines", [60, pytest.param(LINES, marks=pytest.mark.soak)])
def test_a_line_runs_or_stops_before_any_work_with_a_sentence(command, accepted, tmp_path, lines):
    seen = {0: 0, 1: 0, 2: 0}

    @settings(
        max_examples=lines,
        deadline=None,
        phases=[Phase.generate],
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(COMMANDS)
    def tried(words):
        accepted.clear()
        outcome = command("sample", *words)
        assert outcome.code in seen, outcome
        seen[outcome.code] += 1
        assert "Traceback" not in outcome.text
        assert list(tmp_path.iterdir()) == []
        if outcome.code:
            assert outcome.text.strip() and len(outcome.text) < 20_000, outcome
        for job in accepted:
            inside = os.path.normpath(job.paths.root / "targets") + os.sep
            assert os.path.normpath(job.directory).startswith(inside), job.directory

    tried()
    print(f"{sum(seen.values())} lines: {seen[0]} fit to run, {seen[1] + seen[2]} refused")
    assert seen[0] > 0.05 * lines < seen[1] + seen[2]


SMALL = [word for word in TINY if not word.startswith("model")]


@settings(
    max_examples=max(4, LINES // 200),
    deadline=None,
    phases=[Phase.generate],
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(
    field=st.sampled_from([f for f in FIELDS if f.split(".")[0] in HASHED]), value=st.sampled_from([*MEANT, *UNMEANT])
)
def test_what_is_found_fit_to_run_ends_well(command, tmp_path_factory, field, value):
    """One odd setting of a small job, made for real: a result, or a sentence."""
    root = tmp_path_factory.mktemp("odd") / "runs"
    words = [word for word in SMALL if not word.startswith(field)]
    outcome = command("sample", "model=quadratic", "model.dim=2", *words, f"{field}={value}", f"store.root={root}")
    assert outcome.code in (0, 1, 2) and "Traceback" not in outcome.text and "traceback in" not in outcome.text, outcome
    assert ("λ̂ =" in outcome.out) is (outcome.code == 0) or "have no" in outcome.text or "not finite" in outcome.text
