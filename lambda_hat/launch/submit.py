"""A sweep becomes SLURM jobs: what is missing is frozen, submitted, and noted where it will be made."""

import contextlib
import fcntl
import logging
import shlex
import shutil
import sys
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from lambda_hat.launch import plan, script, slurm, task
from lambda_hat.system.errors import StoreError

log = logging.getLogger(__name__)

MOST_LINES = 10
"""Most arrays that are named one by one."""


class Array(NamedTuple):
    """Tasks that one sbatch submits.

    Attributes:
        label: name of its directory.
        request: what each asks for.
        needs: names of the targets that they wait for.
        tasks: each a `plan.Task`.
    """

    label: str
    request: object
    needs: tuple[str, ...]
    tasks: list[plan.Task]


class Submitted(NamedTuple):
    """An item in the queue.

    Attributes:
        slurm_job: its id.
        directory: of its task.
        needs: names of the targets that it needs and waits for: its own, or none.
    """

    item: plan.Item
    slurm_job: str
    directory: Path
    needs: tuple[str, ...]


def run_all(stage, combinations, options):
    """Submit what is missing of these combinations and, if asked, wait for it; returns the exit code.

    Arguments:
        stage: `target` or `run`.
        combinations: pairs of a function that composes the configuration and the command line's overrides.
        options: an `options.Slurm`.

    Raises:
        ConfigError: naming every combination that cannot be run; then nothing has been submitted.
        SlurmError: where SLURM refuses; then nothing is left submitted.
    """
    from lambda_hat.launch import watch

    items = plan.checked(stage, combinations)
    for request in {script.request(item, options) for item in items}:
        script.check(request, options)
    found = plan.make(items, slurm.alive)
    submitted = []
    if options.dry_run or not found.missing:
        log.info(found.line("to submit"))
        if options.dry_run:
            _show(_arrays(found, options, _largest()), Path(items[0].job.config.store.log_dir), options)
            return 0
    else:
        largest = slurm.largest_array()  # asked before anything is written: there may be no SLURM
        with _alone({item.job.paths.root for item in found.missing}):
            found = plan.make(items, slurm.alive)  # another launch may have been at it
            log.info(found.line("to submit"))
            watch.tell_of_former_attempts(found)
            if found.missing:
                submitted = _submit(found, options, largest)
    plan.tidy(found)
    code = plan.tell_results(found.done)
    waiting = [*submitted, *_others(found, submitted)]
    if submitted:
        _tell_jobs(submitted)
    if options.wait and waiting:
        return code | watch.follow(waiting, options)
    return code


def _largest():
    try:
        return slurm.largest_array()
    except slurm.SlurmError:  # a plan can be looked at anywhere
        return slurm.USUAL_ARRAY


def _arrays(found, options, largest):
    """Targets, then runs: as few arrays as what they ask and wait for allows, none longer than the cluster takes."""
    absent = {item.name for item in found.targets}
    absent |= {name for name in found.jobs if "." not in name}
    asked = [("targets", target) for target in found.targets]
    asked += [("runs" if item.job.stage == "run" else "targets", item) for item in found.missing]
    arrays = []
    for (label, *_), group in _grouped(asked, lambda one: (one[0], *_apart(one[1], options))):
        size = options.runs_per_job if label == "runs" else 1
        tasks = plan.tasks([item for _, item in group], size, absent)
        for (request, needs), alike in _grouped(tasks, lambda one: (_request(one, options), one.needs)):
            for first in range(0, len(alike), largest):
                arrays.append(Array(f"{label}-{len(arrays)}", request, needs, alike[first : first + largest]))
    return sorted(arrays, key=lambda array: array.label.startswith("runs"))


def _apart(item, options):
    """What keeps two items out of one job."""
    request = script.request(item, options)
    return request.gpus, request.cpus, request.mem_gb


def _request(one, options):
    return script.together([script.request(item, options) for item in one.items], options)


def _grouped(values, key):
    """(key, values) in the order in which the keys come first."""
    groups = {}
    for value in values:
        groups.setdefault(key(value), []).append(value)
    return groups.items()


