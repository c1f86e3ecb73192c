"""The way of the data: configuration → target → draws → analysis → directory. Nothing heavy is imported before it is needed."""

import contextlib
import logging
import re
import sys
import time
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lambda_hat import config as configs
from lambda_hat import store
from lambda_hat.analysis.summary import Provenance, Summary
from lambda_hat.config.hydra_glue import group_from_plain
from lambda_hat.config.sizes import Sizes
from lambda_hat.jobs import loggers, memory
from lambda_hat.store import lease as leases
from lambda_hat.store import provenance
from lambda_hat.store.trajectory import Trajectory
from lambda_hat.system import home, stopping
from lambda_hat.system.errors import BrokeDown, ConfigError, Deposed, StoreError, of_disk

log = logging.getLogger(__name__)

META_KEYS = ("dims", "metrics", "hashes")
"""What meta.json must have for this module to go on."""


class Job(NamedTuple):
    """One thing to be made.

    Attributes:
        stage: `target` or `run`.
        config: its whole configuration, checked.
        paths: where it lands.
    """

    stage: str
    config: configs.Config
    paths: store.Paths

    @property
    def directory(self):
        """The directory that exists if and only if the job is done."""
        return self.paths.target if self.stage == "target" else self.paths.run

    @property
    def settings(self):
        """Everything that is hashed into the directory's path, as plain dictionaries."""
        stages = ("target",) if self.stage == "target" else ("target", "run")
        return store.plain({key: getattr(self.config, key) for stage in stages for key in store.STAGES[stage].keys})


def job(stage, config):
    """The `Job` of a configuration; an existing target's own configuration takes the place of the composed one.

    Raises:
        ConfigError: where the configuration cannot be run, or the package of the logger that was chosen is not installed.
        StoreError: where `target=` names no target.
    """
    root = Path(config.store.root)
    if config.target is not None:
        directory = store.Paths(root, config.target).target
        if not re.fullmatch(r"tgt_[0-9a-f]{12}", config.target) or not store.is_done(directory):
            raise StoreError(
                f"target={config.target}: there is no such target in {root / 'targets'}; ls that directory, or leave target out "
                "to build one."
            )
        stored = store.open_config(directory, "target")
        groups = {group: group_from_plain(group, stored[group]) for group in ("model", "data", "training")}
        if isinstance(groups["model"], configs.Custom):
            groups["model"] = _with_source(groups["model"], config.model, config.target)
        config = replace(config, **groups, seed=stored["seed"])
    configs.check(config)
    if config.logger is not None:
        loggers.check(config.logger)
    run_id = _identifier(config, "run")
    paths = store.Paths(root, config.target or _identifier(config, "target"), run_id)
    if not store.RUN_ID.fullmatch(run_id):
        raise ConfigError(
            f"sampler.name={config.sampler.name}: the names of runs have it between underscores, so it is made of lower-case "
            "letters and digits; rename the sampler."
        )
    derived = {"target_id": paths.target_id, "run_id": paths.run_id, "target_dir": paths.target, "run_dir": paths.run}
    for key, value in derived.items():
        stated = getattr(config.store, key)
        if Path(stated) != Path(value):
            raise ConfigError(
                f"store.{key} follows from the configuration and must be {str(value)!r}; got {stated!r}: leave it out; "
                "store.root can be chosen."
            )
    return Job(stage, config, paths)


def _with_source(stored, composed, target):
    """A stored model of the user's own, with the source that the command line names; it is imported from nowhere else."""
    if not isinstance(composed, configs.Custom) or composed.source is None:
        return stored
    if (composed.sha256, composed.callable) != (stored.sha256, stored.callable):
        raise ConfigError(
            f"target={target} was made from {stored.callable} in a source whose sha256 is {str(stored.sha256)[:12]}…; model.source="
            f"{composed.source} has {str(composed.sha256)[:12]}…. The target's directory has a copy: source.py."
        )
    return replace(stored, source=composed.source)


def _identifier(config, stage):
    name = "tgt" if stage == "target" else f"run_{config.sampler.name}"
    return f"{name}_{store.digest(stage, _groups(config, stage).values())}"


