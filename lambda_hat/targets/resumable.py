"""Calls of compiled programs that take seconds each, and are steps of a journal: the JAX side of `lambda_hat.store.journal`."""

import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

CALL_SECONDS = 4.0
"""What a call of a compiled program is aimed to take at most, so that a signal is soon heard and a checkpoint loses little."""


Arrays = dict[str, np.ndarray]


@runtime_checkable
class Steps(Protocol):
    """What has been computed so far, step by step, such as `lambda_hat.store.journal.Journal`."""

    def has_next(self) -> bool:
        """Whether the next step is there."""
        ...

    def step(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """The result of a step: as it was, else as `compute()` gives it."""
        ...

    def passing(
        self, name: str, compute: Callable[[], tuple[dict[str, Any], dict[str, Any]]], follows: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The result of a step and a state that only the next step needs."""
        ...


class Pieces:
    """Calls of a program that makes many things one after the other, each as long as the one before it tells, and a step each.

    Arguments:
        journal: `Steps`.
        place: carry → the same where the program leaves it; what is computed from it elsewhere may round differently.
    """

    def __init__(self, journal, place):
        self._journal, self._place, self._apiece = journal, place, None

    def next(self, name, carry, structure, call, most, follows) -> tuple[Any, dict[str, Any]]:
        """Make some of what is left, or take what the journal has of that call.

        Arguments:
            name: of the step.
            carry: what the call starts from; None while the journal has later ones.
            structure: of the carry.
            call: carry, count → the carry after `count` more, and results; how they are cut into calls must not matter.
            most: how many are left.
            follows: whether the carry takes the place of the step's before.

        Returns:
            the carry (None where the journal has a later one), and the packed results with `count` and `seconds`.
        """
        fresh = None

        def compute():
            nonlocal fresh
            count = 1 if self._apiece is None else max(1, min(most, int(CALL_SECONDS / self._apiece)))
            began = time.perf_counter()
            fresh, out = jax.block_until_ready(call(self._place(carry), count))
            seconds = time.perf_counter() - began
            self._apiece = max(seconds / count, 1e-9)
            return pack(out) | {"count": count, "seconds": seconds}, pack(fresh)

        result, state = self._journal.passing(name, compute, follows)
        if fresh is None and state is not None:
            fresh = self._place(unpack(state, structure))
        return fresh, result


def pack(tree):
    """A pytree's leaves by number, in NumPy: what a step may give."""
    return {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}


def unpack(packed, structure):
    """The pytree of this structure that was packed."""
    return jax.tree.unflatten(structure, [packed[f"leaf{i}"] for i in range(structure.num_leaves)])
