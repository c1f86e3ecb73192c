"""How many full-data gradients λ̂ costs on the 10k-parameter network, to a Monte Carlo standard error of 0.2 %.

    python tests/benchmarks/work.py [root] [nll or mse] [seed]

Counts gradients of all chains, with warm-up and curvature (a Hessian product is two). HMC in plain coordinates has the same warm-up
and as many draws, SGLD in plain coordinates the same bias target and ten times the draws; `at 0.2 %` extrapolates where the error
is larger. γ is 100; `mse` makes the posterior fifty times hotter than `nll`.
"""

import sys

import hydra
import numpy as np

from lambda_hat.commands.main import CONF
from lambda_hat.config import hydra_glue
from lambda_hat.jobs import pipeline
from lambda_hat.system import devices

TARGET = 0.002
SHORT = {
    "hmc": {"warmup": 40, "draws": 1000},
    "mclmc": {"warmup": 40, "draws": 1000},
    "sgld": {"warmup": 40, "draws": 1000},
    "hmc plain": {"warmup": 40, "draws": 60, "metric": "identity"},
    "sgld plain": {"warmup": 40, "draws": 600, "metric": "identity"},
}
"""A warm-up that is short against the few draws that this error takes, and the most draws."""


def relative_error(excess):
    """MCSE of the mean over the mean; infinite for draws too few to tell."""
    from lambda_hat.analysis import estimates

    found = estimates.summarise(excess)
    return found.mcse / found.mean if excess.shape[1] >= 20 and found.ess > 20 else np.inf


def run(name, root, loss, seed):
    """analysis.json of a run that stops at TARGET, and the gradients that the curvature at w0 took."""
    settings = SHORT[name] | {"seed": seed}
    words = ["experiment=base", f"sampler={name.split()[0]}", f"posterior.loss={loss}", f"store.root={root}"]
    words += [f"sampler.{key}={value}" for key, value in settings.items()]
    config = hydra_glue.to_config(hydra.compose("config", words))
    devices.start(config.runtime)
    job = pipeline.job("target", config)
    if not pipeline.is_done(job):
        pipeline.make(job)

    from lambda_hat.analysis import analyse
    from lambda_hat.samplers import loop, sample
    from lambda_hat.store.journal import Journal
    from lambda_hat.targets import artifact

    loop.CHUNKS = settings["draws"] // 10

    target = artifact.read(job.directory, config.model, config.data)
    curvature = artifact.curvature(job.directory, target, config.posterior, job.directory)
    n, w0 = target.meta["dims"]["n"], target.w0
    result = sample.sample(
        config.sampler,
        config.posterior,
        target.loss(config.posterior),
        target.rows(config.sampler.dtype),
        w0,
        n,
        curvature,
        lambda *_: None,
        lambda excess, _: relative_error(excess) <= TARGET,
        Journal(),
    )
    beta, gamma = sample.inverse_temperature(config.posterior, n), sample.localization(config.posterior, len(w0))
    return analyse.analyse(config, target, result, beta, gamma), curvature.gradients


def main(root="runs", loss="nll", seed=0):
    """Print a line for each sampler."""
    print(
        f"{loss}, γ = 100         λ̂   95 % interval          MCSE    ESS  R-hat  gradients  of draws  ESS/1000  at 0.2 %"
    )
    for name in SHORT:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            found, curvature = run(name, root, loss, seed)
        error, spent = found["llc_mcse"] / found["llc_mean"], found["fges"]
        total = curvature + spent["warmup"] + spent["draws"]
        needed = total + spent["draws"] * (max(1.0, error / TARGET) ** 2 - 1)
        low, high = found["llc_interval95"]
        print(
            f"{name:10} {found['llc_mean']:13.1f}   [{low:7.1f}, {high:7.1f}] {100 * error:7.2f} % {found['ess']:6.0f} "
            f"{found['rhat']:6.3f} {total:10.0f} {spent['draws']:9.0f} {1000 * found['ess'] / total:9.1f} {needed:9.0f}",
            flush=True,
        )


if __name__ == "__main__":
    hydra_glue.register()
    main(*sys.argv[1:])
