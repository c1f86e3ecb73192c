"""Runs combinations here, one after the other: all are checked before any starts, finished ones are skipped."""

import logging
import sys
import time
from pathlib import Path

from lambda_hat import pipeline
from lambda_hat.errors import ConfigError, UserError
from lambda_hat.hydra_glue import to_config

log = logging.getLogger(__name__)


def run_all(stage, composed):
    """Make what is missing of these combinations and say what came out.

    Arguments:
        stage: `target` or `run`.
        composed: pairs of a composed configuration and the command line's overrides.

    Returns:
        the exit code: 1 if anything failed (or, with strict=true, is bad).

    Raises:
        ConfigError: naming every combination that cannot be run; then nothing has been done.
    """
    jobs = _checked(stage, composed)
    code = 0
    for number, job in enumerate(jobs):
        if pipeline.is_done(job):
            continue
        if len(jobs) > 1:
            log.info("[%d/%d] %s", number + 1, len(jobs), job.directory)
        code |= _make(job, number)
    for job in jobs:
        if pipeline.store.is_done(job.directory):
            try:
                log.info(pipeline.result_line(job))
                code |= job.config.strict and pipeline.verdict(job) == "bad"
            except UserError as error:
                log.error(str(error))
                code = 1
    return int(code)


def _checked(stage, composed):
    jobs, refused = {}, []
    for cfg, overrides in composed:
        try:
            config = to_config(cfg)
            if config.target is not None:
                _refuse_restated(overrides)
            job = pipeline.job(stage, config)
            jobs.setdefault(job.directory, job)
        except UserError as error:
            named = " ".join(overrides)
            refused += [line if len(composed) == 1 else f"[{named}] {line}" for line in str(error).splitlines()]
    if refused:
        raise ConfigError("\n".join(dict.fromkeys(refused)))
    return list(jobs.values())


def _refuse_restated(overrides):
    for override in overrides:
        key = override.lstrip("+~").split("=")[0]
        if key.split(".")[0].split("@")[0] in ("model", "data", "training", "seed"):
            raise ConfigError(f"{key} cannot be set together with target=, which fixes it; leave one of the two out.")


def _make(job, number):
    """Do one job with its log in a file of its own; returns 1 if it failed."""
    directory = Path(job.config.store.log_dir) / str(number)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "log.txt"
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    began = time.perf_counter()
    try:
        log.debug("command: %s", " ".join(sys.argv))
        pipeline.make(job, str(path))
        log.debug("finished in %.1f s", time.perf_counter() - began)
        return 0
    except UserError as error:
        log.error("failed: %s", error)
    except Exception as error:  # the last line of defence: other combinations go on, the traceback is in the log
        log.error("failed: %s: %s\n       traceback in %s", type(error).__name__, str(error).split("\n")[0], path)
        handler.stream.write(_traceback(error))
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    return 1


def _traceback(error):
    import traceback

    return "".join(traceback.format_exception(error))
