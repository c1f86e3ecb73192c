"""What submitit runs, in a SLURM job or a process here: makes some of a launch's frozen jobs, one after the other.

submitit pickles a `Task` by reference: this module's name, the class's and its attributes are what queued jobs know.
"""

import logging
import os
import signal
import sys
import traceback
from dataclasses import replace

os.environ.setdefault(
    "SUBMITIT_LOG_LEVEL", "NOCONFIG"
)  # else importing submitit closes all handlers of logs, and adds its own
import submitit
from submitit.core.utils import UncompletedJobError

from lambda_hat.system import stopping
from lambda_hat.system.errors import Deposed, Stopped, StoreError, TimeIsUp, UserError

log = logging.getLogger(__name__)


class TaskFailed(Exception):
    """Something was not made, which is told in the log: the job must not end as if it had been."""


class Task(submitit.helpers.Checkpointable):
    """Some of a launch's jobs, which share a process. Called again after a requeue, it goes on.

    Arguments:
        launch: path of the launch's JSON file.
        names: of what is to be made, in this order.
        gpus: how many GPUs were asked for.
        builds: whether a run may build its target.
        cores: the cores to keep to; None = all.
        visible: what CUDA_VISIBLE_DEVICES is to be; None = as it is.
    """

    def __init__(self, launch, names, gpus, builds=True, cores=None, visible=None):
        self.launch, self.names, self.gpus, self.builds = str(launch), list(names), gpus, builds
        self.cores, self.visible = cores, visible

    def __call__(self):
        """Make everything that is not made yet.

        Raises:
            TaskFailed: where anything failed; the others are made all the same.
        """
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's: counts, tells SLURM to requeue, and exits
        paths = submitit.JobEnvironment().paths
        for path in (paths.submitted_pickle, paths.result_pickle):  # a left-over half would stop submitit
            path.with_suffix(path.suffix + ".save_tmp").unlink(missing_ok=True)
        _say_to(sys.stdout)

        def give_way(number):
            self._give_way(number, requeue, paths)

        stopping.listen(give_way)  # work stops at a safe point only
        from lambda_hat.launch import frozen

        told = frozen.read(self.launch)
        self._settle(told)
        try:
            failed = [name for name in self.names if not self._make(told["jobs"][name], told, paths)]
        except Stopped as stop:
            code = self._give_way(stop.signal, requeue, paths)
            logging.shutdown()
            os._exit(code)
        if failed:
            raise TaskFailed(f"{', '.join(failed)} failed, for reasons told above")

    def _settle(self, told):
        """What the environment has to say to JAX, before that is imported."""
        from lambda_hat.launch import frozen
        from lambda_hat.store import lease as leases

        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        if self.cores:
            os.sched_setaffinity(0, self.cores)
        if self.visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.visible
        if self.gpus == 0:  # where nothing keeps a job from the node's GPUs, it must not take one
            os.environ["JAX_PLATFORMS"] = "cpu"
        restarts = os.environ.get("SLURM_RESTART_COUNT")
        log.info(
            "%sprocess %d on %s, GPUs %s%s",
            f"SLURM job {leases.slurm_job()}, " if leases.slurm_job() else "",
            os.getpid(),
            os.uname().nodename,
            os.environ.get("CUDA_VISIBLE_DEVICES") or "none",
            f", start {int(restarts) + 1}" if restarts else "",
        )
        if told["code"]["sha256"] != frozen.code()["sha256"]:
            log.warning(
                "this job was submitted with other code (%s) than it now runs (%s); hydra.launcher.snapshot=true keeps the "
                "code too",
                *(f"{code['commit']}, {code['sha256'][:12]}" for code in (told["code"], frozen.code())),
            )

    def _make(self, one, told, paths):
        """Make one job; returns whether it is there, and no failure."""
        from lambda_hat import store
        from lambda_hat.jobs import pipeline
        from lambda_hat.launch import frozen
        from lambda_hat.store import lease as leases

        stopping.check()
        sys.argv = one.command  # what records of this attempt say to type
        job = None
        try:
            job = _as_allotted(one.job(), self.gpus)
            if not frozen.is_made(job, told["at"]):
                record = store.read_note(job.paths.failure(job.stage))
                if leases.slurm_job() and record.get("slurm_job") == leases.slurm_job():
                    return False  # it failed before this job was requeued
                if not self.builds and job.stage == "run" and not store.is_done(job.paths.target):
                    raise StoreError(
                        f"{job.paths.target} is not there: its build failed; see {job.paths.failure('target')}."
                    )
                pipeline.make(job, str(paths.stdout), self.gpus)
                self._tell_of_idle_gpus()
            return not pipeline.tell_result(job)
        except Deposed as error:  # the notes in its work directory are the next owner's
            log.error("stopped: %s", error)
            return False
        except UserError as error:
            log.error("failed: %s", error)
        except Exception:  # the last line of defence: the others go on, and the traceback is in this job's log
            log.error("failed: %s\n%s", one.name, traceback.format_exc())
        if job is not None:
            frozen.take_back(job)
        return False

    def _tell_of_idle_gpus(self):
        jax = sys.modules.get("jax")
        if self.gpus and jax and jax.default_backend() == "cpu":
            on_cpu = "cpu" in (os.environ.get("JAX_PLATFORMS", ""), jax.config.jax_platforms)
            log.warning(
                "this job asked for %d GPU(s) and JAX uses none: %s, or set resources.run.gpus=0",
                self.gpus,
                "it was told to use the CPU; unset runtime.platform=cpu and the environment variable JAX_PLATFORMS"
                if on_cpu
                else f"pip install 'jax[cuda12]' for {sys.executable}",
            )

    def _give_way(self, number, requeue, paths):
        """The job's time is up (USR2), and it goes back to the queue; or SLURM ends it for reasons of its own (TERM).

        Returns:
            the exit code.
        """
        name = signal.Signals(number).name
        if number != signal.SIGUSR2:
            log.warning("stopped by %s; the same command goes on", name)
            return 128 + number
        log.warning("stopped by %s: back to the queue, to go on from what is kept", name)
        delayed = requeue.__self__._delayed
        if delayed._timeout_min is None:  # the partition's limit, which submitit does not know
            delayed._timeout_min = 0
        try:
            requeue(number, None)
        except SystemExit as end:  # requeued
            return end.code if isinstance(end.code, int) and end.code > 0 else 128 + number
        except UncompletedJobError:
            self._leave_record(paths)
        except Exception as error:
            log.error("failed: scontrol requeue: %s; the same command goes on", error)
        return 128 + number

    def _leave_record(self, paths):
        """SLURM has ended this job as often as it was allowed to: say so where failures are told."""
        from lambda_hat.jobs import pipeline
        from lambda_hat.launch import frozen

        told = frozen.read(self.launch)
        error = TimeIsUp(
            "time was up too many times, as often as hydra.launcher.max_num_timeout lets it; the same command goes on from what "
            "is kept, or give it more time with resources.run.timeout_min or hydra.launcher.timeout_min."
        )
        log.error("failed: %s", error)
        for one in (told["jobs"][name] for name in self.names):
            job = one.job()
            if not frozen.is_made(job, told["at"]):
                sys.argv = one.command
                pipeline.record_failure(job, error, str(paths.stdout))
                return


def _say_to(stream):
    """One line for each message: submitit's own handlers would say its messages two or three times."""
    submitits = logging.getLogger("submitit")
    submitits.handlers.clear()
    submitits.propagate = True
    submitits.setLevel(logging.INFO)
    logging.basicConfig(stream=stream, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("jax", "absl", "arviz"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _as_allotted(job, gpus):
    """A target is built whether its job holds a GPU or not; a run that needs one and holds none fails with a sentence."""
    if gpus != 0 or job.stage == "run":
        return job
    return job._replace(config=replace(job.config, runtime=replace(job.config.runtime, platform="cpu")))
