"""How near a full-data gradient inside HMC's own loop is to this machine's matrix product, on the 10k-parameter network.

    python tests/benchmarks/gradient.py [rounds] [chains] [n] [metric]

Each round times a 2048³ matrix product and a few trajectories of all chains, one after the other, in float32 and in float64; a
gradient counts 6np operations. Prints the medians over rounds.
"""

import sys
import time

import hydra
import numpy as np

from lambda_hat.commands.main import CONF
from lambda_hat.config import hydra_glue
from lambda_hat.system import devices

SIDE = 2048
LEAPFROGS = 20


def chains_program(dtype, chains, n, metric, size="experiment=base"):
    """A function that makes one trajectory of all chains of the network of an override, and its operations a gradient."""
    import jax
    import jax.numpy as jnp

    from lambda_hat.samplers import density, hmc, loop
    from lambda_hat.store.journal import Journal
    from lambda_hat.targets import curvature, losses, models

    overrides = [
        size,
        "sampler=hmc",
        f"sampler.chains={chains}",
        "sampler.draws=10",
        f"sampler.dtype={dtype}",
    ]
    config = hydra_glue.to_config(hydra.compose("config", overrides))
    model = models.build(config.model)
    params = model.init(jax.random.key(0))
    generator = np.random.default_rng(0)
    x = generator.standard_normal((n, config.model.in_dim))
    y = generator.standard_normal((n, config.model.out_dim))
    loss = losses.build(model, params, y, loss="nll", noise_scale=0.1, student_t_df=4.0)
    widest = max(model.widths)
    rows = losses.to_rows(x, y, widest, dtype, len(jax.local_devices()))
    w0 = np.asarray(jax.flatten_util.ravel_pytree(params)[0], float)
    shape = curvature.at(loss, rows, w0, seed=0)
    made = density.build(loss, rows, w0, n / np.log(n), 100.0, shape, metric, dtype)
    loops = loop.Loop(hmc.Leapfrog(loss), made, config.sampler, 1, Journal())
    tuning = hmc.Tuning(jnp.asarray(1e-3), jnp.asarray(1e-3 * LEAPFROGS), jnp.asarray(1000))
    states = loops.states(loop.starts(made, made.metric, chains, 0))
    number = 0

    def once():
        nonlocal number
        number += 1
        _, out = loops.advance(tuning, states, "draws", number, 1)
        return float(np.sum(out.steps.gradients))

    once()
    return once, 6 * n * w0.size


def product_program(dtype):
    """A function that multiplies two matrices on every device at once, and the operations of that."""
    import jax
    import jax.numpy as jnp

    devices = jax.local_devices()
    pairs = [jax.device_put(jnp.ones((SIDE, SIDE), dtype), device) for device in devices]
    product = jax.jit(jnp.matmul)

    def once():
        jax.block_until_ready([product(a, a) for a in pairs])
        return len(devices)

    once()
    return once, 2 * SIDE**3


def rate(program, operations):
    """Operations a second of one call."""
    began = time.perf_counter()
    count = program()
    return count * operations / (time.perf_counter() - began)


def main(rounds=15, chains=4, n=20_000, metric="curvature"):
    """Print a line for each precision."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        devices.start(hydra_glue.to_config(hydra.compose("config", [])).runtime)
        programs = {
            dtype: (chains_program(dtype, int(chains), int(n), metric), product_program(dtype))
            for dtype in ("float32", "float64")
        }
    for dtype, (chained, product) in programs.items():
        found = np.array([(rate(*chained), rate(*product)) for _ in range(int(rounds))])
        ours, peak = np.median(found, 0) / 1e9
        share = np.median(found[:, 0] / found[:, 1])
        print(
            f"{dtype}: {ours:.1f} GFLOP/s in HMC's loop, {peak:.1f} in a {SIDE}³ product: {share:.2f} of it; "
            f"{ours * 1e9 / chained[1]:.0f} gradients a second"
        )


if __name__ == "__main__":
    hydra_glue.register()
    main(*sys.argv[1:])