def try_out(job, platform=None):
    """Refuse a user's own model, data or weights that do not fit each other or the posterior, before anything is written.

    Arguments:
        platform: where they are tried, in place of runtime.platform.

    Raises:
        ConfigError: with what was expected and what was got.
        UserError: where the memory of this machine does not suffice for a model that is now known.
    """
    config = job.config
    if job.stage == "run" and isinstance(config.model, configs.Custom) and config.model.source is None:
        raise ConfigError(
            f"target={config.target} was made from a source, which is imported only where the command line names it: add "
            f"model=custom model.source={job.paths.target / 'source.py'}:{config.model.callable}, the copy that it keeps, or "
            "the file that it was made from."
        )
    is_built = store.is_done(job.paths.target) and not config.force
    on_files = config.posterior.data is not None or isinstance(config.model, configs.Custom)
    restricts = job.stage == "run" and config.posterior.restricts and on_files
    is_own = any(group.is_own for group in (config.model, config.data, config.training))
    if not restricts and (is_built or not is_own):
        return
    memory.check(config, "target")
    from lambda_hat.system import devices

    runtime = replace(config.runtime, compilation_cache=None, platform=platform or config.runtime.platform)
    devices.start(runtime)
    from lambda_hat.targets import artifact, restriction

    read = partial(artifact.read, job.paths.target, config.model, config.data)
    target = read() if is_built else artifact.prepare(config)
    if platform is None and config.model.arrays() is None:  # else the work is done on another machine
        memory.check(config, job.stage, target.sizes)
    if restricts:  # of other models the configuration tells
        restriction.seen_by(config.posterior, target)


def is_done(job):
    """Whether there is nothing to do. Imports no JAX."""
    return not job.config.force and store.is_done(job.directory)


def make(job, log_path=None, gpus=None):
    """Do a job, or wait while another process does; a failure leaves a record in <root>/failures/ until the job succeeds.

    Arguments:
        log_path: of the log that tells of it.
        gpus: how many were asked for; kept in the run's record, beside the devices that were used. None where nobody asked.

    Raises:
        UserError: for what a user can mend.
        Stopped, KeyboardInterrupt: where it was asked to stop; the same job then goes on from what is kept.
        Exception: for what is our fault, with its traceback in the record.
    """
    home.settle()
    try:
        with leases.hold(job.paths.work(job.stage), partial(is_done, job), log.info, log_path) as lease:
            if lease is not None:
                from lambda_hat.jobs import progress

                with progress.shown(job, lease):
                    _STAGES[job.stage](job, lease, gpus)
    except Deposed:  # whoever took over tells how it ends
        raise
    except Exception as error:
        mended = of_disk(error, job.paths.root) or memory.out_of_memory(error, job.config, job.stage, _sizes(job))
        with contextlib.suppress(OSError):  # where the disk is what failed
            record_failure(job, mended or error, log_path)
        if mended is not None:
            raise mended from error
        raise
    record = job.paths.failure(job.stage)
    for left in (record, record.with_suffix(".npz")):
        left.unlink(missing_ok=True)


def record_failure(job, error, log_path):
    """Keep why a job failed, with the traceback of the exception that is being handled, until it succeeds."""
    record = job.paths.failure(job.stage)
    text = {
        "error": str(error),
        "kind": type(error).__name__,
        "traceback": traceback.format_exc() if sys.exc_info()[0] else None,
        "log": log_path,
        "slurm_job": leases.slurm_job(),
        "command": sys.argv,
        "settings": job.settings,
        "created_at": store.now(),
    }
    record.parent.mkdir(exist_ok=True)
    store.write_note(record, text)
    if isinstance(error, BrokeDown):
        _keep_arrays(record.with_suffix(".npz"), error.last_good)
        log.error("the last good state is in %s", record.with_suffix(".npz"))


def tidy(job):
    """Finish what a process left undone between publishing a job and letting go of it: its line in the index, its work directory.

    It may have died there, or its disk was full.
    """
    directory = job.paths.work(job.stage)
    if leases.is_left(directory):
        with contextlib.suppress(OSError):  # the disk is still full: what is published counts, and the line waits
            _index(job)
            leases.sweep(directory)


def _keep_arrays(path, arrays):
    import numpy as np

    np.savez(path, **arrays)


def _journal(job, lease, say, **more):
    """The journal of a job: of no use to other code, packages, settings or devices, or to another target (in `more`)."""
    import jax

    from lambda_hat.store.journal import Journal

    identity = {
        "configuration": {key: store.plain(value) for key, value in _groups(job.config, job.stage).items()},
        "source": provenance.source_hash(),
        "packages": provenance.versions(),
        "device": jax.devices()[0].device_kind,
    }
    return Journal(lease.checkpoint, identity | more, job.config.runtime.checkpoint_minutes, say, lease.check)


