"""What a GPU (or whatever JAX finds) makes of the gradient: operations a second by size, chains and precision of the products.

    python tests/benchmarks/accelerator.py p n chains[,chains…] chunk MiB[,…] [precision,…] [seconds for each line]

All chains' gradients over the full data in one program, as HMC's loop makes them, of a tanh network with two hidden layers; a
gradient counts 6np operations for a chain. Beside them the largest matrix product in each precision, and the error of the gradient
against float64. Precisions are those of the products, their operands in float32: float32 itself, tf32 (10 bits of mantissa) and
bf16 (7 bits). One line is printed as soon as it is measured.
"""

import sys
import time

import hydra
import jax
import jax.numpy as jnp
import numpy as np

from lambda_hat.commands.main import CONF
from lambda_hat.config import hydra_glue
from lambda_hat.system import devices
from lambda_hat.targets import losses, models

PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bf16": "BF16_BF16_F32"}
"""Names of precisions of products, as JAX calls them."""

MOST_BYTES = 40e9
"""Of all chains' gradients and activations, above which a line is left out."""


def seconds_each(function, *arguments, budget):
    """Median seconds of a call, after two that are not counted."""
    for _ in range(2):
        jax.block_until_ready(function(*arguments))
    times, began = [], time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - began < budget and len(times) < 200):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def product(side, precision, budget):
    """TFLOP/s of a product of square matrices."""
    with jax.default_matmul_precision(PRECISIONS[precision]):
        a, b = (jax.random.normal(jax.random.key(i), (side, side), jnp.float32) for i in range(2))
        return 2 * side**3 / seconds_each(jax.jit(jnp.matmul), a, b, budget=budget) / 1e12


def network(p, n, dtype):
    """A loss of about p parameters, its data of n pairs in a precision, and w0."""
    words = ["model=base", "model.depth=2", f"model.target_params={p}", f"data.n_data={n}"]
    config = hydra_glue.to_config(hydra.compose("config", words))
    model = models.build(config.model)
    params = model.init(jax.random.key(0))
    generator = np.random.default_rng(0)
    x = generator.standard_normal((n, config.model.in_dim))
    w0 = np.asarray(jax.flatten_util.ravel_pytree(params)[0], float)
    y = np.asarray(model.apply(params, jnp.asarray(x))) + 0.1 * generator.standard_normal((n, 1))
    loss = losses.build(model, params, y, loss="nll", noise_scale=0.1, student_t_df=4.0)
    return loss, losses.to_rows(x, y, max(model.widths), dtype, len(jax.local_devices())), w0, max(model.widths)


def gradients(loss, precision):
    """The gradients of chains at `[chains, p]`, compiled for a precision of the products."""
    program = jax.jit(lambda rows, w: jax.vmap(lambda w: losses.value_and_grad(loss, rows, w))(w))

    def call(rows, w):
        with jax.default_matmul_precision(PRECISIONS[precision]):
            return program(rows, w)

    return call


def main(p, n, chains, chunks, precisions="float32", budget=0.3):
    """Print a table."""
    p, n, budget = int(float(p)), int(n), float(budget)
    side = 2048 if devices.on_cpu() else 8192
    precisions = precisions.split(",")
    peak = {name: product(side, name, budget) for name in precisions}
    print(f"{jax.local_devices()[0].device_kind}, jax {jax.__version__}; {side}³ products: ", end="")
    print(", ".join(f"{name} {rate:.1f} TFLOP/s" for name, rate in peak.items()))
    print(
        "        p      n  chains  chunk MiB  rows  products  ms a call  TFLOP/s  of the product  error of ∇L",
        flush=True,
    )
    double, rows, w0, _ = network(p, n, "float64")
    exact = np.asarray(losses.evaluate(double, rows, jnp.asarray(w0))[1])
    for count in map(int, chains.split(",")):
        w = jnp.asarray(np.broadcast_to(w0, (count, len(w0))), jnp.float32)
        for chunk in map(float, chunks.split(",")):
            losses.CHUNK_BYTES = losses.GPU_CHUNK_BYTES = int(chunk * 2**20)
            loss, rows, _, widest = network(p, n, "float32")
            chunk_rows = rows.weight.shape[1]
            if count * 4 * (4 * len(w0) + 10 * widest * chunk_rows) > MOST_BYTES:
                continue
            for precision in precisions:
                call = gradients(loss, precision)
                took = seconds_each(call, rows, w, budget=budget)
                rate = 6 * n * len(w0) * count / took / 1e12
                error = np.linalg.norm(np.asarray(call(rows, w)[1][0], float) - exact) / np.linalg.norm(exact)
                print(
                    f"{len(w0):9d} {n:6d} {count:7d}  {chunk:9.3f} {chunk_rows:5d}  {precision:8s}  {1e3 * took:9.3f}"
                    f"  {rate:7.3f}  {rate / peak[precision]:14.2f}  {error:11.1e}",
                    flush=True,
                )


def run(function):
    """Call a benchmark with the words of the command line, where conf/ can be composed and JAX is set up as for a run."""
    hydra_glue.register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        devices.start(hydra_glue.to_config(hydra.compose("config", [])).runtime)
        function(*sys.argv[1:])


if __name__ == "__main__":
    run(main)
