"""SLURM's commands: the states of many jobs in one call, what those states mean in words, and cancelling."""

import contextlib
import getpass
import os
import signal
import subprocess
import time
from typing import NamedTuple

from lambda_hat.system.errors import UserError

PATIENCE = 120
"""Seconds that a command of SLURM's may take; a busy controller needs some."""

ATTEMPTS = 4
"""How often a question is asked that the controller does not answer."""

BUSY = ("Unable to contact", "timed out", "temporarily")
"""What SLURM's commands say where asking again may help."""

USUAL_ARRAY = 1001
"""SLURM's own MaxArraySize, where a cluster does not say."""

WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
AT_WORK = {"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}

STUCK = {
    "DependencyNeverSatisfied": "waits for a job that has failed",
    "JobHeldUser": "is held by its user: scontrol release lets it go",
    "JobHeldAdmin": "is held by an administrator",
    "launch failed requeued held": "could not be started on its node and is held: scontrol release tries again",
    "BadConstraints": "asks for nodes that the cluster does not have",
    "InvalidAccount": "names an account that does not exist",
    "InvalidQOS": "names a quality of service that does not exist",
    "PartitionDown": "is in a partition that is down",
    "PartitionInactive": "is in a partition that is inactive",
    "PartitionTimeLimit": "asks for more minutes than its partition gives",
    "PartitionNodeLimit": "asks for more nodes than its partition gives",
}
"""Why a job in the queue does not start until somebody does something about it."""

MEANINGS = {
    "COMPLETED": "ended without a result",
    "TIMEOUT": "reached its time limit before it could go back to the queue (timeout_min, signal_delay_s)",
    "OUT_OF_MEMORY": "took more memory than it had asked for (mem_gb)",
    "NODE_FAIL": "was lost with its node",
    "PREEMPTED": "was preempted for good",
    "BOOT_FAIL": "could not be started on its node",
    "DEADLINE": "met its deadline",
    "REVOKED": "was revoked",
}


class SlurmError(UserError):
    """SLURM refused, or does not answer."""


class JobState(NamedTuple):
    """A job as the controller or accounting knows it.

    Attributes:
        state: in SLURM's words: PENDING, RUNNING, …
        reason: why it waits; of an ended job, why it ended.
        code: exit code and signal, `0:9`; empty where not asked.
    """

    state: str
    reason: str = ""
    code: str = ""

    @property
    def is_over(self):
        """Whether it will not run (again)."""
        return self.state not in WAITING | AT_WORK or self.reason == "DependencyNeverSatisfied"

    @property
    def runs(self):
        """Whether it holds a node."""
        return self.state in AT_WORK

    @property
    def stuck(self):
        """Why it will not start by itself, in words; None where it will."""
        return STUCK.get(self.reason) if self.state in WAITING else None

    @property
    def ending(self):
        """How it ended, in words."""
        state = self.state.split()[0]
        if state == "CANCELLED":
            by = f" by user {self.state.split()[-1]}" if " by " in self.state else ""
            return f"was cancelled{by}"
        if state == "FAILED":
            code, number = (int(part or 0) for part in (self.code or "0:0").split(":"))
            number = number or max(0, code - 128)
            if number:
                why = ", as the kernel does when memory is short" if number == signal.SIGKILL else ""
                return f"was killed by signal {number}{why}"
            return f"failed with exit code {code}" if code else "failed"
        return MEANINGS.get(state, f"ended as {state}")


def clean_environment():
    """This environment without what an allocation that we are in has put there, which sbatch would take for orders."""
    keep = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    inside = "SLURM_JOB_ID" in os.environ
    dropped = (
        "SLURM_",
        "SLURMD_",
        "SRUN_",
        "PMI_",
        "PMIX_",
        "SUBMITIT_EXECUTOR",
        "SUBMITIT_FOLDER",
        "SUBMITIT_LOCAL_",
    ) + (("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL") if inside else ())
    return {k: v for k, v in os.environ.items() if k in keep or not k.startswith(dropped)}


def call(*argv, attempts=1):
    """Standard output of one of SLURM's commands.

    Raises:
        SlurmError: where it is not installed, refuses or does not answer.
    """
    for attempt in range(attempts):
        if attempt:
            time.sleep(2**attempt)
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, env=clean_environment())
        except FileNotFoundError as error:
            raise SlurmError(
                f"{argv[0]} is not installed here: launch where SLURM is, or leave hydra/launcher=submitit_slurm out to run here."
            ) from error
        except subprocess.TimeoutExpired:
            said = f"no answer within {PATIENCE} s"
            continue
        if done.returncode == 0:
            return done.stdout
        said = first_error(done.stderr) or f"exit code {done.returncode}"
        if not any(words in said for words in BUSY):
            break
    raise SlurmError(f"{argv[0]}: {said.rstrip('.')}.")


