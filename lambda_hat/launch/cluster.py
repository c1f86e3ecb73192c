"""A sweep becomes SLURM jobs through submitit: what is missing is frozen, submitted, and noted where it will be made."""

import contextlib
import fcntl
import io
import logging
import math
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from lambda_hat.launch import frozen, plan, slurm, watch
from lambda_hat.launch.arrays import arrays, request
from lambda_hat.system.errors import ConfigError

log = logging.getLogger(__name__)

HANDED_ON = ("qos", "comment", "constraint", "exclude", "account", "mem_per_cpu", "signal_delay_s", "array_parallelism")
HANDED_ON += ("srun_args", "stderr_to_stdout")
"""Options that sbatch or submitit takes as they are."""

OF_GPUS = ("gres", "cpus_per_gpu", "gpus_per_task", "mem_per_gpu")
"""The same for jobs that make runs."""

TAGS = "%[jAat]"
"""What submitit and SLURM take in a path for a number of the job's."""


class Submitted(NamedTuple):
    """An item in the queue.

    Attributes:
        slurm_job: its id; None where a process makes it.
        log: path of its log; None where another launch submitted it.
        needs: name of the target that it waits for, or None.
        since: when this launch began, in seconds since 1970.
    """

    item: plan.Item
    slurm_job: str | None
    log: Path | None = None
    needs: str | None = None
    since: float = 0.0


def run_all(stage, combinations, options):
    """Submit what is missing of these combinations and, if asked, wait for it; returns the exit code.

    Arguments:
        stage: `target` or `run`.
        combinations: pairs of a function that composes the `Config` and the command line's overrides.
        options: `config.launcher.Slurm`.

    Raises:
        ConfigError: naming every combination that cannot be run; then nothing has been submitted.
        SlurmError: where SLURM refuses; then nothing is left submitted.
    """
    items = plan.checked(stage, combinations)
    for item in items:
        request(item, options)
        request(item.target(), options)
    folder = _folder(items[0], options)
    found = plan.make(items, _alive_if_asked if options.dry_run else slurm.alive)
    submitted = []
    for line in plan.checkpoints(items):
        log.info(line)
    if options.dry_run or not found.missing:
        log.info(found.line("to submit"))
        if options.dry_run:
            _show(arrays(found, options, _largest()), folder, items[0], options)
            return 0
    else:
        plan.try_out(found, platform="cpu")
        largest = slurm.largest_array()  # asked before anything is written: there may be no SLURM
        with _alone([item.job for item in found.missing]):
            found = plan.make(items, slurm.alive)  # another launch may have been at it
            log.info(found.line("to submit"))
            watch.tell_of_former_attempts(found)
            if found.missing:
                submitted = _submit(arrays(found, options, largest), folder, options)
    plan.tidy(found)
    code = plan.tell_results(found.done)
    waiting = [*submitted, *_others(found, submitted)]
    if submitted:
        log.info(watch.how_to_go_on(submitted))
    if options.wait and waiting:
        return code | watch.follow(waiting, options)
    return code


def _alive_if_asked(users):
    try:
        return slurm.alive(users)
    except slurm.SlurmError:  # a plan can be looked at anywhere
        return {}


def _largest():
    try:
        return slurm.largest_array()
    except slurm.SlurmError:
        return slurm.USUAL_ARRAY


def _folder(item, options):
    """Where submitit keeps its files."""
    logs = item.job.config.store.log_dir
    if options.submitit_folder is None and (tags := re.findall(TAGS, logs)):
        raise ConfigError(
            f"store.log_dir={logs}: submitit puts a number of the job's in the place of {tags[0]}; choose a store.root without it."
        )
    return Path(options.submitit_folder or logs).expanduser().absolute()


# --- submitting -------------------------------------------------------------------------------------------------------


