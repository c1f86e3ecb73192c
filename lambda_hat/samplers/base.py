"""The contract of a sampler."""

from typing import Literal, NamedTuple


class Bias(NamedTuple):
    """By how much the plain mean of a sampler's draws misses λ̂ of the exact posterior because of its transitions.

    Attributes:
        kind: how that is known.
            `none`: transitions leave π unchanged.
            `predicted`: to first order in the step, from the curvature and the gradient noise that tuning measured; it can be
            taken off the mean.
            `bound`: predicted as well, where only its size can be believed.
            `measured`: by the draws alone, through the residual of the Stein identity (`Record.stein`, `Record.stein_curvature`).
            `gaussian`: the draws are of a Gaussian in π's place.
        share: of λ̂, by which the mean is predicted to be too large; 0 where nothing is predicted.
    """

    kind: Literal["none", "predicted", "bound", "measured", "gaussian"]
    share: float = 0.0