# --- target -----------------------------------------------------------------------------------------------------------


def _build(job, lease, _gpus):
    """Build and publish the job's target."""
    paths, config = job.paths, job.config
    memory.check(config, "target")
    lease.report(phase="start", now=True)
    from lambda_hat.system import devices

    devices.start(config.runtime)
    from lambda_hat.targets import artifact

    began = time.perf_counter()
    say = _progress(config)
    lease.report(phase="train", now=True)
    kept = _trajectory(job, say)
    with _journal(job, lease, say) as journal, store.workspace(lease.build) as hidden:
        known_sizes = []

        def fits(sizes):
            known_sizes.append(sizes)
            memory.check(config, "target", sizes)

        try:
            target = journal.attempt(lambda: artifact.build(config, say, journal, kept, fits))
        except Exception as error:
            if known_sizes and (mended := memory.out_of_memory(error, config, "target", known_sizes[-1])):
                raise mended from error
            raise
        target.meta["walltime_sec"] = time.perf_counter() - began
        artifact.write(hidden, target, paths.target_id)
        store.write_config(hidden, _groups(config, "target"))
        stopping.check()
        lease.check()
        paths.targets.mkdir(exist_ok=True)
        if config.force and store.is_done(paths.target):
            log.info("the old target and its runs are now in %s", store.set_aside(paths.target, paths))
        lease.is_unindexed = True
        if not store.publish(hidden, paths.target):
            log.info("%s was built by another process meanwhile; using that one", paths.target_id)
            return
    _index(job)
    lease.is_unindexed = False
    metrics = target.meta["metrics"]
    say(
        f"target: {paths.target}  L0 = {metrics['L0']:.6g}, |∇L| = {metrics['gradient_norm']:.2g}, further descent gains "
        f"{metrics['further_descent_gain']:.2g} in units of λ̂  ({target.meta['walltime_sec']:.1f} s)"
    )


def trajectory_groups(config):
    """What a configuration's trajectory is named after: model, data, what moves the weights, and the seed; None without steps."""
    if not isinstance(config.training, configs.Descent):
        return None
    groups = {"model": config.model, "data": config.data, "training": config.training.moves(), "seed": config.seed}
    return {key: store.plain(value) for key, value in groups.items()}


def _trajectory(job, say):
    """Where the steps of a target's training are kept; None where no checkpoint of it is, or was, asked for."""
    config, groups = job.config, trajectory_groups(job.config)
    if groups is None:
        return None
    kept = Trajectory(job.paths.root, groups, say, config.runtime.checkpoint_minutes)
    is_asked_for = config.training.checkpoint is not None or config.training.keep
    return kept if is_asked_for or kept.has(config.training.length) else None


def _groups(config, stage):
    return {key: getattr(config, key) for key in store.STAGES[stage].keys}


# --- run --------------------------------------------------------------------------------------------------------------


