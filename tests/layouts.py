"""Targets and runs on as many CPU devices as TEST_DEVICES says, which are settled when JAX starts: one line of JSON a cell.

python tests/layouts.py hmc:4 sgld:3: samplers, and their numbers of chains.
"""

import hashlib
import json
import sys

import jax
import numpy as np
import problems

from lambda_hat.analysis import estimation
from lambda_hat.system import devices
from lambda_hat.targets import artifact, curvature, losses

SMALL = (
    *("model.depth=null", "model.widths=[4]", "model.in_dim=3", "data.n_data=200"),
    *(
        "training.steps=20",
        "training.polish_steps=10",
        "sampler.draws=10",
        "sampler.warmup=40",
        "sampler.mcse_target=null",
    ),
)


def digest(tree):
    """Of all bytes of a pytree's arrays."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        total.update(np.ascontiguousarray(leaf))
    return total.hexdigest()[:16]


def main(cells):
    """A target, its curvature dense and by layers, and the draws of each cell's run, laid out as large ones are."""
    devices.ALL_AT_ONCE = devices.WHOLE = 0
    losses.CHUNK_BYTES = 512  # more chunks than one, which `devices.PARTS` are made of
    target = artifact.build(problems.config(*SMALL), problems.silent)
    print(json.dumps({"cell": "target", "devices": len(jax.devices()), "digest": digest(target.params)}), flush=True)
    for cell in cells:
        sampler, chains = cell.split(":")
        config = problems.config(*SMALL, f"sampler={sampler}", f"sampler.chains={chains}")
        curvature.DENSE_LIMIT = 1000 if sampler == "sgld" else 10
        at_w0 = artifact.curvature_at(target, config.posterior)
        made = estimation.estimate_llc(target, at_w0, config, log=problems.silent, report=problems.silent)
        draws = made.result.draws
        assert np.all(np.isfinite(draws.records.excess)) and np.isfinite(made.summary.waic)
        used = len(made.result.devices)
        records = draws.records
        arrays = (
            at_w0.to_arrays(),
            made.result.density.metric,
            records.excess,
            records.distance2,
            made.result.fluctuation,
        )
        print(json.dumps({"cell": cell, "devices": used, "digest": digest(arrays)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
