"""The batch script of jobs that ask a cluster for the same, and the words for sbatch that differ among them."""

import math
import os
import shlex
import sys
from dataclasses import replace

from lambda_hat.system.errors import ConfigError


def name(launch):
    """What all jobs of a launch are called, and no other; `launch` is the directory of its logs."""
    return f"lambda_hat-{launch.name}"


def request(item, options):
    """The `config.Request` of an item's job, with what the command line has put in its place."""
    stage = item.job.stage
    asked = getattr(item.job.config.resources, stage)
    given = {key: getattr(options, key) for key in ("cpus", "mem_gb", "timeout_min")}
    given["gpus"] = options.gpus if stage == "run" else None
    return replace(asked, **{key: value for key, value in given.items() if value is not None})


def check(request, options):
    """Refuse what SLURM would take and do badly.

    Raises:
        ConfigError: where the warning would come before the job has begun.
    """
    if request.timeout_min is not None and options.signal_delay_s >= 60 * request.timeout_min:
        raise ConfigError(
            f"hydra.launcher.signal_delay_s must be less than the job's time, {60 * request.timeout_min:g} s; "
            f"got {options.signal_delay_s}: the job would be told to stop as it starts."
        )


def together(requests, options):
    """What a job asks for that makes these one after the other; they differ in their minutes alone."""
    minutes = [request.timeout_min for request in requests]
    if options.timeout_min is None and None not in minutes:
        return replace(requests[0], timeout_min=sum(minutes))
    return requests[0]


def text(request, options, code):
    """The script.

    Arguments:
        request: a `config.Request`.
        options: an `options.Slurm`.
        code: a directory that holds the package to run; None = what the interpreter finds.
    """
    through_srun = (options.run_with or "").split(" ")[0] == "srun"
    header = {
        "partition": options.partition if request.gpus else options.cpu_partition or options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": request.cpus,
        "gres": f"{options.gres}:{request.gpus}" if request.gpus else None,
        "mem": None if request.mem_gb is None else f"{math.ceil(1024 * request.mem_gb)}M",
        "time": None if request.timeout_min is None else _time(request.timeout_min),
        # the batch shell becomes Python, which B: reaches; srun hands on what its steps are sent
        "signal": f"{'' if through_srun else 'B:'}USR2@{options.signal_delay_s}",
        "requeue": "",
        "open-mode": "append",
        "chdir": os.getcwd(),
        "mail-user": options.mail_user,
        "mail-type": options.mail_type if options.mail_user else None,
    }
    lines = [
        f"--{key}{f'={_quoted(str(value))}' if value != '' else ''}"
        for key, value in header.items()
        if value is not None
    ]
    lines = [f"#SBATCH {line}" for line in [*lines, *options.additional]]
    environment = [f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"'] if code else []
    if through_srun:  # which does not take the job's word for it
        environment.append('export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"')
    python = shlex.quote(options.python or sys.executable)
    start = f"{options.run_with + ' ' if options.run_with else ''}{python} -P -m lambda_hat.launch.worker"
    return "\n".join(
        ["#!/bin/bash", *lines, "", *options.setup, *environment, f'exec {start} "$1/$SLURM_ARRAY_TASK_ID"', ""]
    )


def words(directory, count, dependency, options):
    """What sbatch is told beside the script: the array, where its logs go, and what it waits for.

    Arguments:
        directory: of the array's tasks, 0 to count - 1.
        dependency: such as `afterok:12_0`; None = nothing.
    """
    parallel = f"%{options.array_parallelism}" if options.array_parallelism else ""
    log = str(directory).replace("%", "%%")
    found = [f"--job-name={name(directory.parent)}", f"--array=0-{count - 1}{parallel}", f"--output={log}/%a/log.txt"]
    return found + ([f"--dependency={dependency}", "--kill-on-invalid-dep=yes"] if dependency else [])


def _time(minutes):
    seconds = math.ceil(60 * minutes)
    return f"{seconds // 60}:{seconds % 60:02d}"


def _quoted(value):
    """SLURM reads an #SBATCH line much as a shell would."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if set(value) & set(" '\"\\#;") else value