def _run(job, lease, gpus):
    """Sample the job's posterior and publish the run, building its target first where that is missing."""
    paths, config = job.paths, job.config
    memory.check(config, "run", _sizes(job))
    clock = Clock()
    lease.report(phase="target", now=True)
    make(job._replace(stage="target", config=replace(config, force=False)))
    memory.check(config, "run", _sizes(job))
    clock.lap("train")
    lease.report(phase="start", now=True)
    from lambda_hat.system import devices

    devices.start(config.runtime)
    clock.listen()
    store.open_config(paths.target, "target", _groups(config, "target"))
    store.read_json(paths.target / "meta.json", *META_KEYS)

    from lambda_hat.analysis import estimation, trace
    from lambda_hat.targets import artifact, restriction

    say = _progress(config)
    target = artifact.read(paths.target, config.model, config.data)
    target = restriction.seen_by(config.posterior, target)
    clock.lap("start")
    curvature = artifact.curvature(paths.target, target, config.posterior, lease.build)
    clock.lap("curvature")
    with _journal(job, lease, say, target=target.meta["hashes"]) as journal:
        result, summary, tree, seconds = journal.attempt(
            lambda: estimation.estimate_llc(
                target,
                curvature,
                config,
                log=say,
                report=lease.report,
                journal=journal,
                identity={"target_id": paths.target_id, "run_id": paths.run_id},
            )
        )
        for phase, spent in seconds.items():
            clock.add(phase, spent)
        clock.lap(None)
        with store.workspace(lease.build) as hidden:
            trace.write(hidden / "trace.nc", tree)
            store.write_config(hidden, _groups(config, "run"))
            if result.draws.last_good is not None:
                _keep_arrays(hidden / "last_good.npz", {"w_minus_w0": result.draws.last_good})
            clock.lap("write")
            if config.runtime.figures and not isinstance(config.sampler, configs.Laplace):
                from lambda_hat.analysis import figures

                (hidden / "diagnostics").mkdir()
                figures.write_all(hidden / "diagnostics", tree, summary)
            clock.lap("plot")
            timings = clock.laps | {"compile": clock.compile_seconds}
            summary = replace(
                summary,
                walltime_sec=clock.total(),
                timings_sec=timings,
                created_at=time.time(),
                provenance=Provenance(
                    **provenance.summary(), log=lease.log, devices=devices.named(result.devices), gpus_asked=gpus
                ),
            )
            store.write_json(hidden / Summary.FILE, summary.to_json())
            lease.check()
            if config.force and store.is_done(paths.run):
                log.info("the old run is now in %s", store.set_aside(paths.run, paths))
            lease.is_unindexed = True
            if not store.publish(hidden, paths.run):
                log.info("%s was made by another process meanwhile; keeping that one", paths.run_id)
                return
    _index(job)
    lease.is_unindexed = False
    say("time: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in timings.items()))


def _sizes(job):
    """The `Sizes` that only the model itself tells, as its target has recorded them; None where there are none."""
    if job.config.model.arrays() is not None or not job.paths.target.is_dir():
        return None
    with contextlib.suppress(StoreError):  # which reading the target finds, too
        recorded = store.read_json(job.paths.target / "meta.json").get("sizes")
        return recorded and Sizes(**recorded)


_STAGES = {"target": _build, "run": _run}


def _index(job):
    """Append a published job to its manifest, unless it is there."""
    if job.stage == "target":
        store.append_line(job.paths.catalog, store.target_line(job.directory))
    else:
        store.append_line(job.paths.runs, store.run_line(job.directory))


class Clock:
    """Wall-clock time by phase; compilation is measured by JAX itself and is part of the phases it happens in."""

    def __init__(self):
        self.laps, self._began = {"start": 0.0}, time.perf_counter()
        self._last = self._began
        self.compile_seconds = 0.0

    def listen(self):
        """Have JAX, which must have been started, tell how long it compiles."""
        import jax

        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def lap(self, name):
        """Credit the time since the last lap to a phase (to none where `name` is None)."""
        now = time.perf_counter()
        if name is not None:
            self.add(name, now - self._last)
        self._last = now

    def add(self, name, seconds):
        """Credit seconds to a phase."""
        self.laps[name] = self.laps.get(name, 0.0) + seconds

    def total(self):
        """Seconds since the clock was made."""
        return time.perf_counter() - self._began

    def _heard(self, event, duration_secs, **_):
        if event.startswith("/jax/core/compile/"):
            self.compile_seconds += duration_secs


def _progress(config):
    """A function that logs a line of progress, but for frequent ones: `lambda_hat.jobs.progress` shows how many draws there are."""

    def say(line, frequent=False):
        if config.runtime.progress and not frequent:
            log.info("  %s", line)

    return say


# --- what came out ----------------------------------------------------------------------------------------------------


def tell_result(job):
    """Say what a finished job found and where it is.

    Returns:
        whether that counts as a failure: a run without a finite λ̂, or with strict=true one whose status is bad.

    Raises:
        StoreError: where its files are damaged, or its configuration is not the one that it is named after.
    """
    store.open_config(job.directory, job.stage, _groups(job.config, job.stage))
    if job.stage == "target":
        meta = store.read_json(job.directory / "meta.json", *META_KEYS)
        dims, loss = meta["dims"], meta["metrics"]["L0"]
        log.info("target  p = %s  n = %s  L0 = %.6g  %s", dims["p"], dims["n"], loss, job.directory)
        return False
    summary = Summary.read(job.directory)
    line = f"{summary.sampler:5}  {summary.line()}  {summary.status}  {job.directory}"
    more = [*summary.restrictions(), *(f"{summary.status}: {reason}" for reason in summary.status_reasons)]
    if text := summary.from_minimum_text():
        more = [text, *more]
    log.info("\n".join([line, *(f"       {each}" for each in more)]))
    return summary.llc_mean is None or (job.config.strict and summary.status == "bad")
