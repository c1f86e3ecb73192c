"""What checkpoints cost: the same run with one every few seconds and with none, in turn, on the 10k-parameter network.

    python tests/benchmarks/checkpoints.py [root] [pairs] [seconds between checkpoints]

Prints the wall time of each pair, how many checkpoints were written and how long that took, and the share at the default interval.
"""

import sys
import time

import hydra
import numpy as np

from lambda_hat.commands.main import CONF
from lambda_hat.config import hydra_glue
from lambda_hat.jobs import pipeline
from lambda_hat.system import devices


def run(root, minutes):
    """Seconds of a run, and of each checkpoint that it wrote."""
    from lambda_hat.store.journal import Journal

    words = ["experiment=base", "sampler=mclmc", "sampler.draws=100", "sampler.warmup=40", "sampler.mcse_target=null"]
    words += [f"store.root={root}", "force=true", "runtime.figures=false", f"runtime.checkpoint_minutes={minutes}"]
    job = pipeline.job("run", hydra_glue.to_config(hydra.compose("config", words)))
    writes, write = [], Journal.write

    def timed(journal):
        began = time.perf_counter()
        write(journal)
        writes.append(time.perf_counter() - began)

    Journal.write = timed
    began = time.perf_counter()
    pipeline.make(job)
    Journal.write = write
    return time.perf_counter() - began, writes


def main(root="runs", pairs=4, seconds=3.0):
    """Print a line for each pair, and the share."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra_glue.to_config(hydra.compose("config", []))
        devices.start(config.runtime)
        run(root, 1e6)  # compiles
        found = []
        for _ in range(int(pairs)):
            (kept, writes), (plain, _) = run(root, float(seconds) / 60), run(root, 1e6)
            found.append((kept / plain, np.mean(writes)))
            print(
                f"{kept:.1f} s with {len(writes)} checkpoints of {1e3 * np.mean(writes):.0f} ms, {plain:.1f} s without: "
                f"{kept / plain:.3f}",
                flush=True,
            )
    ratio, each = np.median(found, 0)
    share = each / (60 * config.runtime.checkpoint_minutes)
    print(
        f"median ratio {ratio:.3f}; one every {config.runtime.checkpoint_minutes:g} minutes costs {100 * share:.3f} %"
    )


if __name__ == "__main__":
    hydra_glue.register()
    main(*sys.argv[1:])
