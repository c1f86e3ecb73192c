"""What jobs are told to make: resolved configurations in one JSON file for each launch, and which code they were made for."""

import contextlib
import getpass
import json
import os
import shutil
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lambda_hat import store
from lambda_hat.config.hydra_glue import config_from_plain
from lambda_hat.jobs import pipeline
from lambda_hat.store import provenance
from lambda_hat.system.errors import StoreError

PACKAGE = Path(__file__).resolve().parent.parent
FILE = "launch.json"


class Frozen(NamedTuple):
    """A job as it was when it was submitted.

    Attributes:
        name: of its directory in work/ and failures/.
        stage: `target` or `run`.
        command: the words that make just this one.
        config: its plain configuration.
    """

    name: str
    stage: str
    command: list[str]
    config: dict

    def job(self):
        """The job again.

        Raises:
            StoreError: where this code gives it another name than the code that submitted it.
            ConfigError: where this code cannot read its configuration.
        """
        config = config_from_plain(self.config)
        groups = {key: getattr(config, key) for key in store.STAGES[self.stage].keys}
        if config.target is None and not self.name.endswith(store.digest(self.stage, groups.values())):
            raise StoreError(
                f"{self.name} was submitted by code that names it so, and the code that this job runs would name it otherwise; "
                "submit it again, or with hydra.launcher.snapshot=true, which runs the code as it was."
            )
        return pipeline.job(self.stage, config)


def command(item, script):
    """The words that make this item alone, here and now."""
    name = {"target": "build_target", "run": "sample"}[item.job.stage]
    name = f"{name}.py" if script.endswith(".py") else f"lambda-hat-{name.replace('_', '-')}"
    words = [word for word in item.words if not word.startswith(("hydra.", "hydra/"))]
    return [str(Path(script).with_name(name)), *words]


def write(directory, items, script):
    """Keep what a launch is to make in <directory>/launch.json; returns the file's path."""
    directory.mkdir(parents=True, exist_ok=True)
    jobs = {i.name: Frozen(i.name, i.job.stage, command(i, script), asdict(i.job.config))._asdict() for i in items}
    path = (directory / FILE).absolute()
    path.write_text(json.dumps({"code": code(), "at": time.time(), "jobs": jobs}, allow_nan=False) + "\n")
    return path


def read(path):
    """What `write` kept, its jobs as `Frozen` by name.

    Raises:
        StoreError: where the file is damaged.
    """
    try:
        found = json.loads(Path(path).read_text())
        return found | {"jobs": {name: Frozen(**job) for name, job in found["jobs"].items()}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({type(error).__name__}: {error}); submit again.") from error


def is_made(job, since):
    """Whether a job is done; one that is to be redone, whether that was since then (seconds since 1970)."""
    if not store.is_done(job.directory):
        return False
    return not job.config.force or os.stat(job.directory / store.SUMS).st_mtime >= since


def submission(job):
    """Path of the note that a SLURM job is to make this one."""
    return job.paths.work(job.stage) / "submitted.json"


def take_back(job):
    """Remove that note, and the work directory where nothing else is in it."""
    submission(job).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a checkpoint keeps it, or it was never made
        job.paths.work(job.stage).rmdir()


def note_submission(item, slurm_job, log, script):
    """Say in the item's work directory which SLURM job is to make it."""
    note = {
        "slurm_job": slurm_job,
        "user": getpass.getuser(),
        "at": store.now(),
        "command": command(item, script),
        "log": str(log),
        "settings": item.job.settings,
    }
    item.work.mkdir(parents=True, exist_ok=True)
    store.write_note(submission(item.job), note)


@cache
def code():
    """What tells this code from any other: the commit, and the hash of what is imported."""
    return {"commit": provenance.code_sha(), "sha256": provenance.source_hash()}


def snapshot(directory):
    """Copy the package into a directory that can be put on Python's path."""
    shutil.copytree(PACKAGE, directory / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    if commit := provenance.code_sha():
        (directory / PACKAGE.name / provenance.COMMIT).write_text(commit + "\n")


def unwritable(job, error):
    """The `StoreError` for a directory of a job's that an `OSError` says cannot be written."""
    settings = job.config.store
    root, failed = os.path.abspath(settings.root), os.path.abspath(error.filename or settings.log_dir)
    of_root = os.path.abspath(settings.log_dir).startswith(root + os.sep) or failed.startswith(root)
    name, place = ("store.root", settings.root) if of_root else ("store.log_dir", settings.log_dir)
    return StoreError(
        f"{name}={place}: nothing can be written there ({error.strerror}: {error.filename}); choose a directory of yours."
    )
