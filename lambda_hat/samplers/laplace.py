"""The Laplace approximation: π as the Gaussian of the curvature at w0, whose λ̂ is ½ tr nβH(nβH+γ)^{-1}, and draws of it.

Where L_n is quadratic the mean excess of the draws is that value; how far apart the two are tells how far it is not.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lambda_hat.samplers import density as densities
from lambda_hat.samplers import loop


def draw(config, loss, density):
    """`loop.Draws` of N(w0, M²), M the density's metric: independent, each one gradient."""
    began = time.perf_counter()
    z = jax.random.normal(
        loop.stream(config.seed, "draws"), (config.chains, config.draws, density.w0.size), density.w0.dtype
    )
    records, params = jax.tree.map(np.asarray, _records(loss, config.save_params, density, z))
    nan = np.full((config.chains, config.draws), np.nan)
    steps = loop.Step(nan, nan, nan, np.zeros(nan.shape, bool), np.ones(nan.shape))
    seconds = np.full(config.draws, time.perf_counter() - began)
    return loop.Draws(records, steps, seconds, params if config.save_params else None)


@partial(jax.jit, static_argnums=(0, 1))
def _records(loss, save_params, density, z):
    def one(u):
        found = densities.record(density, u, *densities.log_density_and_grad(loss, density, u))
        return found, density.metric.apply(u) if save_params else jnp.zeros(())

    return jax.lax.map(lambda chain: jax.lax.map(one, chain), z)
