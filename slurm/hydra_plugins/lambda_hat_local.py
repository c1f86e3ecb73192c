"""Hydra's plugins for running here and on a cluster: thin, because Hydra imports this at every start."""

from functools import partial

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser


class LocalSweeper(BasicSweeper):
    """The Cartesian product of the overrides, handed to the launcher in one piece; writes nothing."""

    def __init__(self, params=None):
        super().__init__(max_batch_size=None, params=params)

    def sweep(self, arguments):
        """Compose nothing here: the launcher does, once for each combination. The command line goes before `params`."""
        named = {word.lstrip("+~").split("=")[0] for word in arguments}
        arguments = [f"{key}={value}" for key, value in (self.params or {}).items() if key not in named] + arguments
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        (combinations,) = self.split_arguments(parser.parse_overrides(arguments), None)
        return self.launcher.launch(combinations, initial_job_idx=0)


class LocalLauncher(BasicLauncher):
    """Composes every combination, then has what is missing done as `hydra.launcher` says."""

    def __init__(self, **_):
        super().__init__()

    def launch(self, job_overrides, initial_job_idx):
        """Exit with the code of `lambda_hat.config.launcher.run_all`."""
        import sys

        from hydra.core.utils import configure_log, setup_globals

        from lambda_hat.config import launcher as options
        from lambda_hat.launch.compose import Composer

        setup_globals()
        configure_log(self.config.hydra.job_logging, self.config.hydra.verbose)
        compose = Composer(self.hydra_context.config_loader, self.config)
        combinations = [(partial(compose, words), words) for words in job_overrides]
        sys.exit(options.run_all(self.task_function.stage, combinations, self.config.hydra.launcher))


class SlurmLauncher(LocalLauncher):
    """The same on a cluster; `hydra.launcher` tells them apart."""
