"""What figures take from a run's trace.nc: running estimates, thinned chains, ranks. Reads the arrays alone, with h5py."""

from typing import NamedTuple

import numpy as np

from lambda_hat import store
from lambda_hat.system.errors import StoreError

POINTS = 80
"""Points of a running estimate, spaced evenly in the logarithm of the draw."""

CHAIN_POINTS = 240
"""Points of a chain that is drawn."""


class Draws(NamedTuple):
    """A run's draws.

    Attributes:
        llc: nβ(L − L(w0)), `[chains, draws]`.
        gradients: full-data gradients of all chains up to each draw, warm-up included, `[draws]`.
        seconds: of adapting and drawing up to each draw, `[draws]`.
    """

    llc: np.ndarray
    gradients: np.ndarray
    seconds: np.ndarray


def read(row):
    """The `Draws` of a finished `rows.Row`.

    Raises:
        StoreError: where trace.nc is missing or damaged.
    """
    import h5py

    path = row.directory / "trace.nc"
    store.check_hash(path)
    try:
        with h5py.File(path, "r") as file:
            llc = file["posterior/llc"][()]
            gradients = file["sample_stats/gradient_evaluations"][()].sum(0)
            seconds = file["sample_stats/time"][()]
    except (OSError, KeyError) as error:
        raise StoreError(f"{path} cannot be read ({error}); rerun with force=true.") from error
    return Draws(llc, gradients, row.result["timings_sec"].get("adapt", 0.0) + seconds)


def running(draws):
    """Indices of some draws, and the mean of all chains up to each of them."""
    count = draws.llc.shape[1]
    at = np.unique(np.geomspace(1, count, min(POINTS, count)).round().astype(int)) - 1
    mean = np.cumsum(draws.llc.mean(0)) / np.arange(1, count + 1)
    return at, mean[at]


def thinned(draws):
    """Numbers of some draws, and each chain at them."""
    count = draws.llc.shape[1]
    at = np.arange(0, count, max(1, count // CHAIN_POINTS))
    return at, draws.llc[:, at]


def ranks(draws):
    """How many of each chain's draws have ranks in each of 20 (or fewer) equal parts, over what chains that agree give."""
    count = draws.llc.shape[1]
    bins = max(2, min(20, count // 5))
    order = np.empty(draws.llc.size)
    order[np.argsort(draws.llc, axis=None, kind="stable")] = np.arange(draws.llc.size)
    part = (order.reshape(draws.llc.shape) * bins / draws.llc.size).astype(int)
    return np.stack([np.bincount(one, minlength=bins) for one in part]) * bins / count
