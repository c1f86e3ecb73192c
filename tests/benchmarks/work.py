"""What λ̂ costs to a given error: full-data gradients by sampler, and by plain SGLD over a grid of step sizes and minibatches.

    python tests/benchmarks/work.py [root=runs/work] [network=small] [seeds=10] [samplers=hmc,mclmc,sgld] [grid=true]

For each sampler and each error asked for (0.5 % and 0.2 % of λ̂): the mean of λ̂ over sampler seeds, its standard deviation, the
mean of the standard errors that the runs state, the gradients of curvature, warm-up and draws (all chains; what they measure
counts), and `marginal`, the squared standard deviation times the gradients of the draws. The grid's steps are Euler's in plain
coordinates, with no calibration and 500 draws of 20 transitions after 50 of warm-up; its error is the root mean square from the
reference, the mean of the exact samplers' runs.
"""

import sys
from dataclasses import replace

import hydra
import numpy as np

from lambda_hat.commands.main import CONF
from lambda_hat.config import hydra_glue
from lambda_hat.jobs import pipeline
from lambda_hat.system import devices

TARGETS = (0.005, 0.002)
EXACT = ("hmc", "amclmc", "nuts", "mala")
STEPS = (3e-6, 1e-5, 3e-5)
BATCHES = (50, 200, 1000)


def compose(*overrides):
    """The configuration that a command line gives."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_glue.to_config(hydra.compose("config", list(overrides)))


def build(config):
    """The target of a configuration, made where it is not there, and its curvature."""
    job = pipeline.job("target", config)
    if not pipeline.is_done(job):
        pipeline.make(job)
    from lambda_hat.targets import artifact

    target = artifact.read(job.directory, config.model, config.data)
    return target, artifact.curvature(job.directory, target, config.posterior, job.directory)


def summary(config, target, curvature, **changes):
    """What analysis.json says of a run with these settings of the sampler."""
    from lambda_hat.analysis import estimation

    settings = estimation.Settings(config.posterior, replace(config.sampler, **changes))
    silent = {"log": lambda *_: None, "report": lambda **_: None}
    return estimation.estimate_llc(target, curvature, settings, **silent).summary


def of_sampler(name, root, network, seeds):
    """A line for each error asked for; the estimates of the smallest."""
    config = compose(
        f"model={network}", f"data={network}", f"sampler={name}", f"store.root={root}", "sampler.draws=20000"
    )
    devices.start(config.runtime)
    target, curvature = build(config)
    for wanted in TARGETS:
        runs = [summary(config, target, curvature, seed=seed, mcse_target=wanted) for seed in range(seeds)]
        llc = np.array([run.llc_mean for run in runs])
        work = np.array([(run.fges.curvature, run.fges.warmup, run.fges.draws) for run in runs]).mean(0)
        held = sum(run.llc_interval95[0] <= np.mean(llc) <= run.llc_interval95[1] for run in runs)
        print(
            f"{name:7} {100 * wanted:6.1f} % {llc.mean():9.3f} {llc.std(ddof=1):7.3f} "
            f"{np.mean([run.llc_mcse for run in runs]):7.3f} {work[0]:9.0f} {work[1]:8.0f} {work[2]:8.0f} {work.sum():8.0f} "
            f"{llc.var(ddof=1) * work[2]:9.0f}  {sum(run.status == 'ok' for run in runs)}/{seeds} ok, {held}/{seeds} hold the mean",
            flush=True,
        )
    return llc


def of_grid(root, network, seeds, reference):
    """A line for each step size and minibatch of plain SGLD."""
    plain = ("sampler.integrator=euler", "sampler.metric=identity", "sampler.control_variate=false", "sampler.thin=20")
    config = compose(
        *(f"model={network}", f"data={network}", "sampler=sgld", f"store.root={root}"),
        *("sampler.draws=500", "sampler.warmup=50", "sampler.mcse_target=null", *plain),
    )
    target, curvature = build(config)
    n = target.meta["dims"]["n"]
    print(
        f"\nplain SGLD, reference {reference:.3f}\n   step  batch  mean of λ̂  rms error  gradients  error² × gradients"
    )
    for step in STEPS:
        for batch in (batch for batch in BATCHES if batch <= n):
            runs = [
                summary(config, target, curvature, seed=seed, step_size=step, batch_size=batch) for seed in range(seeds)
            ]
            llc = np.array([run.llc_raw if run.llc_raw is not None else np.nan for run in runs])
            gradients = 4 * 550 * 20 * batch / n
            error2 = np.mean((llc - reference) ** 2)
            print(
                f"{step:7.0e} {batch:6} {llc.mean():11.3f} {np.sqrt(error2):10.3f} {gradients:10.0f} {error2 * gradients:14.0f}",
                flush=True,
            )


def main(root="runs/work", network="small", seeds="10", samplers="hmc,mclmc,sgld,amclmc,nuts,mala", grid="true"):
    """Print the tables."""
    print("sampler  error     mean of λ̂     sd    MCSE curvature  warm-up    draws   all in  marginal")
    exact = []
    for name in samplers.split(","):
        llc = of_sampler(name, root, network, int(seeds))
        exact += list(llc) if name in EXACT else []
    if grid == "true":
        of_grid(root, network, int(seeds), np.mean(exact))


if __name__ == "__main__":
    hydra_glue.register()
    main(**dict(word.split("=", 1) for word in sys.argv[1:]))
