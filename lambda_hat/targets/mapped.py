"""Arrays that stay in their file: the numbers of their rows stand in for them, and rows are read where they are computed with."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from lambda_hat.system import devices

AT_ONCE = 2**14
"""Most rows of one call, which takes 0.2 ms, and 0.1 ms for a thousand of 32 numbers. XLA hands
over up to 100 KiB of numbers at once; for more it waits for a thread, maybe for its own."""

GPU_SHARE = 1 / 4
"""The part of a GPU's memory that an array may take there: reading its rows from a file would take most of the time."""


@dataclass(frozen=True, eq=False)
class File:
    """An array in a file, in the precision that its rows are wanted in. Two of one array are equal, so that they share programs.

    Attributes:
        array: `[n, …]`, mapped into memory.
        dtype: of the rows.
    """

    array: np.memmap
    dtype: np.dtype

    def rows(self, numbers: Int[Any, "..."]) -> Shaped[np.ndarray, "..."]:
        """The rows of these numbers."""
        return self.array[np.asarray(numbers)].astype(self.dtype)

    def __eq__(self, other):
        return isinstance(other, File) and self._key == other._key

    def __hash__(self):
        return hash(self._key)

    @property
    def _key(self):
        return self.array.ctypes.data, self.array.shape, self.array.dtype.str, np.dtype(self.dtype).str


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Mapped:
    """Rows of an array in a file; in a tree, an array of their numbers, which is cut, dealt and scanned in place of them.

    Attributes:
        numbers: of the rows, an integer array; of a tree that JAX takes apart, whatever it puts there.
        file: that they are in.
    """

    numbers: Any
    file: File

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows, once they are read."""
        return *self.numbers.shape, *self.file.array.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """Of the rows, once they are read."""
        return self.file.dtype

    def tree_flatten(self):
        return (self.numbers,), self.file

    @classmethod
    def tree_unflatten(cls, file, leaves):
        (numbers,) = leaves
        return cls(numbers, file)


def loaded(rows: Array | Mapped) -> Shaped[Array, "..."]:
    """The rows as an array, read from their file where they are in one. Within a program as outside."""
    if not isinstance(rows, Mapped):
        return rows
    file, flat = rows.file, rows.numbers.reshape(-1)
    parts = [flat[first : first + AT_ONCE] for first in range(0, len(flat), AT_ONCE)]

    def read(numbers):
        wanted = jax.ShapeDtypeStruct((*numbers.shape, *file.array.shape[1:]), file.dtype)
        return jax.pure_callback(file.rows, wanted, numbers, vmap_method="broadcast_all")

    return jnp.concatenate([read(part) for part in parts]).reshape(rows.shape)


def stays_in_file(array: np.ndarray) -> bool:
    """Whether an array's rows are read when they are wanted: of one that is mapped, unless a GPU has room for it."""
    return isinstance(array, np.memmap) and (
        devices.on_cpu() or array.nbytes > GPU_SHARE * devices.memory(devices.GPU_BYTES)
    )
