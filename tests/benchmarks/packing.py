"""Several runs in a job against one a job: wall time, and seconds for which GPUs were held without computing.

python tests/benchmarks/packing.py [rounds]        default 2; one node of two cores and two pretended GPUs, jobs compute on the CPU

Both ways make the same runs of the same target, one after the other in each round, each in a store of its own with no compiled
programs to begin with. A GPU is at work while a run takes the curvature, adapts or samples, compilation included; starting Python
and JAX, and drawing figures, is idle time.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SWEEP = (
    *("model=small", "data.n_data=200", "training.steps=200", "sampler=hmc,mclmc", "sampler.seed=1,2,3,4"),
    *("sampler.draws=400", "runtime.devices=1", "runtime.progress=false"),
)


def launch(directory, runs_per_job):
    """Seconds of wall time, and the SLURM jobs of the runs."""
    options = (
        *(
            "hydra/launcher=submitit_slurm",
            "hydra.launcher.wait=true",
            "hydra.launcher.poll_s=0.5",
            "hydra.launcher.cpus_per_task=1",
        ),
        *("hydra.launcher.mem_gb=2", "hydra.launcher.gpus_per_node=1", f"hydra.launcher.runs_per_job={runs_per_job}"),
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "bin" / "sample.py"), "-m", *options, *SWEEP],
        cwd=directory,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - began, re.findall(r"^job (\d+): \d+ runs?", done.stdout, re.MULTILINE)


def gpu_seconds(directory, jobs):
    """Seconds for which GPUs were held, and in which they were at work."""
    time.sleep(3)  # accounting is a little behind
    words = ["sacct", "-nPX", "-j", ",".join(jobs), "-o", "ElapsedRaw,AllocTRES"]
    lines = [line.split("|") for line in subprocess.run(words, capture_output=True, text=True).stdout.splitlines()]
    held = sum(int(seconds) for seconds, tres in lines if "gres/gpu=1" in tres)
    results = [json.loads(path.read_text()) for path in directory.glob("runs/targets/*/run_*/analysis.json")]
    work = sum(found["timings_sec"][phase] for found in results for phase in ("curvature", "adapt", "sample"))
    return held, work, len(lines), len(results)


def main(rounds):
    """The table."""
    sys.path.insert(0, str(ROOT / "slurm"))
    from cluster import Cluster

    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        cluster = Cluster(Path(scratch) / "c", nodes=1, cpus=2, gpus=2)
        cluster.start()
        os.environ["SLURM_CONF"] = str(cluster.conf)
        print("round  runs a job  jobs  runs  wall s  GPU-s held  at work  idle")
        try:
            for number in range(rounds):
                for runs_per_job in (1, 4):
                    directory = Path(scratch) / f"{number}_{runs_per_job}"
                    directory.mkdir()
                    wall, jobs = launch(directory, runs_per_job)
                    held, work, tasks, runs = gpu_seconds(directory, jobs)
                    numbers = f"{tasks:4}  {runs:4}  {wall:6.1f}  {held:10}  {work:7.1f}  {held - work:4.0f}"
                    print(f"{number:5}  {runs_per_job:10}  {numbers}", flush=True)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
