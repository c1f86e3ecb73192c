"""What the report's figures take from a run's draws: running estimates, thinned chains, ranks."""

from typing import NamedTuple

import numpy as np

from lambda_hat.analysis import curves
from lambda_hat.inspect.records import RunRecord
from lambda_hat.system.errors import StoreError

POINTS = 80
"""Points of a running estimate, spaced evenly in the logarithm of the draw."""

CHAIN_POINTS = 240
"""Points of a chain that is drawn."""

LARGEST = 1e100
"""Values beyond this are drawn as if they were not finite."""


class Draws(NamedTuple):
    """A run's draws.

    Attributes:
        llc: nβ(L − L(w0)), `[chains, draws]`.
        gradients: full-data gradients of all chains up to each draw, curvature and warm-up included, `[draws]`.
        seconds: of adapting and drawing up to each draw, `[draws]`.
    """

    llc: np.ndarray
    gradients: np.ndarray
    seconds: np.ndarray


def read(record: RunRecord) -> Draws:
    """The `Draws` of a finished run.

    Raises:
        StoreError: where trace.nc is missing or damaged, or has no finite draw.
    """
    trace = record.trace
    llc, gradients, seconds = (_array(trace, name) for name in ("llc", "gradient_evaluations", "time"))
    if llc.ndim != 2 or llc.size == 0 or gradients.shape != llc.shape or seconds.shape != llc.shape[1:]:
        raise StoreError(f"{record.directory / 'trace.nc'}: its arrays have different shapes; rerun with force=true.")
    llc = np.where(np.abs(llc) < LARGEST, llc, np.nan)
    if not (np.all(np.abs(gradients) < LARGEST) and np.all(np.abs(seconds) < LARGEST)):
        raise StoreError(f"{record.directory / 'trace.nc'}: its work is not finite; rerun with force=true.")
    adapting = (record.result.timings_sec or {}).get("adapt", 0.0)
    curvature = record.result.fges.curvature or 0.0
    return Draws(llc.astype(float), curvature + gradients.astype(float).sum(0), adapting + seconds.astype(float))


def _array(trace, name):
    if name not in trace:
        raise StoreError(f"the trace has no {name}; rerun with force=true.")
    return trace[name]


def running(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Indices of some draws, and the mean of all chains up to each of them."""
    at = curves.spaced(draws.llc.shape[1], POINTS)
    return at, curves.running_mean(draws.llc.mean(0))[at]


def thinned(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of some draws, and each chain at them."""
    return curves.thinned(draws.llc, CHAIN_POINTS)


def ranks(draws: Draws) -> np.ndarray:
    """How many of each chain's draws have ranks in each of 20 (or fewer) equal parts, over what chains that agree give."""
    return curves.rank_shares(draws.llc)