def first_error(text):
    """What a command of SLURM's says is wrong, without its prefixes."""
    lines = [line.split("error: ", 1)[-1].strip() for line in text.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines))


@contextlib.contextmanager
def outside_of_jobs():
    """While in this context, the environment is the clean one: for sbatch, which submitit calls with this process's own."""
    kept = dict(os.environ)
    clean = clean_environment()
    for name in kept.keys() - clean.keys():
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(kept)


def _squeue(*which, attempts=ATTEMPTS):
    """What the controller remembers of these jobs, ended ones too → `JobState`, by id (`12_3`)."""
    try:
        text = call("squeue", "-h", "-r", "-t", "all", *which, "-o", "%i|%T|%r", attempts=attempts)
    except SlurmError as error:
        if "Invalid job id" not in str(error):  # said of a job that the controller has forgotten
            raise
        return {}
    fields = [line.strip().split("|", 2) for line in text.splitlines() if "|" in line]
    return {number: JobState(*state_and_reason) for number, *state_and_reason in fields}


def arrays_of(jobs):
    """The jobs that these, or the arrays that they are elements of, were submitted as."""
    return sorted({str(job).partition("_")[0] for job in jobs if job}, key=int)


def queue(users=()):
    """All jobs of these users and of oneself that the controller remembers, ended ones too → `JobState`, by id."""
    return _squeue("-u", ",".join(sorted({*users, getpass.getuser()})))


def states(jobs, ended=True, attempts=ATTEMPTS):
    """The states of jobs, in one call of squeue and, for those that it does not know or that have ended, one of sacct.

    Arguments:
        jobs: ids as squeue shows them, `12` or `12_3`.
        ended: whether accounting is asked about jobs that have ended, for their exit codes.
        attempts: how often a controller that does not answer is asked.

    Returns:
        a `JobState` by id; a job that neither knows is not in it.

    Raises:
        SlurmError: where SLURM is not installed here or its controller does not answer.
    """
    jobs = {str(job) for job in jobs if job}
    if not jobs:
        return {}
    found = _squeue("-j", ",".join(arrays_of(jobs)), attempts=attempts)
    known = {job: state for job, state in found.items() if job in jobs}
    unknown = {job for job in jobs if job not in known or known[job].is_over}
    if ended and unknown:
        known |= {job: state for job, state in history(unknown).items() if state.is_over or job not in known}
    return known


def cancel(jobs, patience=30.0):
    """Cancel jobs, or whole arrays, and wait until SLURM agrees that they have ended.

    Arguments:
        jobs: ids as squeue shows them.
        patience: seconds to wait.

    Returns:
        the ids of those that are still not over then.

    Raises:
        SlurmError: where scancel refuses.
    """
    jobs = {str(job) for job in jobs}
    if not jobs:
        return set()
    call("scancel", *sorted(jobs))
    deadline = time.monotonic() + patience
    while True:
        found = _squeue("-j", ",".join(arrays_of(jobs)))
        listed = {job for job, state in found.items() if state.state in WAITING | AT_WORK}
        listed = {job for job in jobs if job in listed or any(other.startswith(f"{job}_") for other in listed)}
        if not listed or time.monotonic() > deadline:
            return listed
        time.sleep(0.2)


def alive(users):
    """Ids of the jobs that will run or do → whether they run."""
    return {number: entry.runs for number, entry in queue(users).items() if not entry.is_over}


def history(ids):
    """How these jobs ended → `JobState`, by id, from accounting; those it knows. Empty where there is no accounting."""
    if not ids:
        return {}
    try:
        text = call("sacct", "-n", "-P", "-j", ",".join(arrays_of(ids)), "-o", "JobID,State,ExitCode")
    except SlurmError:
        return {}
    found, steps = {}, {}
    for number, state, code in (line.split("|") for line in text.splitlines()):
        job, _, step = number.partition(".")
        if job in ids and not step:
            found[job] = JobState(state, "", code)
        elif job in ids and (state == "OUT_OF_MEMORY" or not code.endswith(":0")):
            steps[job] = JobState(state, "", code)
    for job, step in steps.items():  # knows better than the batch script what ended it
        if job in found and found[job].state == "FAILED":
            found[job] = step if step.state == "OUT_OF_MEMORY" else found[job]._replace(code=step.code)
    return found


def largest_array():
    """How many jobs an array can have on this cluster."""
    for line in call("scontrol", "show", "config", attempts=ATTEMPTS).splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return max(1, int(value))
    return USUAL_ARRAY
