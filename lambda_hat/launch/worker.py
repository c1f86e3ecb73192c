"""A process of its own, in a SLURM job or here: makes what the job.json in its directory says, one after the other.

    python -P -m lambda_hat.launch.worker <directory>

Exits with 1 if any failed, so that SLURM knows; the others are made all the same. Where the job's time is up, it keeps what
there is and goes back to the queue.
"""

import logging
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path

from lambda_hat.system import stopping

log = logging.getLogger(__name__)


def main(directory):
    """Make everything; returns the exit code."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("jax", "absl", "arviz"):
        logging.getLogger(name).setLevel(logging.WARNING)
    stopping.listen()  # before anything takes long
    from lambda_hat.config import hydra_glue
    from lambda_hat.launch import task
    from lambda_hat.system.errors import Stopped, UserError

    hydra_glue.register()
    try:
        told = task.read(directory)
    except UserError as error:
        log.error(str(error))
        return 1
    stopping.listen(partial(_give_way, told, directory))
    _settle(told)
    try:
        return _make_all(told, directory)
    except Stopped as stop:
        _give_way(told, directory, stop.signal)
        return 128 + stop.signal


def _settle(told):
    """What the environment has to say to JAX, before that is imported."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if cores := told.get("cores"):
        os.sched_setaffinity(0, cores)
    if told["gpus"] == 0:  # where nothing keeps a job from the node's GPUs, it must not take one
        os.environ["JAX_PLATFORMS"] = "cpu"
    from lambda_hat.launch import task
    from lambda_hat.store import lease as leases

    where = f"SLURM job {leases.slurm_job()}, " if leases.slurm_job() else ""
    restarts = os.environ.get("SLURM_RESTART_COUNT")
    log.info(
        "%sprocess %d on %s, GPUs %s%s",
        where,
        os.getpid(),
        os.uname().nodename,
        os.environ.get("CUDA_VISIBLE_DEVICES") or "none",
        f", start {int(restarts) + 1}" if restarts else "",
    )
    if told["code"]["sha256"] != task.code()["sha256"]:
        log.warning(
            "this job was submitted with other code (%s) than it now runs (%s); hydra.launcher.snapshot=true keeps the code too",
            *(f"{code['commit']}, {code['sha256'][:12]}" for code in (told["code"], task.code())),
        )


def _make_all(told, directory):
    from lambda_hat.launch import task

    through = task.finished(directory)
    code = 0
    for frozen in told["jobs"]:
        if frozen.name not in through:
            stopping.check()
            failed = _make(frozen, told)
            task.finish(directory, frozen.name, failed)
        else:
            failed = through[frozen.name]
        code |= failed
    return int(code)


def _make(frozen, told):
    """Make one job; returns whether it failed."""
    from lambda_hat import store
    from lambda_hat.jobs import pipeline
    from lambda_hat.system.errors import Deposed, StoreError, UserError

    sys.argv = frozen.command  # what records of this attempt say to type
    job = None
    try:
        job = _as_allotted(frozen.job(), told)
        if not pipeline.is_done(job):
            if not told["builds"] and job.stage == "run" and not store.is_done(job.paths.target):
                raise StoreError(
                    f"{job.paths.target} is not there: its build failed; see {job.paths.failure('target')}."
                )
            pipeline.make(job, told["log"])
            _tell_of_idle_gpus(told)
        log.info(pipeline.result_line(job))
        return pipeline.fails(job)
    except Deposed as error:  # the notes in its work directory are the next owner's
        log.error("stopped: %s", error)
        return True
    except UserError as error:
        log.error("failed: %s", error)
    except Exception:  # the last line of defence: the others go on, and the traceback is in this job's log
        log.error("failed: %s\n%s", frozen.name, traceback.format_exc())
    if job is not None:
        (job.paths.work(job.stage) / "submitted.json").unlink(missing_ok=True)
        try:
            job.paths.work(job.stage).rmdir()
        except OSError:  # a checkpoint keeps it, or it was never made
            pass
    return True


def _as_allotted(job, told):
    """A target is built whether its job holds a GPU or not; a run that needs one and holds none fails with a sentence."""
    runtime = job.config.runtime
    if told["gpus"] != 0 or job.stage == "run":
        return job
    return job._replace(config=replace(job.config, runtime=replace(runtime, platform="cpu")))


def _tell_of_idle_gpus(told):
    jax = sys.modules.get("jax")
    if told["gpus"] and jax and jax.default_backend() == "cpu" and "cpu" not in os.environ.get("JAX_PLATFORMS", ""):
        log.warning(
            "this job holds %d GPU(s) and JAX uses none: install jax with CUDA in %s, or set resources.run.gpus=0",
            told["gpus"],
            sys.executable,
        )


def _give_way(told, directory, number):
    """The job's time is up (USR2), and it goes back to the queue; or SLURM ends it for reasons of its own (TERM)."""
    from lambda_hat.launch import task

    name = signal.Signals(number).name
    if number != signal.SIGUSR2 or "SLURM_JOB_ID" not in os.environ:
        log.warning("stopped by %s; the same command goes on", name)
        return
    if not task.count_requeue(directory, told["max_requeues"]):
        _leave_record(told, directory)
        return
    log.warning("stopped by %s: back to the queue, to go on from what is kept", name)
    sys.stdout.flush()
    done = subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], capture_output=True, text=True)
    if done.returncode:
        log.error("failed: scontrol requeue: %s; the same command goes on", done.stderr.strip())


def _leave_record(told, directory):
    from lambda_hat import store
    from lambda_hat.launch import task
    from lambda_hat.store import lease as leases

    error = (
        f"time was up {told['max_requeues'] + 1} times, as often as hydra.launcher.max_requeues lets it; the same command goes "
        "on from what is kept, or give it more time with resources.run.timeout_min or hydra.launcher.timeout_min."
    )
    log.error("failed: %s", error)
    frozen = next(one for one in told["jobs"] if one.name not in task.finished(directory))
    job = frozen.job()
    record = {"error": error, "kind": "Stopped", "traceback": None, "log": told["log"], "slurm_job": leases.slurm_job()}
    job.paths.failure(job.stage).parent.mkdir(exist_ok=True)
    store.write_note(job.paths.failure(job.stage), record | {"command": frozen.command, "created_at": store.now()})


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # waits for no thread: all that counts is on the disk
