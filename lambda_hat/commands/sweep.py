"""What a sweep's overrides would make: a record for each of its combinations, composed as bin/sample.py does. Does no work."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from lambda_hat import store
from lambda_hat.config import hydra_glue, messages, overrides, sweeps
from lambda_hat.config.options import conf_directory
from lambda_hat.inspect.records import RunRecord, flat
from lambda_hat.launch import plan
from lambda_hat.launch.compose import Composer
from lambda_hat.system.errors import ConfigError, UserError


class Sweep(NamedTuple):
    """The root that a sweep writes to, and its records, all of them `missing`."""

    root: Path
    records: list[RunRecord]


def records(words, root=None):
    """The `Sweep` that `bin/sample.py -m <words>` would run.

    Arguments:
        root: takes the place of store.root.

    Raises:
        ConfigError: where a combination cannot be run.
    """
    hydra_glue.register()
    overrides.check(words)
    words = overrides.as_sweep(list(words)) + ([f'store.root="{root}"'] if root is not None else [])
    try:
        with initialize_config_dir(str(conf_directory()), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            master = loader.load_configuration("config", words, RunMode.MULTIRUN)
            sweeper = master.hydra.sweeper
            compose = Composer(loader, master)
            combinations = sweeps.combinations(
                list(master.hydra.overrides.task), sweeper.get("params"), loader, sweeper.max_combinations, compose
            )
            jobs_of = [(partial(compose, words), words) for words in combinations]
            jobs = [item.job for item in plan.checked("run", jobs_of)]
    except Exception as error:
        if isinstance(error, UserError) or not messages.is_of_composition(error):
            raise
        raise ConfigError(messages.of(error)) from error
    return Sweep(jobs[0].paths.root, [_record(job) for job in jobs])


def _record(job):
    paths, config = job.paths, job.config
    keys = store.STAGES["target"].keys + store.STAGES["run"].keys
    settings = flat({key: store.plain(getattr(config, key)) for key in keys})
    return RunRecord(
        state="missing",
        target_id=paths.target_id,
        run_id=paths.run_id,
        directory=paths.run,
        settings=settings,
        notes=["not begun"],
    )
