"""What the curvature of a large network costs, in gradients over the full data of the same process, and how well it whitens.

    python tests/benchmarks/curvature.py [p,…] [n] [apart]

tanh networks with two hidden layers of 32 inputs, in float32, at random weights. `apart` takes each pair's gradient by itself, as
for small networks. Prints seconds of a gradient and of a second call of the curvature, their ratio, the growth of the largest
resident set in numbers of 8 bytes a parameter, and the largest eigenvalue of M(nβH + γ)M, which is 1 where the curvature is exact,
at nβ = n/log n and γ = 100.
"""

import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
from accelerator import network, run

from lambda_hat.targets import curvature, losses, metrics

GAMMA, ITERATIONS = 100.0, 12


def resident():
    """Bytes of the largest resident set so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def seconds(function, *arguments):
    """Seconds of the faster of two calls, after one that compiles."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(2):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - began)
    return min(times)


def largest(loss, rows, w0, nbeta, metric):
    """The largest eigenvalue of M(nβH + γ)M, by power iteration."""

    @jax.jit
    def product(v):
        u = metric.apply(v)
        return metric.apply(nbeta.astype(u.dtype) * losses.hessian_product(loss, rows, w0, u) + GAMMA * u)

    v = jax.random.normal(jax.random.key(1), w0.shape, w0.dtype)
    for _ in range(ITERATIONS):
        v = product(v / jnp.linalg.norm(v))
    return float(jnp.linalg.norm(v))


def main(sizes="1e5,1e6", n=2048, apart=""):
    """Print a line for each size."""
    n = int(n)
    if apart:
        curvature.SUMMED_FROM = 10**12
    print("        p     n  gradient  curvature  gradients  numbers a parameter  largest whitened curvature")
    for p in map(float, sizes.split(",")):
        loss, rows, w0, _ = network(int(p), n, "float32")
        w = jnp.asarray(w0, jnp.float32)
        gradient = seconds(lambda w, loss=loss, rows=rows: losses.evaluate(loss, rows, w), w)
        before = resident()
        found = curvature.at(loss, rows, w0, 0)
        memory = (resident() - before) / (8 * len(w0))
        took = seconds(lambda loss=loss, rows=rows, w0=w0: curvature.at(loss, rows, w0, 0))
        nbeta = np.asarray(n / np.log(n), np.float32)
        metric = metrics.whitening(found, nbeta, GAMMA, "float32")
        top = largest(loss, rows, w, nbeta, metric)
        print(
            f"{len(w0):9d} {n:5d}  {gradient:8.4f}  {took:9.3f}  {took / gradient:9.1f}  {memory:19.1f}  {top:.3g}",
            flush=True,
        )


if __name__ == "__main__":
    run(main)
