"""The published way to estimate the LLC of random deep linear networks, beside ours on the same networks.

    python tests/benchmarks/published_protocol.py {1K,10K} [networks] [gamma] [root] [sampler …]

Furman & Lau (arXiv 2402.03698): n = 1e5 inputs uniform on [−10, 10], no noise, squared error, β = 1/log n, γ = 1; one chain of
SGLD, batch 500, ε = 5e-7, 10 000 steps of which the last tenth is averaged. Networks: Xavier weights, one layer cut to a random
rank. The squared error is summed over outputs, and, in a second run ("published, mean"), averaged, as many programs do.
Ours: the same posterior (its inputs have exactly the covariance of that distribution, 200 of them, and the same nβ), the error
summed, four chains of 300 draws after 300 of warm-up, all else tuned by the samplers named (mclmc). λ is Aoyagi's, which λ at w0
may exceed.
"""

import math
import sys
import time
from statistics import median
from typing import NamedTuple

import hydra
import numpy as np

from lambda_hat import store
from lambda_hat.commands.main import CONF
from lambda_hat.config import hydra_glue
from lambda_hat.jobs import pipeline
from lambda_hat.system import devices
from lambda_hat.system.errors import UserError

hydra_glue.register()
with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
    devices.start(hydra_glue.to_config(hydra.compose("config", [])).runtime)  # before JAX, or it has one CPU device

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from lambda_hat.targets import artifact  # noqa: E402

SIZES = {"1K": (2, 5, 5, 50), "10K": (2, 10, 5, 100)}
"""Fewest and most layers, fewest and most units."""

N, BATCH, STEP, STEPS, KEPT, HALF_WIDTH = 100_000, 500, 5e-7, 10_000, 1000, 10.0
OURS_N = 200
FAILED = 0.5
"""Relative error that counts as a failure, as does nan."""


class Network(NamedTuple):
    """Layer sizes, and the rank that one layer is cut to."""

    sizes: list[int]
    rank: int


def networks(name, count):
    """The first `count` random networks of a size."""
    fewest, most, narrowest, widest = SIZES[name]
    generator = np.random.default_rng(list(SIZES).index(name))
    for _ in range(count):
        sizes = generator.integers(
            narrowest, widest, generator.integers(fewest, most, endpoint=True) + 1, endpoint=True
        )
        yield Network(sizes.tolist(), int(generator.integers(0, min(sizes), endpoint=True)))


def job(network, number, sampler, gamma, root):
    """Ours: a `pipeline.Job`."""
    first, *hidden, last = network.sizes
    ours = {
        "model": "deep_linear",
        "model.in_dim": first,
        "model.widths": hidden,
        "model.out_dim": last,
        "data": "whitened",
        "data.n_data": OURS_N,
        "data.x_scale": HALF_WIDTH / np.sqrt(3),
        "data.teacher_rank": network.rank,
        "data.teacher_balanced": "false",
        "training": "teacher",
        "seed": number,
        "posterior.loss": "mse",
        "posterior.beta": N / np.log(N) / OURS_N,
        "posterior.gamma": gamma,
        "sampler": sampler,
        "sampler.draws": 300,
        "sampler.warmup": 300,
        "store.root": root,
        "runtime.figures": "false",
    }
    overrides = [f"{key}={value}" for key, value in ours.items()]
    return pipeline.job("run", hydra_glue.to_config(hydra.compose("config", overrides)))


def published(weights, seed, scale):
    """λ̂ by the published protocol at these weights, the loss times `scale`, and the seconds it took."""
    began = time.perf_counter()
    key = jax.random.key(seed)
    weights = [jnp.asarray(w, jnp.float32) for w in weights]
    x = jax.random.uniform(jax.random.fold_in(key, 0), (N, len(weights[0])), jnp.float32, -HALF_WIDTH, HALF_WIDTH)
    return float(_sgld(weights, x, key, scale)), time.perf_counter() - began


