"""Problems with known answers, shared by the tests: composed configurations, and a regression whose posterior is Gaussian."""

import operator
import os
import tempfile
from dataclasses import replace
from functools import cache, cached_property
from typing import NamedTuple

from hydra import compose, initialize_config_dir

from lambda_hat.commands import main as cli
from lambda_hat.config import Runtime, hydra_glue
from lambda_hat.system import devices

CACHE = os.path.join(tempfile.gettempdir(), f"lambda_hat_tests_{os.getuid()}")
"""Compiled programs, kept between sessions."""

devices.start(
    Runtime(
        platform="cpu",
        devices=int(os.environ.get("TEST_DEVICES", "2")),
        compilation_cache=CACHE,
        progress=False,
        figures=True,
        checkpoint_minutes=5.0,
        memory_limit=None,
    )
)

import jax  # noqa: E402  (after the start)
import numpy as np  # noqa: E402
from jax.flatten_util import ravel_pytree  # noqa: E402

from lambda_hat.analysis import analyse  # noqa: E402
from lambda_hat.analysis.summary import Estimand  # noqa: E402
from lambda_hat.samplers import sample  # noqa: E402
from lambda_hat.store.journal import Journal  # noqa: E402
from lambda_hat.targets import artifact, curvature, losses, models  # noqa: E402

hydra_glue.register()


def silent(*_, **named):
    """A log that keeps nothing."""


@cache
def config(*overrides):
    """The `Config` that the command line `overrides` compose."""
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return hydra_glue.to_config(compose("config", list(overrides)))


class Problem(NamedTuple):
    """What `samplers.sample.sample` needs of a target.

    Attributes:
        loss: `losses.Loss`.
        rows: function from a dtype to the data in it.
        w0: the centre `[p]`.
        n: number of pairs.
    """

    loss: losses.Loss
    rows: object
    w0: np.ndarray
    n: int

    def curvature(self):
        return curvature.at(self.loss, self.rows(np.float64), self.w0, seed=0)

    def sample(self, config, log=silent, enough=lambda so_far: False, journal=None):
        """A run of the configuration's sampler and posterior on this problem, as long as `enough` says no."""
        return sample.sample(
            config.sampler,
            config.posterior,
            self.loss,
            self.rows(config.sampler.dtype),
            self.w0,
            self.n,
            self.curvature(),
            log,
            enough,
            journal or Journal(),
        )

    def summaries(self, config, count):
        """The `Summary` of each of `count` runs of four chains, which are made as one and share their tuning."""
        made = replace(config, sampler=replace(config.sampler, chains=4 * count))
        result, posterior = self.sample(made), config.posterior
        estimand = Estimand(
            n=self.n,
            beta=float(posterior.inverse_temperature(self.n)),
            gamma=float(posterior.localization(len(self.w0))),
            loss="nll",
            dtype=config.sampler.dtype,
        )
        plain = replace(config.sampler, mcse_target=None)
        found = []
        result = result._replace(fluctuation=None)  # of all chains together
        for first in range(0, 4 * count, 4):
            four, draws = operator.itemgetter(slice(first, first + 4)), result.draws
            records, steps = jax.tree.map(four, (draws.records, draws.steps))
            part = result._replace(draws=draws._replace(records=records, steps=steps))
            found.append(analyse.analyse(part, estimand, plain, posterior, analyse.Start(np.asarray(self.w0)), 0.0))
        return found


def analytic(config):
    """The problem of an analytic model's configuration."""
    model = models.build(config.model)
    params = model.init(jax.random.key(0))
    x = np.zeros((config.data.n_data, 0))
    loss = losses.build(model, params, x, loss="nll", noise_scale=None, student_t_df=4.0)
    w0 = np.asarray(ravel_pytree(params)[0])
    return Problem(loss, lambda dtype: losses.to_rows(x, x, 1, dtype), w0, len(x))


def of(config):
    """The problem of any configuration, trained."""
    target = artifact.build(config, silent)
    return Problem(target.loss(config.posterior), target.rows, target.w0, len(target.x))


class LinearRegression:
    """y = x·w + noise of known σ at its least-squares solution: L_n is a quadratic, the posterior a Gaussian."""

    def __init__(self, n, d, sigma=0.5, seed=0):
        generator = np.random.default_rng(seed)
        self.n, self.d, self.sigma = n, d, sigma
        self.x = generator.standard_normal((n, d)) * np.geomspace(1, 0.2, d)
        self.y = self.x @ generator.standard_normal((d, 1)) + sigma * generator.standard_normal((n, 1))

    @cached_property
    def hessian(self):
        """∇²L_n = XᵀX/(nσ²)."""
        return self.x.T @ self.x / (self.n * self.sigma**2)

    @cached_property
    def problem(self):
        model = models.network(self.d, (), 1, activation="identity", bias=False, layernorm=False, init="lecun")
        loss = losses.build(
            model, model.init(jax.random.key(0)), self.y, loss="nll", noise_scale=self.sigma, student_t_df=4.0
        )
        w0 = np.linalg.lstsq(self.x, self.y, rcond=None)[0].ravel()
        return Problem(loss, lambda dtype: losses.to_rows(self.x, self.y, self.d, dtype, 2), w0, self.n)

    def finite(self, nbeta, gamma):
        """λ̂ of the exact posterior: ½ tr nβH(nβH+γ)^{-1}."""
        return 0.5 * np.trace(nbeta * self.hessian @ np.linalg.inv(nbeta * self.hessian + gamma * np.eye(self.d)))
