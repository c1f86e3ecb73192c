"""From the combinations of a sweep to where they are made: here, in processes of this machine, or on a cluster."""

from lambda_hat.config import launcher


def run_all(stage, combinations, hydra):
    """Make what is missing of these combinations where `hydra.launcher` says; returns the exit code.

    Arguments:
        stage: `target` or `run`.
        combinations: pairs of a function that composes the `Config` and the command line's overrides.
        hydra: the composed `hydra`.
    """
    options = launcher.of(hydra)
    if isinstance(options, launcher.Slurm):
        from lambda_hat.launch import cluster

        return cluster.run_all(stage, combinations, options)
    from lambda_hat.launch import local

    return local.run_all(stage, combinations, options)
