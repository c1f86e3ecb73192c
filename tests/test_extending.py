"""The recipes of CONTRIBUTING.md: how many files a new model, data set, sampler or statistic touches, and where it then shows.

Each is added to a copy of the source tree by appending to files or writing new ones, and used from there.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
from conftest import ROOT

SMALL = ("data.n_data=60", "runtime.devices=1", "runtime.figures=false")
CHAIN = ("sampler.draws=20", "sampler.warmup=10", "sampler.chains=2", "sampler.mcse_target=null")
CHAIN += ("sampler.metric=identity", "sampler.step_size=0.01")


class Tree:
    """A copy of the source tree that can be added to.

    Attributes:
        touched: files that were added or appended to.
    """

    def __init__(self, at, cache):
        self.at, self._cache, self.touched = at, cache, set()
        skip = shutil.ignore_patterns("__pycache__", "local")
        for name in ("lambda_hat", "conf", "bin", "slurm"):
            shutil.copytree(ROOT / name, at / name, ignore=skip)

    def add(self, path, text):
        """Append to a file, which is made where it is not there."""
        self.touched.add(path)
        with open(self.at / path, "a", encoding="utf-8") as file:
            file.write("\n\n" + textwrap.dedent(text))

    def replace(self, path, old, new):
        """Put a text in another's place, which stands there once."""
        self.touched.add(path)
        text = (self.at / path).read_text(encoding="utf-8")
        assert text.count(old) == 1, (path, old, text.count(old))
        (self.at / path).write_text(text.replace(old, new), encoding="utf-8")

    def run(self, name, *words):
        """A command of this tree, which must succeed; its output."""
        paths = os.pathsep.join([str(self.at), str(self.at / "slurm")])
        outcome = subprocess.run(
            [sys.executable, str(self.at / "bin" / f"{name}.py"), *words],
            cwd=self.at,
            env={**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        return outcome.stdout

    def sample(self, *words):
        return self.run("sample", *SMALL, *words, self._cache)

    def assert_shown(self, text, results=True):
        """That every view of the store has this text; `results` says whether the table of results is to."""
        self.run("report")
        page = (self.at / "runs" / "report.html").read_text(encoding="utf-8")
        for view in (self.run("status"), page, *([self.run("results", "--csv")] if results else ())):
            assert text in view, (text, view[-2000:])


@pytest.fixture
def tree(tmp_path, cache):
    return Tree(tmp_path, cache)


def test_a_network_takes_three_files(tree):
    tree.add(
        "lambda_hat/config/model.py",
        """
        @dataclass(frozen=True)
        class Sine(Network):
            '''One hidden layer of sines.'''

            kind: str = setting("the family", choices=("sine",))
            in_dim: int = setting("number of inputs", ge=1)
            units: int = setting("hidden units", ge=1)
            out_dim: int = setting("number of outputs", ge=1)

            def hidden(self):
                return (self.units,)
        """,
    )
    tree.add(
        "lambda_hat/targets/models.py",
        """
        from lambda_hat.config.model import Sine


        class SineNetwork(Network):
            def __init__(self, config):
                self.in_dim, self.units, self.out_dim = config.in_dim, config.units, config.out_dim

            def init(self, key):
                first, second = jax.random.split(key)
                return {
                    "in": jax.random.normal(first, (self.in_dim, self.units), jnp.float64),
                    "out": jax.random.normal(second, (self.units, self.out_dim), jnp.float64),
                }

            def apply(self, params, x):
                return jnp.sin(x @ params["in"]) @ params["out"]


        _BUILDERS[Sine] = SineNetwork
        """,
    )
    tree.add(
        "conf/model/sine.yaml",
        """
        # sin(x A) B: 2-3-1, 9 parameters.
        defaults: [/schema/model/sine@_here_, _self_]
        kind: sine
        in_dim: 2
        units: 3
        out_dim: 1
        """,
    )
    assert len(tree.touched) == 3
    assert "λ̂ =" in tree.sample("model=sine", "sampler=laplace", "training.steps=50", "training.polish_steps=20")
    tree.assert_shown("sine")
    assert "sine" in tree.run("sample", "--help")


def test_a_loss_of_the_weights_with_its_known_coefficient_takes_three_files(tree):
    tree.add(
        "lambda_hat/config/model.py",
        """
        @dataclass(frozen=True)
        class Cusp(Analytic):
            '''L(w) = w_1⁴ + w_2⁶.'''

            kind: str = setting("the family", choices=("cusp",))

            def parameters(self):
                return 2
        """,
    )
    tree.add(
        "lambda_hat/targets/models.py",
        """
        from fractions import Fraction

        from lambda_hat.config.model import Cusp


        @dataclass(frozen=True)
        class CuspLoss(Analytic):
            config: Cusp
            dim = 2

            def loss(self, w):
                return w[0] ** 4 + w[1] ** 6

            def truth(self, data, training, params):
                return truths.Truth(Fraction(5, 12), 1, "sum of monomials")

            def finite(self, nbeta, gamma):
                return None


        _BUILDERS[Cusp] = CuspLoss
        """,
    )
    tree.add(
        "conf/model/cusp.yaml",
        """
        # w1⁴ + w2⁶: λ = 5/12.
        defaults: [/schema/model/cusp@_here_, _self_]
        kind: cusp
        """,
    )
    assert len(tree.touched) == 3
    tree.sample("model=cusp", *CHAIN, "posterior.gamma=1")
    tree.assert_shown("cusp")
    tree.assert_shown("0.416")
    assert "cusp" in tree.run("accuracy")


def test_a_data_set_takes_three_files(tree):
    tree.add(
        "lambda_hat/config/data.py",
        """
        @dataclass(frozen=True)
        class Circle(Data):
            '''Points of a circle, and which half they lie in.'''

            kind: str = setting("where the pairs come from", choices=("circle",))
            n_data: int = setting("number of pairs n", ge=2)
            radius: float = setting("radius of the circle", gt=0)

            sizes = (2, 2)
            classes = True
        """,
    )
    tree.add(
        "lambda_hat/targets/data.py",
        """
        from lambda_hat.config.data import Circle


        @dataclass(frozen=True)
        class PointsOfACircle(Source):
            config: Circle
            noise_scale = None

            def draw(self, model, seed):
                angle = rng(seed, "x").uniform(0, 2 * np.pi, self.config.n_data)
                x = self.config.radius * np.stack([np.cos(angle), np.sin(angle)], 1)
                return Data(x, (angle < np.pi).astype(np.int64))


        _SOURCES[Circle] = PointsOfACircle
        """,
    )
    tree.add(
        "conf/data/circle.yaml",
        """
        # @package _global_
        # Which half of a circle a point lies in: 2 inputs, 2 classes.
        defaults: [/schema/data/circle@data, _self_]
        data:
          kind: circle
          n_data: 100
          radius: 1.0
        model:
          in_dim: 2
          out_dim: 2
        """,
    )
    assert len(tree.touched) == 3
    network = ("model.depth=null", "model.widths=[3]", "training.steps=50", "training.polish_steps=20")
    assert "λ̂ =" in tree.sample("data=circle", "sampler=laplace", *network)
    tree.assert_shown("circle", results=False)


def test_a_sampler_takes_three_files(tree):
    """HMC at a fixed step, by the contract of `samplers.base`: the loop, the diagnostics and the store come by themselves."""
    tree.add(
        "lambda_hat/config/sampler.py",
        """
        @dataclass(frozen=True)
        class HMC2(Sampling):
            '''Hamiltonian Monte Carlo of ten steps.'''

            name: str = setting("the algorithm", choices=("hmc2",))
            step_size: float = setting("leapfrog step", gt=0)
        """,
    )
    tree.add(
        "lambda_hat/samplers/hmc2.py",
        """
        import jax.numpy as jnp

        from lambda_hat.samplers import hmc
        from lambda_hat.samplers.base import Bias, MarkovSampler, Tuned


        class TenSteps(MarkovSampler):
            @property
            def kernel(self):
                return hmc.Leapfrog(self.loss)

            def settle(self, chains, states, draws, log):
                return self.tune(chains, states, 0, draws, log)

            def tune(self, chains, states, first, draws, log):
                step = self.config.step_size
                tuning = hmc.Tuning(jnp.asarray(step), jnp.asarray(10 * step), jnp.asarray(15))
                states, out = chains.advance(tuning, states, "warmup", first, draws)
                return Tuned(states, tuning, float(out.steps.gradients.sum()), {"step_size": step})

            def bias(self, chosen):
                return Bias("none")


        SAMPLER = TenSteps
        """,
    )
    tree.add(
        "conf/sampler/hmc2.yaml",
        """
        # Hamiltonian Monte Carlo of ten steps.
        defaults: [/schema/sampler/hmc2@_here_, /common/sampler@_here_, _self_]
        name: hmc2
        step_size: 0.3
        """,
    )
    assert len(tree.touched) == 3
    assert "λ̂ =" in tree.sample("model=quadratic", "model.dim=3", "sampler=hmc2", *CHAIN)
    tree.assert_shown("hmc2")
    assert "hmc2" in tree.run("sample", "--help")
    (row,) = json.loads(tree.run("results", "--json"))
    assert row["sampler"] == "hmc2" and row["llc_mean"] > 0


def test_a_statistic_takes_two_files(tree):
    tree.replace(
        "lambda_hat/analysis/summary.py",
        "    adapted: Mapping[str, Any]\n",
        '    largest_excess: float | None = statistic("largest excess loss", default=None)\n    adapted: Mapping[str, Any]\n',
    )
    tree.replace(
        "lambda_hat/analysis/analyse.py",
        "        adapted=facts.tuned,\n",
        "        largest_excess=known(np.max(records.excess)),\n        adapted=facts.tuned,\n",
    )
    assert len(tree.touched) == 2
    tree.sample("model=quadratic", "model.dim=2", *CHAIN)
    (row,) = json.loads(tree.run("results", "--json"))
    assert row["largest_excess"] > 0
    assert "largest_excess" in tree.run("results", "--csv")
