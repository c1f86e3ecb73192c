"""What machine, container and job let this process have. Knows no JAX."""

import os
from pathlib import Path


def cores():
    """Physical cores that this process may keep busy: of those it may run on, as many as its container and its SLURM job allow.

    Two hyperthreads of a core count once: they share the units that multiply.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    limits = [len({_siblings(number) for number in allowed})]
    for path in control_group_files("cpu.max"):
        quota, _, period = _text(path).partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            limits.append(int(quota) // int(period))
    of_job = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if of_job.isdigit():
        limits.append(int(of_job))
    return max(1, min(limits))


def control_group_files(name):
    """Where a limit of this process may be found: of the container, and of its own control group (version 2)."""
    lines = _text("/proc/self/cgroup").splitlines()
    groups = [line.split("::", 1)[1].strip("/") for line in lines if line.startswith("0::")]
    return [Path("/sys/fs/cgroup", group, name) for group in dict.fromkeys(["", *groups])]


def _siblings(number):
    return _text(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list") or str(number)


def _text(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
