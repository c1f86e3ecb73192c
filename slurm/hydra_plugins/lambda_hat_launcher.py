"""Hydra's plugins for running here and on a cluster: thin, because Hydra imports this at every start."""

from functools import partial

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra_plugins.hydra_submitit_launcher import submitit_launcher


class LocalSweeper(Sweeper):
    """The Cartesian product of the overrides, handed to the launcher in one piece; writes nothing."""

    def __init__(self, params=None, max_combinations=10_000):
        self.params, self.max_combinations = params, max_combinations

    def setup(self, *, hydra_context, task_function, config):
        """Keep what Hydra gives every sweeper, and make the launcher: ours, also where a YAML's `_target_` is the stock one."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = HereLauncher()
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments):
        """Compose nothing here: the launcher does, once for each combination."""
        from lambda_hat.config import sweeps
        from lambda_hat.launch.compose import Composer

        loader = self.hydra_context.config_loader
        compose = Composer(loader, self.config)
        combinations = sweeps.combinations(arguments, self.params, loader, self.max_combinations, compose)
        return self.launcher.launch(combinations, initial_job_idx=0)


class HereLauncher(Launcher):
    """Composes every combination, then has what is missing done as `hydra.launcher` says."""

    def __init__(self, **_):
        pass

    def setup(self, *, hydra_context, task_function, config):
        """Keep what Hydra gives every launcher."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides, initial_job_idx):
        """Exit with the code of `lambda_hat.launch.combinations.run_all`."""
        import sys

        from hydra.core.utils import configure_log, setup_globals

        from lambda_hat.launch.combinations import run_all
        from lambda_hat.launch.compose import Composer

        setup_globals()
        configure_log(self.config.hydra.job_logging, self.config.hydra.verbose)
        compose = Composer(self.hydra_context.config_loader, self.config)
        combinations = [(partial(compose, words), words) for words in job_overrides]
        sys.exit(run_all(self.task_function.stage, combinations, self.config.hydra))


class LocalLauncher(HereLauncher, submitit_launcher.LocalLauncher):
    """The same in processes of their own."""


class SlurmLauncher(HereLauncher, submitit_launcher.SlurmLauncher):
    """The same on a cluster."""