def _submit(found, options, largest):
    """Freeze and submit everything; where one sbatch is refused, what went before is taken back."""
    directory = Path(found.missing[0].job.config.store.log_dir)
    arrays = _arrays(found, options, largest)
    ids, submitted = dict(found.jobs), []
    jobs = []
    try:
        code = None
        if options.snapshot:
            code = (directory / "code").absolute()
            task.snapshot(code)
        for array in arrays:
            at = directory / array.label
            for number, one in enumerate(array.tasks):
                settings = {
                    "gpus": array.request.gpus,
                    "max_requeues": options.max_requeues,
                    "builds": len(array.needs) < 2,
                }
                task.write(at / str(number), one.items, sys.argv[0], at / str(number) / "log.txt", **settings)
            path = at / "script.sh"
            path.write_text(script.text(array.request, options, code))
            dependency = _dependency([ids[name] for name in array.needs])
            words = script.words(at.absolute(), len(array.tasks), dependency, options)
            jobs.append(slurm.submit(words, path, at.absolute()))
            for number, one in enumerate(array.tasks):
                for item in one.items:
                    ids[item.name] = f"{jobs[-1]}_{number}"
                    task.note_submission(item, ids[item.name], at / str(number) / "log.txt", sys.argv[0])
                    needs = tuple(name for name in array.needs if name == item.job.paths.target_id)
                    submitted.append(Submitted(item, ids[item.name], at / str(number), needs))
    except BaseException as error:
        slurm.cancel(jobs)
        for one in submitted:
            task.submission(one.item).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a checkpoint keeps it
                one.item.work.rmdir()
        shutil.rmtree(directory, ignore_errors=True)
        if isinstance(error, slurm.SlurmError):
            raise slurm.SlurmError(
                f"{error} Nothing is left submitted; hydra.launcher.dry_run=true shows the script."
            ) from error
        if isinstance(error, OSError):
            raise _unwritable(error) from error
        raise
    return submitted


def _dependency(ids):
    """Of a single target, its success; of several, their end, as one's failure must not keep the others' runs back."""
    if not ids:
        return None
    return f"{'afterok' if len(ids) == 1 else 'afterany'}:{':'.join(ids)}"


@contextlib.contextmanager
def _alone(directories):
    """Let one launch at a time look and submit, so that two of the same sweep submit it once."""
    with contextlib.ExitStack() as stack:
        for directory in sorted(directories):
            try:
                directory.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(directory / ".submitting", "w"))
            except OSError as error:
                raise _unwritable(error) from error
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released on closing, and when we die
            except BlockingIOError:
                log.info("another launch is submitting under %s; waiting for it", directory.parent)
                fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _unwritable(error):
    return StoreError(f"{error.filename}: nothing can be written there ({error.strerror}); choose another store.root.")


def _others(found, submitted):
    """What other launches have in the queue, or do outside it."""
    own = {one.item.name for one in submitted}
    items = [item for item in [*found.running, *found.queued] if item.name not in own]
    return [Submitted(item, found.jobs.get(item.name), None, ()) for item in items]


# --- what is said -----------------------------------------------------------------------------------------------------


def _tell_jobs(submitted):
    arrays = [list(group) for _, group in groupby(submitted, lambda one: one.slurm_job.partition("_")[0])]
    for group in arrays[:MOST_LINES]:
        tasks = len({one.slurm_job for one in group})
        what = f"{len(group)} {group[0].item.job.stage}{'s' if len(group) > 1 else ''}"
        after = f", after {' '.join(group[0].needs)}" if group[0].needs else ""
        jobs = f" in {tasks} jobs" if tasks > 1 else ""
        log.info(
            "job %s: %s%s%s  %s", group[0].slurm_job.partition("_")[0], what, jobs, after, group[0].directory.parent
        )
    if len(arrays) > MOST_LINES:
        log.info("… and so on to job %s", arrays[-1][0].slurm_job.partition("_")[0])
    log.info(how_to_go_on(submitted))


def how_to_go_on(submitted):
    """What to type to follow jobs, to cancel them, and to see what has come out."""
    jobs = sorted({one.slurm_job.partition("_")[0] for one in submitted if one.slurm_job}, key=int)
    names = sorted({script.name(one.directory.parent.parent) for one in submitted if one.directory})
    if len(jobs) <= MOST_LINES:
        which, cancel = f"-j {','.join(jobs)}", " ".join(jobs)
    else:  # a launch's own name, so that no other's jobs are meant
        which = cancel = f"-n {','.join(names)}"
    return f"follow: squeue -r {which}   cancel: scancel {cancel}   results: the same command again"


def _show(arrays, directory, options):
    """What a launch would write and submit."""
    shown = set()
    for array in arrays:
        text = script.text(array.request, options, (directory / "code").absolute() if options.snapshot else None)
        if text not in shown:
            shown.add(text)
            print(f"\n--- script.sh of {array.label}\n{text}", end="")
    print()
    for array in arrays:
        at = (directory / array.label).absolute()
        dependency = _dependency([f"<job of {name}>" for name in array.needs])
        words = [
            "sbatch",
            "--parsable",
            *script.words(at, len(array.tasks), dependency, options),
            f"{at}/script.sh",
            str(at),
        ]
        print(shlex.join(words))
