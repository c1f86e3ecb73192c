"""Stopping what is under way, and removing what stopped and failed work has left; never a finished result."""

import contextlib
import os
import shutil
import signal
import subprocess

from lambda_hat.inspect import tell, unfinished
from lambda_hat.store import lease as leases
from lambda_hat.system.errors import UserError


def cancel(rows, yes):
    """Stop what runs or waits; with `yes` false, only say what that would be."""
    jobs, processes, beyond = {}, {}, []
    for row in rows:
        if row.state not in ("running", "queued"):
            continue
        job, here = row.work.get("slurm_job"), row.work.get("owner_is_alive")
        if here and "submitted" not in row.work:  # by hand, maybe inside an allocation that is to stay
            processes.setdefault(row.work["pid"], []).append(row)
        elif job:
            jobs.setdefault(str(job), []).append(row.short)
        else:
            beyond.append(row)
    if not jobs and not processes and not beyond:
        tell.write("nothing that fits is running or queued")
        return 0
    for row in beyond:
        tell.write(f"{row.short}: is made on {row.work.get('host')}; stop process {row.work.get('pid')} there")
    verb = "stopped" if yes else "would stop"
    for job, names in jobs.items():
        tell.write(f"{verb} SLURM job {job}: {', '.join(names)}")
    for pid, mine in processes.items():
        command = unfinished.words(mine[0].work.get("command") or [])
        tell.write(f"{verb} process {pid} ({command}), at {', '.join(row.short for row in mine)} and all that follows")
    if not yes:
        tell.write("nothing was stopped; add --yes")
        return 0
    if jobs:
        _scancel(jobs)
    for pid, mine in processes.items():
        if leases.is_alive(mine[0].work):  # still the same one
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    return 1 if beyond else 0


def _scancel(jobs):
    try:
        done = subprocess.run(["scancel", *jobs], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"scancel could not be run ({error}); type: scancel {' '.join(jobs)}") from error
    if done.returncode:
        raise UserError(f"scancel failed: {done.stderr.strip()}")


def prune(root, rows, yes, everything):
    """Remove what is left of stopped and failed work and, where nothing was filtered, what was put aside or thrown away."""
    left = []
    for row in rows:
        if row.state in ("stale", "failed", "missing"):
            left += [root / "work" / row.name, *(root / "failures" / f"{row.name}.{kind}" for kind in ("json", "npz"))]
    if everything:
        for name in ("replaced", "trash"):
            with contextlib.suppress(FileNotFoundError):
                left += sorted((root / name).iterdir())
    left = [path for path in left if path.exists()]
    sizes = {path: used(path) for path in left}
    if left:
        tell.write(
            tell.Table(["size", "path"], [[tell.size(size), str(path)] for path, size in sizes.items()], ("path",))
        )
    total = tell.size(sum(sizes.values()))
    if not left:
        tell.write("nothing to remove")
    elif not yes:
        tell.write(f"would remove {len(left)} of these, {total}; nothing was removed; add --yes")
    else:
        for path in left:
            if path.parent == root / "work" and unfinished.is_running(root, path.name):
                tell.write(f"{path} stays: it has been taken up meanwhile")
            else:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        gone = [path for path in left if not path.exists()]
        tell.write(f"removed {len(gone)} of these, {tell.size(sum(sizes[path] for path in gone))}")
    return 0


def used(path):
    """Bytes that a file, or all below a directory, take."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                total += (
                    used(entry.path)
                    if entry.is_dir(follow_symlinks=False)
                    else entry.stat(follow_symlinks=False).st_size
                )
    return total