@jax.jit
def _sgld(weights, x, key, scale):
    nbeta = scale * N / math.log(N)

    def through(w, x):
        for layer in w:
            x = x @ layer
        return x

    def loss(w, rows):
        return jnp.mean(jnp.sum((through(w, rows) - through(weights, rows)) ** 2, 1))

    def step(w, i):
        own = jax.random.fold_in(key, 1 + i)
        rows = x[jax.random.randint(own, (BATCH,), 0, N)]
        value, grad = jax.value_and_grad(loss)(w, rows)
        noise = [jax.random.normal(jax.random.fold_in(own, k), v.shape, v.dtype) for k, v in enumerate(w)]
        moved = [
            v - STEP / 2 * (nbeta * g + (v - v0)) + math.sqrt(STEP) * z
            for v, g, v0, z in zip(w, grad, weights, noise, strict=True)
        ]
        return moved, value

    values = jax.lax.scan(step, weights, jnp.arange(STEPS))[1]
    return nbeta * jnp.mean(values[-KEPT:])


def main(name, count=100, gamma=1, root="runs/published", *samplers):
    """Do what is missing; one line a network, then a summary."""
    found = []
    for number, network in enumerate(networks(name, int(count))):
        rows = {}
        for sampler in samplers or ("mclmc",):
            ours = job(network, number, sampler, gamma, root)
            if not pipeline.is_done(ours):
                try:
                    pipeline.make(ours)
                except UserError as error:
                    print(f"{ours.directory}: {error}")
            if pipeline.is_done(ours):
                rows[sampler] = store.read_json(ours.directory / "analysis.json", "truth", "llc_mean", "total_fges")
        if not rows:
            continue
        target = ours.paths.target
        for protocol, scale in (("published", 1.0), ("published, mean", 1 / network.sizes[-1])):
            rows[protocol] = _published(target, ours.config, number, protocol, scale)
        truth = next(iter(rows.values()))["truth"]["lambda"]
        found.append((truth, rows))
        print(
            f"{'-'.join(map(str, network.sizes)):40} r {network.rank:3d}  λ {truth:8.1f}  ",
            "  ".join(f"{k} {_shown(r)} {r['status']}" for k, r in rows.items()),
            flush=True,
        )
    for sampler in found[0][1]:
        mine = [(truth, rows[sampler]) for truth, rows in found if sampler in rows]
        errors = [_error(truth, row) for truth, row in mine]
        gradients = median(row["total_fges"] * row["n"] for _, row in mine)
        seconds = median(row["walltime_sec"] for _, row in mine)
        print(
            f"{sampler:16} {len(mine)} networks: |λ̂/λ − 1| median {median(map(abs, errors)):.1%}, signed {median(errors):+.1%}, "
            f"worst {max(map(abs, errors)):.1%}, failures {sum(not abs(e) < FAILED for e in errors)}; gradients of one pair "
            f"{gradients:.2g}, seconds {seconds:.1f}"
        )


def _published(target, config, number, name, scale):
    """Its result on a target, kept beside it."""
    kept = target / f"{name.replace(', ', '_')}.npz"
    if not kept.exists():
        params = artifact.read(target, config.model, config.data).params
        llc, seconds = published([layer["weight"] for layer in params.values()], number, scale)
        np.savez(kept, llc=llc, seconds=seconds)
    with np.load(kept) as old:
        llc, seconds = float(old["llc"]), float(old["seconds"])
    return {"llc_mean": llc, "status": "-", "total_fges": STEPS * BATCH / N, "walltime_sec": seconds, "n": N}


def _error(truth, row):
    return np.inf if row["llc_mean"] is None or not np.isfinite(row["llc_mean"]) else row["llc_mean"] / truth - 1


def _shown(row):
    return "none" if row["llc_mean"] is None else f"{row['llc_mean']:.2f}"


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in SIZES:
        sys.exit(__doc__)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        main(*sys.argv[1:])
