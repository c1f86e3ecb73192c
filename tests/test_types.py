"""The samplers where JAX is told not to stretch an array to another's rank."""

import jax
import numpy as np
import problems
import pytest
from problems import config

SAMPLERS = ("amclmc", "hmc", "mala", "mclmc", "nuts", "sgld")


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_stretches_no_ranks(name):
    made = config(f"sampler={name}", "sampler.chains=2", "sampler.draws=8", "sampler.warmup=8")
    jax.clear_caches()  # a program that was traced without the setting would be taken as it is
    with jax.numpy_rank_promotion("raise"):
        result = problems.LinearRegression(300, 6).problem.sample(made)
    assert np.shape(result.draws.records.excess)[0] == 2
    assert np.isfinite(result.draws.records.excess).all()