def executor(array, folder, options, dependency=None, code=None):
    """A submitit executor that asks for what an array's jobs need.

    Arguments:
        array: `arrays.Array`.
        folder: of submitit's files.
        options: `config.launcher.Slurm`.
        dependency: such as `aftercorr:12`.
        code: a directory that holds the package to run; None = what the interpreter finds.
    """
    import submitit

    class Executor(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls):
            return 2  # plans are printed where there is no srun too

        def _make_submission_file_text(self, command, uid):
            plain, self.folder = self.folder, Path(re.sub(f"%(?!{TAGS[1:]})", "%%", str(self.folder)))
            try:  # for SLURM, which knows more tags than submitit; `command` has the plain path
                return super()._make_submission_file_text(command, uid)
            finally:
                self.folder = plain

    asked, on_gpu = array.request, array.stage == "run"
    parameters = {key: getattr(options, key) for key in (*HANDED_ON, *(OF_GPUS if on_gpu else ()))}
    by_gpu = {key for key in ("gres", "gpus_per_task") if parameters.get(key)}
    cores_by_gpu = bool(parameters.get("cpus_per_gpu"))
    has_gpu = bool(asked.gpus or by_gpu)
    parameters |= {
        "job_name": options.name,
        "partition": options.partition if has_gpu else options.cpu_partition or options.partition,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": None if cores_by_gpu else asked.cpus,
        "gpus_per_node": asked.gpus if asked.gpus and (not by_gpu or options.gpus_per_node) else None,
        "time": None if asked.timeout_min is None else math.ceil(asked.timeout_min),
        "setup": [
            *(options.setup or ()),
            *([f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"'] if code else ()),
            # srun does not take the job's word for it
            *([] if cores_by_gpu else ['export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"']),
        ],
    }
    if asked.mem_gb is not None and not (parameters["mem_per_cpu"] or parameters.get("mem_per_gpu")):
        parameters["mem"] = f"{math.ceil(1024 * asked.mem_gb)}M"
    more = {str(key).replace("_", "-"): value for key, value in options.additional_parameters.items()}
    if dependency:
        more["dependency"] = ",".join(filter(None, [dependency, more.get("dependency")]))
        more["kill-on-invalid-dep"] = "yes"
    python = options.python or f"{shlex.quote(sys.executable)} -P"
    made = Executor(folder, max_num_timeout=options.max_num_timeout, python=python)
    made.update_parameters(**parameters, additional_parameters={"requeue": True} | more)
    return made


def _tasks(array, launch):
    from lambda_hat.launch.task import Task

    return [Task(launch, [i.name for i in pack], array.request.gpus, array.builds) for pack in array.packs]


def _submit(wanted, folder, options):
    """Freeze and submit everything; where one sbatch is refused, what went before is taken back."""
    items = [item for array in wanted for pack in array.packs for item in pack]
    directory = Path(items[0].job.config.store.log_dir)
    ids, submitted = [], []
    try:
        launch, code = frozen.write(directory, items, sys.argv[0]), None
        since = frozen.read(launch)["at"]
        if options.snapshot:
            code = (directory / "code").absolute()
            frozen.snapshot(code)
        for array in wanted:
            made = executor(array, folder, options, array.dependency(ids), code)
            jobs = _sbatch(made, _tasks(array, launch))
            ids.append(jobs[0].job_id.partition("_")[0])
            for job, pack in zip(jobs, array.packs, strict=True):
                for item in pack:
                    frozen.note_submission(item, job.job_id, job.paths.stdout, sys.argv[0])
                    needs = None if array.after is None else item.job.paths.target_id
                    submitted.append(Submitted(item, job.job_id, job.paths.stdout, needs, since))
            _tell(array, ids)
    except BaseException as error:
        slurm.cancel(ids)
        for one in submitted:
            frozen.take_back(one.item.job)
        shutil.rmtree(directory, ignore_errors=True)
        if isinstance(error, slurm.SlurmError):
            raise slurm.SlurmError(
                f"{error} Nothing is left submitted; hydra.launcher.dry_run=true shows the script."
            ) from error
        if isinstance(error, OSError):
            raise frozen.unwritable(items[0].job, error) from error
        raise
    return submitted


def _sbatch(made, tasks):
    """Submit tasks as an array, a single one as a plain job; returns submitit's jobs."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with slurm.outside_of_jobs(), contextlib.redirect_stderr(io.StringIO()):
            return made.submit_array(tasks)
    except (FailedJobError, FailedSubmissionError) as error:
        raise slurm.SlurmError(f"sbatch: {slurm.first_error(str(error)).rstrip('.')}.") from error


@contextlib.contextmanager
def _alone(jobs):
    """Let one launch at a time look and submit, so that two of the same sweep submit it once."""
    with contextlib.ExitStack() as stack:
        for root, job in sorted({job.paths.root: job for job in jobs}.items()):
            try:
                root.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(root / ".submitting", "w"))
            except OSError as error:
                raise frozen.unwritable(job, error) from error
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released on closing, and when we die
            except BlockingIOError:
                log.info("another launch is submitting to %s; waiting for it", root)
                fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _others(found, submitted):
    """What other launches have in the queue, or do outside it."""
    own = {one.item.name for one in submitted}
    items = [item for item in [*found.running, *found.queued] if item.name not in own]
    return [Submitted(item, found.jobs.get(item.name)) for item in items]


# --- what is said -----------------------------------------------------------------------------------------------------


def _tell(array, ids):
    jobs = f" in {len(array.packs)} jobs" if len(array.packs) > 1 else ""
    waits = sorted(set(re.findall(r":(\d+)", array.dependency(ids) or "")))
    log.info("job %s: %s%s%s", ids[-1], array.count, jobs, f", after {' '.join(waits)}" if waits else "")


def _show(wanted, folder, item, options):
    """What a launch would write and submit."""
    code = Path(item.job.config.store.log_dir).absolute() / "code" if options.snapshot else None
    ids = [f"<job of {number}>" for number in range(len(wanted))]
    for number, array in enumerate(wanted):
        made = executor(array, folder, options, array.dependency(ids), code)
        if len(array.packs) > 1:
            made.parameters["map_count"] = len(array.packs)
        print(f"\n--- {number}: {array.count} in {len(array.packs)} jobs")
        print(made._make_submission_file_text(made._submitit_command_str, ""), end="")
    print(f"\n{len(wanted)} calls of sbatch")
