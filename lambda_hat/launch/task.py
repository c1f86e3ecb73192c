"""What a process of its own is told to make: resolved configurations in a JSON file, and which code they were made for.

<log_dir>/<number>/   job.json       what to make
                      log.txt        what was said
                      finished.json  what has been made, and what failed
                      requeues.json  how often its time was up
"""

import getpass
import json
import shutil
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

FILES = {name: f"{name}.json" for name in ("job", "finished", "requeues")}


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


def write(directory, items, script, log, **settings):
    """Keep what a process is to make in <directory>/job.json."""
    directory.mkdir(parents=True)
    jobs = [Frozen(i.name, i.job.stage, command(i, script), asdict(i.job.config))._asdict() for i in items]
    text = {"code": code(), "log": str(log), "jobs": jobs} | settings
    (directory / FILES["job"]).write_text(json.dumps(text, indent=1, allow_nan=False) + "\n")


def read(directory):
    """What `write` kept, its jobs as `Frozen`.

    Raises:
        StoreError: where the file is damaged.
    """
    path = directory / FILES["job"]
    try:
        found = json.loads(path.read_text())
        return found | {"jobs": [Frozen(**job) for job in found["jobs"]]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({type(error).__name__}: {error}); submit again.") from error


def finished(directory):
    """Names of what this task is through with → whether it failed."""
    return store.read_note(directory / FILES["finished"])


def finish(directory, name, failed):
    """Note that the task is through with one of its jobs."""
    store.write_note(directory / FILES["finished"], finished(directory) | {name: failed})


def count_requeue(directory, most):
    """Note that the task goes back to the queue; False, and nothing noted, where it has done so `most` times."""
    count = store.read_note(directory / FILES["requeues"]).get("count", 0)
    if count >= most:
        return False
    store.write_note(directory / FILES["requeues"], {"count": count + 1})
    return True


def submission(item):
    """Path of the note that a SLURM job is to make this item."""
    return item.work / "submitted.json"


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
    store.write_note(submission(item), note)


@cache
def code():
    """What tells this code from any other: the commit, and the hash of what is imported."""
    return {"commit": provenance.code_sha(), "sha256": provenance.source_hash()}


def snapshot(directory):
    """Copy the package into a directory that can be put on Python's path."""
    shutil.copytree(PACKAGE, directory / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    if commit := provenance.code_sha():
        (directory / PACKAGE.name / provenance.COMMIT).write_text(commit + "\n")
