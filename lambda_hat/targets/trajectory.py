"""The weights along one training run: trained once, kept, and taken from there by the target of every checkpoint.

The JAX side of `lambda_hat.store.trajectory`. Whoever needs a step that is not there trains to it, from the last one there is, and
keeps the steps that the sweep asks for besides; everybody else waits for the one step he needs.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lambda_hat.store import lease as leases
from lambda_hat.store.journal import Journal
from lambda_hat.store.trajectory import Trajectory
from lambda_hat.system import stopping
from lambda_hat.system.errors import BrokeDown, Stopped
from lambda_hat.targets import losses, resumable


class Point(NamedTuple):
    """A step of a trajectory, as a target's meta.json has it.

    Attributes:
        trajectory_id: the trajectory's name.
        step: of training.
        train_loss: mean loss that training minimises, over all pairs.
        test_loss: the same over held-out pairs; None where there are none.
    """

    trajectory_id: str
    step: int
    train_loss: float
    test_loss: float | None


@dataclass
class Kept:
    """A trajectory from which one target takes its weights.

    Attributes:
        store: where it is kept.
        held_out: pairs that are not trained on, `losses.Rows` in float64; None where there are none.
        point: what was taken, once it was.
    """

    store: Trajectory
    held_out: losses.Rows | None = None
    point: Point | None = None

    def weights(self, along, start, first, loss, rows) -> Float[np.ndarray, " p"]:
        """The weights after `along.config.length` steps, in float64.

        Arguments:
            along: `training.Steps`.
            start: the initialisation `[p]` in float64, which step 0 is.
            first: what its step 0 begins with.
            loss: what training minimises.
            rows: the data in float64.

        Raises:
            BrokeDown: where training does so before that step.
        """
        step, state = along.config.length, resumable.pack(first)
        value = jax.jit(partial(losses.value, loss))

        def with_losses(done, carry):
            w = jnp.asarray(start if done == 0 else np.asarray(carry[0]), float)
            found = {"train_loss": value(rows, w)}
            if self.held_out is not None:
                found["test_loss"] = value(self.held_out, w)
            return resumable.pack(carry) | {name: np.asarray(each) for name, each in found.items()}

        while (found := self.store.read(step, state | {"train_loss": np.zeros(())})) is None:
            with self.store.hold(step) as lease:
                if lease is None:
                    continue
                try:
                    self._train(along, first, state, with_losses, lease)
                except BrokeDown:
                    if not self.store.has(step):  # else it was in the steps after it
                        raise
        test = float(found["test_loss"]) if "test_loss" in found else None
        self.point = Point(self.store.name, step, float(found["train_loss"]), test)
        return np.asarray(start if step == 0 else found["leaf0"], float)

    def _train(self, along, first, state, with_losses, lease: leases.Lease) -> None:
        """Train to the step that is needed and all that are wanted besides, each from the last one before it."""
        structure, pieces = jax.tree.structure(first), along.pieces(Journal())
        at, written = (0, first), 0

        def save():
            done, carry = at
            if done > written:
                self.store.write(lease, done, resumable.pack(carry), is_wanted=False)

        with stopping.saving(save):
            try:
                for goal in sorted({along.config.length, *(along.config.keep or ())}):
                    if self.store.has(goal):
                        continue
                    there = self.store.before(goal, state)
                    if there is not None and there[0] > at[0]:
                        at = there[0], resumable.unpack(there[1], structure)
                        written = at[0]
                    while at[0] < goal:
                        at = along.next(pieces, at[1], structure, at[0], goal - at[0])
                        if self.store.is_due():
                            save()
                            written = at[0]
                    self.store.write(lease, goal, with_losses(*at))
                    written = goal
            except (KeyboardInterrupt, Stopped):
                save()
                raise
