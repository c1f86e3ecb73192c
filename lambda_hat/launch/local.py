"""Runs combinations on this machine: all are checked before any starts, finished ones are skipped."""

import contextlib
import logging
import math
import os
import shlex
import signal
import sys
import time
from pathlib import Path

from lambda_hat import store
from lambda_hat.config.launcher import Here, Local
from lambda_hat.jobs import pipeline
from lambda_hat.launch import frozen, plan
from lambda_hat.launch.arrays import request
from lambda_hat.system import stopping
from lambda_hat.system.errors import UserError

log = logging.getLogger(__name__)

UNLIMITED = 60 * 24 * 365
"""Minutes of a process that may take as long as it takes: submitit wants a number."""


def run_all(stage, combinations, options):
    """Make what is missing of these combinations and say what came out.

    Arguments:
        stage: `target` or `run`.
        combinations: pairs of a function that composes the `Config` and the command line's overrides.
        options: `config.launcher.Here`, or `Local` for processes of their own.

    Returns:
        the exit code: 1 if anything failed or has no finite λ̂ (or, with strict=true, is bad).

    Raises:
        ConfigError: naming every combination that cannot be run; then nothing has been done.
    """
    items = plan.checked(stage, combinations)
    found = plan.make(items, lambda users: {})  # what waits in a queue may as well be made here
    if len(items) > 1 or options.dry_run:
        log.info(found.line("to make"))
        for line in plan.checkpoints(items):
            log.info(line)
    if options.dry_run:
        for item in [*found.targets, *found.missing]:
            log.info("  %s", item.job.directory)
        return 0
    plan.try_out(found)
    plan.tidy(found)
    if isinstance(options, Here) and options.jobs > 1:
        options = Local(jobs=options.jobs)
    if isinstance(options, Here) or not (found.missing or found.running):
        code = _in_turn(items)
    else:
        code = _Processes(found, options).run()
    return code | plan.tell_results([item for item in items if pipeline.store.is_done(item.job.directory)])


def _in_turn(items):
    code = 0
    for number, item in enumerate(items):
        if pipeline.is_done(item.job):
            continue
        if len(items) > 1:
            log.info("[%d/%d] %s", number + 1, len(items), item.job.directory)
        stopping.listen()
        stopping.check()
        code |= _make(item.job, number)
        stopping.check()
    return code


class _Processes:
    """submitit's local jobs, up to `jobs` at a time, each with its share of the cores; targets before their runs."""

    LOOK = 0.1  # seconds between two looks at the processes

    def __init__(self, found, options):
        import submitit

        from lambda_hat.launch import task  # before submitit: see there

        runs = [*found.missing, *found.running]  # at what another process is, it waits for that
        absent = {item.name for item in found.targets}
        size = max(1, min(8, len(runs) // (4 * options.jobs)))
        self._waiting = plan.tasks(found.targets, 1, ()) + plan.tasks(runs, size, absent)
        self._free, self._options = list(range(min(options.jobs, len(self._waiting)))), options
        self._running, self._built, self._failed, self._code = {}, set(), set(), 0
        first = self._waiting[0].items[0].job
        directory = Path(first.config.store.log_dir)
        minutes = UNLIMITED if options.timeout_min is None else math.ceil(options.timeout_min)
        try:
            items = [item for one in self._waiting for item in one.items]
            self._launch = frozen.write(directory, items, sys.argv[0])
            self._since = frozen.read(self._launch)["at"]
            folder = Path(options.submitit_folder or directory).expanduser().absolute()
            self._executor = submitit.LocalExecutor(folder, python=f"{shlex.quote(sys.executable)} -P")
        except OSError as error:
            raise frozen.unwritable(first, error) from error
        self._executor.update_parameters(timeout_min=minutes, stderr_to_stdout=options.stderr_to_stdout)
        self._task = task.Task

    def run(self):
        """Make everything; returns the exit code."""
        stopping.listen()
        try:
            while self._waiting or self._running:
                self._start_what_can()
                stopping.wait(self.LOOK)
                for job in [job for job in self._running if job.done()]:
                    self._ended(job)
        finally:
            self._stop()
        return self._code

    def _stop(self):
        """Have what runs keep what it has, and wait for that."""
        for job in self._running:
            job._process.send_signal(signal.SIGTERM)  # `cancel` gives it one second
        for job in self._running:
            job._process.wait()

    def _start_what_can(self):
        for one in list(self._waiting):
            if not self._free:
                return
            if lacking := self._failed & set(one.needs):
                self._waiting.remove(one)
                log.error("not started: %d of %s, which was not built", len(one.items), " ".join(sorted(lacking)))
            elif self._built >= set(one.needs):
                self._waiting.remove(one)
                self._start(one)

    def _start(self, one):
        slot, options = self._free.pop(0), self._options
        gpus = request(one.items[0], options).gpus
        visible = share_of_gpus(slot, gpus)
        if gpus and not visible:  # resources are a cluster's; here work is done with what there is
            gpus, visible = None, None
        cores = share_of_cores(slot, options.jobs, options.cpus_per_task)
        task = self._task(self._launch, [i.name for i in one.items], gpus, cores=cores, visible=visible)
        handler = signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # Ctrl-C is ours to hand on, and what we start inherits this
        try:
            job = self._executor.submit(task)
        except OSError as error:
            raise frozen.unwritable(one.items[0].job, error) from error
        finally:
            signal.signal(signal.SIGINT, handler)
        for item in one.items:
            log.info("started: %s  %s", item.job.directory, job.paths.stdout)
        self._running[job] = (one, slot)

    def _ended(self, job):
        one, slot = self._running.pop(job)
        job._process.wait()
        self._free.append(slot)
        for item in one.items:
            record = store.read_note(item.job.paths.failure(item.job.stage))
            if frozen.is_made(item.job, self._since):
                self._built.add(item.name)
                log.info("finished: %s", item.job.directory)
                continue
            self._failed.add(item.name)
            self._code = 1
            own = record.get("log") == str(job.paths.stdout)
            why = record["error"] if own and record.get("error") else "its process ended without a result: killed?"
            log.error("failed: %s: %s\n        log: %s", item.name, why, job.paths.stdout)
            log.error("        again: python %s", " ".join(frozen.command(item, sys.argv[0])))


def share_of_cores(slot, jobs, cores=None):
    """The cores of a slot's process: `cores` of them, or every `jobs`-th, at least one; None where there is no such limit."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    there = sorted(os.sched_getaffinity(0))
    if cores is not None:
        return [there[(slot * cores + i) % len(there)] for i in range(min(cores, len(there)))]
    return there[slot::jobs] or [there[slot % len(there)]]


def share_of_gpus(slot, gpus):
    """Which of this machine's GPUs the process of a slot sees that asks for so many: CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        visible = ",".join(sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")))
    there = [name for name in visible.split(",") if name]
    return ",".join(there[(slot * gpus + i) % len(there)] for i in range(min(gpus, len(there)))) if there else ""


def _make(job, number):
    """Do one job with its log in a file of its own; returns 1 if it failed."""
    path = Path(job.config.store.log_dir) / str(number) / "log.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise frozen.unwritable(job, error) from error
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
        if handler.stream is not None:
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
