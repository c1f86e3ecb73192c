"""Where everything in a store lies: every path is made here, and every name's pattern.

<root>/targets/_catalog.jsonl
<root>/targets/tgt_<12 hex>/           config.yaml meta.json data.npz params.npz SHA256SUMS _runs.jsonl
    run_<sampler>_<8 hex>/             config.yaml trace.nc analysis.json SHA256SUMS diagnostics/
<root>/trajectories/trj_<12 hex>/      config.yaml meta.json SHA256SUMS step_<8 digits>.npz (lambda_hat.store.trajectory)
<root>/work/<name>/                    a target, a run or a trajectory in progress (lambda_hat.store.lease)
<root>/work/import.<12 hex>/           an archive that is being verified (lambda_hat.inspect.sharing)
<root>/failures/<name>.json            the last failed attempt at it, until an attempt succeeds
<root>/replaced/                       what force=true moved out of the way
"""

import re
from dataclasses import dataclass
from pathlib import Path

SUMS = "SHA256SUMS"
"""Every published directory's list of the hashes of its files, as `sha256sum -c` reads it; a last comment has the list's own."""

TARGET_ID = re.compile(r"tgt_[0-9a-f]{12}")
RUN_ID = re.compile(r"run_([a-z][a-z0-9]*)_[0-9a-f]{8}")
TRAJECTORY_ID = re.compile(r"trj_[0-9a-f]{12}")
IMPORT_ID = re.compile(r"import\.[0-9a-f]{12}")
"""Whole names of published directories, and of an import in work/; the group of a run's is the sampler's name."""


@dataclass(frozen=True)
class Paths:
    """The paths of a target, and of a run where `run_id` is given."""

    root: Path
    target_id: str
    run_id: str | None = None

    @property
    def targets(self) -> Path:
        return self.root / "targets"

    @property
    def catalog(self) -> Path:
        return self.targets / "_catalog.jsonl"

    @property
    def target(self) -> Path:
        return self.targets / self.target_id

    @property
    def runs(self) -> Path:
        return self.target / "_runs.jsonl"

    @property
    def run(self) -> Path:
        assert self.run_id is not None, "these are the paths of a target"
        return self.target / self.run_id

    @property
    def replaced(self) -> Path:
        return self.root / "replaced"

    def name(self, stage: str) -> str:
        """What a target or a run is called outside targets/: in work/, failures/ and replaced/."""
        return self.target_id if stage == "target" else f"{self.target_id}.{self.run_id}"

    def published(self, stage: str) -> Path:
        """The directory that exists if and only if the target or the run is done."""
        return self.target if stage == "target" else self.run

    def work(self, stage: str) -> Path:
        """Where a target or a run is made."""
        return self.root / "work" / self.name(stage)

    def failure(self, stage: str) -> Path:
        """The record of the last failed attempt at a target or a run."""
        return self.root / "failures" / f"{self.name(stage)}.json"


def root_of(path: Path | str) -> Path:
    """The root of the store that a path lies in by its name; the path's own directory where it lies in none."""
    path = Path(path)
    for parent in path.parents:
        if parent.name in ("targets", "trajectories", "work", "failures", "replaced", "trash"):
            return parent.parent
    return path.parent
