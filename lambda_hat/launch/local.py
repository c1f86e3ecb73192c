"""Runs combinations here, one after the other: all are checked before any starts, finished ones are skipped."""

import contextlib
import logging
import os
import sys
import time
from pathlib import Path

from lambda_hat import messages, pipeline, stopping
from lambda_hat.errors import ConfigError, StoreError, UserError
from lambda_hat.hydra_glue import to_config

log = logging.getLogger(__name__)


def run_all(stage, combinations):
    """Make what is missing of these combinations and say what came out.

    Arguments:
        stage: `target` or `run`.
        combinations: pairs of a function that composes the configuration and the command line's overrides.

    Returns:
        the exit code: 1 if anything failed or has no finite λ̂ (or, with strict=true, is bad).

    Raises:
        ConfigError: naming every combination that cannot be run; then nothing has been done.
    """
    jobs = _checked(stage, combinations)
    code, left = 0, {root: _left_over(root) for root in {job.paths.root for job in jobs}}
    for number, job in enumerate(jobs):
        if pipeline.is_done(job):
            if job.paths.name(stage) in left[job.paths.root]:
                pipeline.tidy(job)
            continue
        if len(jobs) > 1:
            log.info("[%d/%d] %s", number + 1, len(jobs), job.directory)
        stopping.listen()
        code |= _make(job, number)
    for job in jobs:
        if pipeline.store.is_done(job.directory):
            try:
                log.info(pipeline.result_line(job))
                code |= pipeline.fails(job)
            except UserError as error:
                log.error(str(error))
                code = 1
    return int(code)


def _left_over(root):
    """Names of work directories, of which one that is done has been left by a process that died."""
    try:
        return set(os.listdir(root / "work"))
    except OSError:
        return set()


def _checked(stage, combinations):
    if not combinations:
        raise ConfigError("The sweep has no combination: a range(…) or glob(…) on the command line is empty.")
    jobs, refused = {}, {}
    for compose, overrides in combinations:
        try:
            config = to_config(compose())
            if config.target is not None:
                _refuse_restated(overrides)
            job = pipeline.job(stage, config)
            jobs.setdefault(job.directory, job)
        except Exception as error:
            if not (isinstance(error, UserError) or messages.is_of_composition(error)):
                raise
            for line in messages.of(error).splitlines():
                refused.setdefault(line, []).append(" ".join(overrides))
    if refused:  # what is wrong with every combination is said once
        raise ConfigError(
            "\n".join(
                said
                for line, names in refused.items()
                for said in ([line] if len(names) == len(combinations) else [f"[{name}] {line}" for name in names])
            )
        )
    return list(jobs.values())


def _refuse_restated(overrides):
    for override in overrides:
        key = override.lstrip("+~").split("=")[0]
        if key.split(".")[0].split("@")[0] in ("model", "data", "training", "seed"):
            raise ConfigError(f"{key} cannot be set together with target=, which fixes it; leave one of the two out.")


def _make(job, number):
    """Do one job with its log in a file of its own; returns 1 if it failed."""
    path = Path(job.config.store.log_dir) / str(number) / "log.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path)
    except OSError as error:
        raise StoreError(
            f"store.root={job.config.store.root}: nothing can be written there ({error.strerror}: {error.filename}); "
            "choose a directory of yours."
        ) from error
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
        with contextlib.suppress(OSError):
            handler.stream.write(_traceback(error))
    finally:
        logging.getLogger().removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()
    return 1


def _traceback(error):
    import traceback

    return "".join(traceback.format_exception(error))
