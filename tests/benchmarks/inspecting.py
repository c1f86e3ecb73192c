"""How fast a large study is seen: a small real one, copied to many runs, and each command on it.

python tests/benchmarks/inspecting.py 1000 10000     seconds by command; the copies differ in sampler.seed and are whole directories
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from lambda_hat import store

BIN = Path(__file__).parent.parent.parent / "bin"
OPTIONS = ("-m", "model=quadratic", "model.dim=2,3,4,5", "data.n_data=60", "sampler=hmc,mclmc", "sampler.draws=50")
COMMANDS = (
    ("status.py",),
    ("status.py", "--json"),
    ("status.py", "status=ok", "sampler=hmc"),
    ("results.py",),
    ("results.py", "groupby=sampler,model.dim"),
    ("results.py", "--csv"),
    ("report.py",),
    ("store.py", "du"),
)


def copy(run, seed):
    """A copy of a published run with another seed of its sampler, under the name which that gives it; what is large is linked."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["sampler"]["seed"] = seed
    name = f"run_{config['sampler']['name']}_{store.digest('run', [config['sampler'], config['posterior']])}"
    made = run.parent / name
    (made / "diagnostics").mkdir(parents=True)
    for path in run.rglob("*"):
        if path.is_file() and path.name not in ("analysis.json", "config.yaml", store.SUMS):
            os.link(path, made / path.relative_to(run))
    analysis = json.loads((run / "analysis.json").read_text())
    analysis["sampler_config"]["seed"], analysis["run_id"] = seed, name
    store.write_json(made / "analysis.json", analysis)
    store.write_config(made, config)
    changed = {name: store.sha256(made / name) for name in ("analysis.json", "config.yaml")}
    lines = "".join(f"{value}  {name}\n" for name, value in (store.hashes(run) | changed).items())
    (made / store.SUMS).write_text(f"{lines}# {hashlib.sha256(lines.encode()).hexdigest()}\n")
    return made


def main(sizes):
    """Print a line for each command and size."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            [sys.executable, BIN / "sample.py", *OPTIONS], cwd=directory, check=True, stdout=subprocess.DEVNULL
        )
        runs, made = sorted(Path(directory).glob("runs/targets/tgt_*/run_*")), 0
        made = len(runs)
        for count in sizes:
            for number in range(made, count):
                copy(runs[number % len(runs)], 1 + number)
            made = count
            for command in COMMANDS:
                times = []
                for _ in range(3):
                    began = time.perf_counter()
                    subprocess.run(
                        [sys.executable, BIN / command[0], *command[1:]],
                        cwd=directory,
                        stdout=subprocess.PIPE,
                        check=True,
                    )
                    times.append(time.perf_counter() - began)
                print(f"{count:6} runs  {' '.join(command):45} {min(times):6.2f} s", flush=True)


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [1000, 10_000])
