"""Runs combinations on this machine: all are checked before any starts, finished ones are skipped."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lambda_hat import store
from lambda_hat.jobs import pipeline
from lambda_hat.launch import plan, task
from lambda_hat.system import stopping
from lambda_hat.system.errors import StoreError, UserError

log = logging.getLogger(__name__)


def run_all(stage, combinations, options):
    """Make what is missing of these combinations and say what came out.

    Arguments:
        stage: `target` or `run`.
        combinations: pairs of a function that composes the configuration and the command line's overrides.
        options: an `options.Local`.

    Returns:
        the exit code: 1 if anything failed or has no finite λ̂ (or, with strict=true, is bad).

    Raises:
        ConfigError: naming every combination that cannot be run; then nothing has been done.
    """
    items = plan.checked(stage, combinations)
    found = plan.make(items, lambda users: {})  # what waits in a queue may as well be made here
    if len(items) > 1 or options.dry_run:
        log.info(found.line("to make"))
    if options.dry_run:
        for item in [*found.targets, *found.missing]:
            log.info("  %s", item.job.directory)
        return 0
    plan.tidy(found)
    in_turn = options.jobs == 1 or len(items) == 1
    code = _in_turn(items) if in_turn else _Processes(found, options.jobs).run()
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
    """Up to `jobs` processes at a time, each with its share of the cores, targets before the runs that need them."""

    LOOK = 0.1  # seconds between two looks at the processes

    def __init__(self, found, jobs):
        runs = [*found.missing, *found.running]  # at what another process is, it waits for that
        absent = {item.name for item in found.targets}
        size = max(1, min(8, len(runs) // (4 * jobs)))
        self._waiting = plan.tasks(found.targets, 1, ()) + plan.tasks(runs, size, absent)
        self._free, self._jobs = list(range(min(jobs, len(self._waiting)))), jobs
        self._running, self._number = {}, 0
        self._built, self._failed = set(), set()
        self._code = 0

    def run(self):
        """Make everything; returns the exit code."""
        stopping.listen()
        try:
            while self._waiting or self._running:
                self._start_what_can()
                stopping.wait(self.LOOK)
                for process in [process for process in self._running if process.poll() is not None]:
                    self._ended(process)
        finally:
            for process in self._running:
                process.send_signal(signal.SIGTERM)
            for process in self._running:
                process.wait()
        return self._code

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
        slot = self._free.pop(0)
        directory = Path(one.items[0].job.config.store.log_dir) / str(self._number)
        self._number += 1
        path = directory / "log.txt"
        try:
            settings = {"gpus": None, "max_requeues": 0, "builds": True, "cores": share_of_cores(slot, self._jobs)}
            task.write(directory, one.items, sys.argv[0], path, **settings)
            with open(path, "a", encoding="utf-8") as out:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "lambda_hat.launch.worker", str(directory)],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=os.environ | {"PYTHONIOENCODING": "utf-8"} | share_of_gpus(slot),
                    start_new_session=True,  # Ctrl-C is ours to hand on
                )
        except OSError as error:
            raise _unwritable(one.items[0].job, error) from error
        for item in one.items:
            log.info("started: %s  %s", item.job.directory, path)
        self._running[process] = (one, directory, slot)

    def _ended(self, process):
        one, directory, slot = self._running.pop(process)
        self._free.append(slot)
        through = task.finished(directory)
        for item in one.items:
            failed = through.get(item.name, True)
            (self._failed if failed else self._built).add(item.name)
            if not failed:
                log.info("finished: %s", item.job.directory)
                continue
            self._code = 1
            record = store.read_note(item.job.paths.failure(item.job.stage))
            died = f"its process was killed by signal {-process.returncode}" if process.returncode < 0 else "it failed"
            said = record.get("error") if item.name in through else None
            log.error("failed: %s: %s\n        log: %s", item.name, said or died, directory / "log.txt")
            log.error("        again: python %s", " ".join(task.command(item, sys.argv[0])))


def share_of_cores(slot, jobs):
    """The cores of a slot's process: every `jobs`-th, at least one; None where processes cannot be kept to cores."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return cores[slot::jobs] or [cores[slot % len(cores)]]


def share_of_gpus(slot):
    """Which of this machine's GPUs a slot's process sees: one, where there are several."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        visible = ",".join(sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")))
    gpus = [name for name in visible.split(",") if name]
    return {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if len(gpus) > 1 else {}


def _make(job, number):
    """Do one job with its log in a file of its own; returns 1 if it failed."""
    path = Path(job.config.store.log_dir) / str(number) / "log.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise _unwritable(job, error) from error
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


def _unwritable(job, error):
    return StoreError(
        f"store.root={job.config.store.root}: nothing can be written there ({error.strerror}: {error.filename}); "
        "choose a directory of yours."
    )


def _traceback(error):
    import traceback

    return "".join(traceback.format_exception(error))
