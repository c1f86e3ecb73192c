"""What the figures of draws show, whoever draws them: thinned chains, running means, ranks."""

import numpy as np
from jaxtyping import Float, Int

from lambda_hat.analysis.summary import Summary

Draws = Float[np.ndarray, "chains draws"]


def thinned(draws: Draws, points: int) -> tuple[Int[np.ndarray, " points"], Float[np.ndarray, "chains points"]]:
    """Numbers of about this many draws, evenly spaced, and each chain at them."""
    at = np.arange(0, draws.shape[1], max(1, draws.shape[1] // points))
    return at, draws[:, at]


def spaced(count: int, points: int) -> Int[np.ndarray, " points"]:
    """At most this many of `count` draws, evenly spaced in the logarithm of their number; the first and the last among them."""
    return np.unique(np.geomspace(1, count, min(points, count)).round().astype(int)) - 1


def running_mean(values: Float[np.ndarray, "... draws"]) -> Float[np.ndarray, "... draws"]:
    """The mean up to each draw."""
    return np.cumsum(values, -1) / np.arange(1, values.shape[-1] + 1)


def rank_shares(draws: Draws) -> Float[np.ndarray, "chains bins"]:
    """How many of each chain's draws have ranks in each of 20 (or fewer) equal parts, over what chains that agree give.

    References:
        Vehtari, Gelman, Simpson, Carpenter, Bürkner, Bayesian Analysis 16:667 (2021), rank plots.
    """
    count = draws.shape[1]
    bins = max(2, min(20, count // 5))
    order = np.empty(draws.size)
    order[np.argsort(draws, axis=None, kind="stable")] = np.arange(draws.size)
    part = (order.reshape(draws.shape) * bins / draws.size).astype(int)
    return np.stack([np.bincount(row, minlength=bins) for row in part]) * bins / count


def corrected(draws: Draws, stein_curvature: Draws, summary: Summary) -> Draws:
    """Draws whose mean is λ̂: the excess less its Stein term, where the run's estimate is corrected by it."""
    control = summary.control_variate
    if not control.used or control.coefficient is None or summary.laplace is None:
        return draws
    return draws - control.coefficient * (stein_curvature - 2 * summary.laplace)
