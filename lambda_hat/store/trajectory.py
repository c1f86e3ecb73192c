"""A trajectory: the weights at some steps of a training run, from which the targets of its checkpoints take their w0.

    <root>/trajectories/trj_<12 hex>/   the hash of model, data, seed and what moves the weights
        config.yaml  meta.json          what was hashed; sizes, and which code made it
        step_<8 digits>.npz             weights, the optimizer's state and the losses after so many steps
        latest.npz                      the same where training was stopped, until a later step is kept

Each file of steps has its name in one rename and holds its own hash, its step and its trajectory's name: one that does not match
is moved to <root>/replaced/ and trained again. A longer run goes on from what is there. A target has a copy of its weights, and
needs none of this once it is built.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_hat.store import lease as leases
from lambda_hat.store import provenance
from lambda_hat.store.digest import digest
from lambda_hat.store.files import (
    damaged,
    read_sealed_arrays,
    replace_file,
    take_maker,
    write_json,
    write_sealed_arrays,
)
from lambda_hat.store.publish import check_maker, is_done, open_config, publish, workspace, write_config
from lambda_hat.store.times import created_at
from lambda_hat.system.errors import StoreError

if TYPE_CHECKING:
    import numpy as np

STAGE = "trajectory"
LATEST = "latest.npz"


def identifier(groups: Mapping[str, Any]) -> str:
    """A trajectory's name.

    Arguments:
        groups: model, data, training (only what moves the weights) and seed, in this order.
    """
    return f"trj_{digest(STAGE, groups.values())}"


def file_of(step: int) -> str:
    """The name of the file of a step."""
    return f"step_{step:08d}.npz"


def read_file(path: Path, step: int | None = None) -> "tuple[int, dict[str, np.ndarray]]":
    """The step of a file, and its arrays.

    Arguments:
        step: that it must be of; None for any.

    Raises:
        StoreError: where it is missing, damaged, or another trajectory's or step's.
    """
    arrays = read_sealed_arrays(path)
    maker = take_maker(path, arrays) or {}
    check_maker(path, "trajectory", maker.get("trajectory_id"), path.parent.name)
    found = maker.get("step", "")
    if not (isinstance(found, str) and found.isdecimal() and len(found) < 12):
        raise damaged(path, "does not say which step it is of")
    check_maker(path, "step", int(found), int(found) if step is None else step)
    return int(found), arrays


class Trajectory:
    """What is kept of one training run.

    Arguments:
        root: of the store.
        groups: as `identifier` takes them.
        say: called with a line where there is a wait, or something is damaged.
        minutes: how often the work between two steps that are kept is written.
    """

    def __init__(self, root: Path, groups: Mapping[str, Any], say: Callable[[str], Any], minutes: float):
        self._root, self._groups, self._say, self._interval = Path(root), dict(groups), say, 60 * minutes
        self.name = identifier(groups)
        self.directory = self._root / "trajectories" / self.name
        self._saved = time.monotonic()

    def has(self, step: int) -> bool:
        """Whether there is a file of this step, sound or not."""
        return os.path.lexists(self.directory / file_of(step))

    def read(self, step: int, like: "Mapping[str, np.ndarray]") -> "dict[str, np.ndarray] | None":
        """The arrays of a step; None where there are none, or they were damaged.

        Arguments:
            like: arrays of the names, shapes and types that are expected, beside numbers.
        """
        found = self._read(self.directory / file_of(step), like, step)
        return None if found is None else found[1]

    def before(self, step: int, like: "Mapping[str, np.ndarray]") -> "tuple[int, dict[str, np.ndarray]] | None":
        """The last step up to this one that there is, and its arrays."""
        found = self._read(self.directory / LATEST, like)
        best = found if found is not None and found[0] <= step else None
        for other in sorted((kept for kept in self.steps() if kept <= step), reverse=True):
            if best is not None and best[0] >= other:
                break
            if (arrays := self.read(other, like)) is not None:
                return other, arrays
        return best

    def steps(self) -> list[int]:
        """The steps that have a file, in order."""
        with contextlib.suppress(OSError):
            names = [name.removeprefix("step_").removesuffix(".npz") for name in os.listdir(self.directory)]
            return sorted(int(name) for name in names if name.isdecimal() and self.has(int(name)))
        return []

    @contextlib.contextmanager
    def hold(self, step: int) -> "Iterator[leases.Lease | None]":
        """Hold the lease on the training, waiting while another process does; None where the step is there meanwhile."""
        with leases.hold(self._root / "work" / self.name, lambda: self.has(step), self._say) as lease:
            if lease is not None:
                self._begin(lease)
            yield lease

    def _begin(self, lease):
        """Have the directory there, with the right configuration in it."""
        if is_done(self.directory):
            try:
                open_config(self.directory, STAGE, self._groups)
                return
            except StoreError as error:
                self._set_aside(self.directory, error)
        with workspace(lease.build) as hidden:
            write_config(hidden, self._groups)
            about = {"trajectory_id": self.name, "created_at": created_at()} | provenance.summary()
            write_json(hidden / "meta.json", about)
            self.directory.parent.mkdir(exist_ok=True)
            publish(hidden, self.directory)

    def write(self, lease: leases.Lease, step: int, arrays: "Mapping[str, np.ndarray]", is_wanted: bool = True) -> None:
        """Keep a step; or, where it is not one that is wanted, have it take the place of the latest.

        Raises:
            Deposed: where another process has taken over.
        """
        lease.check()
        maker = {"trajectory_id": self.name, "step": str(step)}
        path = self.directory / (file_of(step) if is_wanted else LATEST)
        replace_file(path, lambda file: write_sealed_arrays(file, dict(arrays), maker))
        self._saved = time.monotonic()
        latest = self._read(self.directory / LATEST, {}) if is_wanted else None
        if latest is not None and latest[0] <= step:
            (self.directory / LATEST).unlink(missing_ok=True)

    def is_due(self) -> bool:
        """Whether the work since the last write is worth one."""
        return time.monotonic() - self._saved >= self._interval

    def _read(self, path, like, step=None):
        if not os.path.lexists(path):
            return None
        try:
            found, arrays = read_file(path, step)
            shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
            if any(shapes.get(name) != (array.shape, array.dtype) for name, array in like.items()):
                raise damaged(path, "holds other arrays than this training has")
            return found, arrays
        except StoreError as error:
            self._set_aside(path, error)
            return None

    def _set_aside(self, path, error):
        """Move what is damaged away, and say so."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S_%f")
        name = path.name if path == self.directory else f"{self.name}.{path.name}"
        aside = self._root / "replaced" / f"{name}.{stamp}"
        aside.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process has done it
            os.rename(path, aside)
            self._say(f"{str(error).partition(';')[0]}: it is now {aside}; training again from before it")
