"""Experiment loggers: told how each run goes and what came out. Each package is imported only when its logger is chosen.

A logger is beside the work: where it fails it is given up with one warning, and the run goes on.
"""

import importlib.util
import logging
import math
import os
from pathlib import Path

from lambda_hat.analysis.summary import Summary
from lambda_hat.system.errors import ConfigError

log = logging.getLogger(__name__)

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow-skinny"}
"""What `pip install` takes, by logger."""

MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
"""What is imported, by logger."""

SERIES = ("llc", "mcse", "ess", "rhat", "acceptance")
"""What is logged at each report, against the number of draws."""


def check(logger):
    """See that the logger's package is installed; imports nothing.

    Raises:
        ConfigError: where it is not.
    """
    if importlib.util.find_spec(MODULES[logger.name]) is None:
        raise ConfigError(
            f"logger={logger.name} needs a package that is not installed: pip install {PACKAGES[logger.name]}; or leave "
            "logger out."
        )


def open_for(job):
    """The `Guarded` logger of a run, a `pipeline.Job`; a context manager."""
    return Guarded(job, _LOGGERS[job.config.logger.name])


class Guarded:
    """A logger whose failures end nothing but itself.

    Attributes:
        logger: what is told; None after its first failure.
    """

    def __init__(self, job, make):
        self._job, self._make, self.logger = job, make, None

    def __enter__(self):
        self._try(self._open)
        return self

    def __exit__(self, kind, *_):
        if kind is None and (logger := self.logger) is not None:
            self._try(lambda: self._finish(logger))
        if (logger := self.logger) is not None:
            self._try(lambda: logger.close(failed=kind is not None))

    def __call__(self, report):
        """Log a report, which is what progress.json says."""
        if (logger := self.logger) is not None and report.get("phase") == "sample":
            values = {key: report[key] for key in SERIES if _is_number(report.get(key))}
            self._try(lambda: logger.series(values, report["draw"]))

    def _open(self):
        job = self._job
        settings = {
            f"{group}.{key}" if key else group: value
            for group, values in job.settings.items()
            for key, value in (values.items() if isinstance(values, dict) else [("", values)])
        }
        self.logger = self._make(job.config.logger, job.paths.name("run"), settings)

    def _finish(self, logger):
        summary = Summary.read(self._job.paths.run)
        logger.summary(summary.logged(), {"status": summary.status, "directory": os.fspath(self._job.paths.run)})

    def _try(self, do):
        try:
            do()
        except Exception as error:  # whatever a foreign package raises: numbers are not to be lost to it
            name, self.logger = self._job.config.logger.name, None
            first = (str(error).splitlines() or [""])[0]
            log.warning("logger=%s failed and is given up for this run: %s: %s", name, type(error).__name__, first)


def _is_number(value):
    return isinstance(value, (int, float)) and math.isfinite(value)


# --- one class each: made of its configuration, a run's name and its settings -----------------------------------------


class _TensorBoard:
    def __init__(self, config, name, settings):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(os.fspath(Path(config.directory) / name.replace(".", "/")))
        lines = (f"| {key} | {value} |" for key, value in settings.items())
        self._writer.add_text("settings", "\n".join(["| setting | value |", "| --- | --- |", *lines]))

    def series(self, values, step):
        for key, value in values.items():
            self._writer.add_scalar(f"draws/{key}", value, step)

    def summary(self, values, words):
        for key, value in values.items():
            self._writer.add_scalar(f"result/{key}", value, 0)
        for key, value in words.items():
            self._writer.add_text(f"result/{key}", value)

    def close(self, failed):
        self._writer.close()


class _WandB:
    def __init__(self, config, name, settings):
        import wandb  # pyright: ignore[reportMissingImports]  installed by those who log to it

        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            mode=config.mode,
            dir=config.directory,
            name=name,
            group=name.partition(".")[0],
            config=settings,
            reinit="create_new",
        )

    def series(self, values, step):
        self._run.log(values, step=step)

    def summary(self, values, words):
        self._run.summary.update(values | words)

    def close(self, failed):
        self._run.finish(exit_code=int(failed))


class _MLflow:
    def __init__(self, config, name, settings):
        if "://" not in config.tracking_uri:  # a directory of plain files, which MLflow wants to be asked for
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]  as wandb
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]  as wandb

        self._client = MlflowClient(tracking_uri=config.tracking_uri)
        self._id = self._client.create_run(self._experiment(config.experiment), run_name=name).info.run_id
        self._client.log_batch(self._id, params=[Param(key, str(value)) for key, value in settings.items()])

    def _experiment(self, name):
        from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]  as wandb

        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        try:
            return self._client.create_experiment(name)
        except MlflowException:  # another run made it meanwhile
            return self._client.get_experiment_by_name(name).experiment_id

    def series(self, values, step):
        for key, value in values.items():
            self._client.log_metric(self._id, key, value, step=step)

    def summary(self, values, words):
        self.series(values, 0)
        for key, value in words.items():
            self._client.set_tag(self._id, key, value)

    def close(self, failed):
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


_LOGGERS = {"tensorboard": _TensorBoard, "wandb": _WandB, "mlflow": _MLflow}
