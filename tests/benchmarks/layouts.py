"""Gradients a second in HMC's loop with the layout that a run gets, beside one device, in turns: no layout should be below 1.

    python tests/benchmarks/layouts.py [rounds] [counts]

`counts` are numbers of devices with commas between, such as 1,2,8,16; they are forced by XLA_FLAGS. Each measurement is a process
of its own, since JAX settles its devices when it starts. Prints, for each size of the problem, the medians over rounds of the
ratio to one device, and the devices that were used.
"""

import json
import os
import subprocess
import sys
import time

import numpy as np

SIZES = {
    "p = 433, n = 1000": ("model=small", 1000),
    "p = 9921, n = 2000": ("model=base", 2000),
    "p = 9921, n = 20 000": ("model=base", 20_000),
}
"""Problems: the model, and the number of pairs."""

SECONDS = 3.0


def measure(size, n):
    """Print gradients a second of four chains, and how many devices they were made on."""
    import gradient
    import hydra
    from hydra import compose

    from lambda_hat.commands.main import CONF
    from lambda_hat.config import hydra_glue
    from lambda_hat.system import devices

    hydra_glue.register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        devices.start(hydra_glue.to_config(compose("config", [])).runtime)
        program, operations = gradient.chains_program("float32", 4, n, "curvature", size)
    gradients, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        gradients += program()
    rate = gradients / (time.perf_counter() - began)
    print(json.dumps([rate, len(devices.layout(operations).used(4))]))


def measured(count, size, n):
    """The same in a process that sees so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    outcome = subprocess.run(
        [sys.executable, __file__, "--measure", size, str(n)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(outcome.stdout.splitlines()[-1])


def main(rounds=3, counts="1,2,8,16"):
    """Print a line for each problem and number of devices."""
    for name, (size, n) in SIZES.items():
        rates, used = {}, {}
        for _ in range(int(rounds)):
            for count in map(int, counts.split(",")):
                rate, used[count] = measured(count, size, n)
                rates.setdefault(count, []).append(rate)
        for count, found in rates.items():
            ratio = np.median(np.array(found) / np.array(rates[min(rates)]))
            print(
                f"{name}: {count:2} devices, {used[count]} used: {np.median(found):8.0f} gradients/s, {ratio:.2f} of one",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], int(sys.argv[3]))
    else:
        main(*sys.argv[1:])
