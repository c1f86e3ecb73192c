"""How the cost of λ̂ grows with the number of parameters p and of pairs n: a table, two slopes and a figure.

    python tests/benchmarks/scaling.py [root] [figure.png]

MCLMC on a tanh network with two hidden layers at its teacher, polished, γ = 100, until ESS ≥ 400 and R-hat ≤ 1.01, or 400 draws.
Seconds are at the speed of the recorded draws, so without compilation; a second call takes finished runs from the root.
p goes from 1e2 to 1e5 at n = 2000, n from 1e3 to 2e5 at p = 433.
"""

import sys
import time

import hydra
import numpy as np

from lambda_hat import store
from lambda_hat.commands.main import CONF
from lambda_hat.config import hydra_glue
from lambda_hat.jobs import pipeline

PARAMETERS = (100, 316, 1000, 3162, 10_000, 31_623, 100_000)
PAIRS = (1000, 2000, 10_000, 50_000, 200_000)


def run(root, p, n):
    """analysis.json of one run."""
    words = ["sampler=mclmc", f"model.target_params={p}", f"data.n_data={n}", "training=teacher", f"store.root={root}"]
    words += ["training.polish_steps=2000", "sampler.mcse_target=0.1", "sampler.draws=400", "runtime.figures=false"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        job = pipeline.job("run", hydra_glue.to_config(hydra.compose("config", words)))
    if not pipeline.is_done(job):
        pipeline.make(job)
    return store.read_json(job.directory / "analysis.json")


def main(root="runs", figure="scaling.png"):
    """Print the table and write the figure."""
    print("       p       n        λ̂   ESS  R-hat  status  gradients   for ESS 400: gradients  seconds")
    series = {"p": [], "n": []}
    for axis, cases in (("p", [(p, 2000) for p in PARAMETERS]), ("n", [(433, n) for n in PAIRS])):
        for p, n in cases:
            found = run(root, p, n)
            total, draws = found["total_fges"], found["fges"]["draws"]
            wanted = total - draws + draws * 400 / found["ess"]
            seconds = wanted * found["timings_sec"]["sample"] / draws
            series[axis].append((found["p"] if axis == "p" else n, wanted, seconds))
            print(
                f"{found['p']:8} {n:7} {found['llc_mean']:9.2f} {found['ess']:5.0f} {found['rhat']:6.3f} {found['status']:>7} "
                f"{total:10.0f} {wanted:24.0f} {seconds:8.1f}",
                flush=True,
            )
    draw(figure, {axis: np.array(points).T for axis, points in series.items()})


def draw(path, series):
    """Gradients and seconds against p and n, with slopes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    names = {"p": "parameters p  (n = 2000)", "n": "pairs n  (p = 433)"}
    for axis, (name, (x, gradients, seconds)) in zip(axes, series.items(), strict=True):
        for y, label, colour in ((gradients, "full-data gradients", "tab:blue"), (seconds, "seconds", "tab:orange")):
            slope, offset = np.polyfit(np.log(x), np.log(y), 1)
            axis.loglog(x, y, "o", color=colour, label=f"{label}, slope {slope:.2f}")
            axis.loglog(x, np.exp(offset) * x**slope, color=colour, lw=1)
            print(f"{label} against {name}: slope {slope:.2f}")
        axis.set_xlabel(names[name])
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    axes[0].set_ylabel("cost of λ̂ with an ESS of 400, all chains")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    began = time.perf_counter()
    hydra_glue.register()
    main(*sys.argv[1:])
    print(f"{time.perf_counter() - began:.0f} s")
