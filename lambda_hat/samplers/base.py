"""The contract of a sampler: a kernel that makes transitions, and apart from it what chooses the kernel's settings.

    Sampler            says how biased its draws are, and how that is known
      Laplace          independent draws of a Gaussian
      MarkovSampler    has a `Kernel`, and a warm-up: `settle` and `tune`
        HMC, MCLMC, SGLD

The module lambda_hat/samplers/NAME.py of the sampler called NAME has its class under the name `SAMPLER`. What is abstract
here must be there: a class that forgets it cannot be made.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from lambda_hat.samplers.density import Density
from lambda_hat.targets.losses import Loss

if TYPE_CHECKING:
    from lambda_hat.samplers.loop import Loop

Log = Callable[..., None]
"""Called with a line, and whether such lines are frequent."""


class Bias(NamedTuple):
    """By how much the plain mean of a sampler's draws misses λ̂ of the exact posterior because of its transitions.

    Attributes:
        kind: how that is known.
            `none`: transitions leave π unchanged.
            `predicted`: to first order in the step, from the curvature and the gradient noise that tuning measured; it can be
            taken off the mean.
            `compensated`: made up for but for something between nothing and twice the share.
            `bound`: predicted as well, where only its size can be believed.
            `measured`: by the draws alone, through the residual of the Stein identity (`Record.stein`, `Record.stein_curvature`).
            `unknown`: as measured, but the residual need not show it: where the Stein correction does not help, the run warns.
            `gaussian`: the draws are of a Gaussian in π's place.
        share: of λ̂, by which the mean is predicted to be too large; 0 where nothing is predicted.
    """

    kind: Literal["none", "predicted", "compensated", "bound", "measured", "unknown", "gaussian"]
    share: float = 0.0


class Transition(NamedTuple):
    """What a transition reports beside its new state; with leading axes `[chains, draws]`, in NumPy, what those of a
    draw come to.

    Attributes:
        acceptance: acceptance probability, the mean over a draw; nan for samplers without a Metropolis test.
        energy: total energy after it (HMC), else nan.
        energy_error2: squared change of the energy, which is conserved but for discretisation (MCLMC), else nan; the mean over a
            draw.
        diverging: whether it broke down; for a draw, whether any did.
        gradients: full-data gradients that it cost: integrator steps times `Kernel.gradients_per_step`; for a draw, their sum.
    """

    acceptance: Float[Array | np.ndarray, "..."]
    energy: Float[Array | np.ndarray, "..."]
    energy_error2: Float[Array | np.ndarray, "..."]
    diverging: Bool[Array | np.ndarray, "..."]
    gradients: Float[Array | np.ndarray, "..."]


class Tuned(NamedTuple):
    """What a phase of warm-up leaves.

    Attributes:
        states: of all chains, each leaf `[chains, ...]`.
        tuning: the kernel's settings, a NamedTuple of numbers.
        gradients: full-data gradients spent, all chains.
        chosen: what was adapted or measured, by name: goes into analysis.json, and is what `Sampler.bias` is told.
    """

    states: Any
    tuning: Any
    gradients: float
    chosen: dict[str, Any]


@dataclass(frozen=True)
class Kernel(ABC):
    """One chain's transitions, as pure functions.

    Compiled programs are kept by kernel: its fields are what a program is compiled for, and two that are equal share it. Numbers
    that tuning changes are arguments (`tuning`).

    Attributes:
        loss: L_n.
    """

    loss: Loss

    @property
    @abstractmethod
    def gradients_per_step(self) -> float:
        """Full-data gradients that a step of the integrator costs: a minibatch of B of n pairs is B/n."""

    @property
    def gradients_of_init(self) -> float:
        """Full-data gradients that `init` costs."""
        return 1.0

    @property
    def gradients_of_view(self) -> float:
        """Full-data gradients that `view` costs: 0 where the state holds log π and its gradient."""
        return 0.0

    @abstractmethod
    def init(self, density: Density, u: Float[Array, " p"], key: PRNGKeyArray) -> Any:
        """The state of a chain at u, with u in float64 as its `position`."""

    @abstractmethod
    def step(
        self, density: Density, tuning: Any, state: Any, key: PRNGKeyArray, shared: PRNGKeyArray
    ) -> tuple[Any, Transition]:
        """A transition.

        Arguments:
            density: log π(u).
            tuning: the settings.
            state: of the chain.
            key: the chain's own.
            shared: common to all chains of a draw, for what they should do alike, such as the length of a trajectory.
        """

    @abstractmethod
    def view(self, density: Density, state: Any) -> tuple[Float[Array, " p"], Float[Array, ""], Float[Array, " p"]]:
        """u, log π(u) and ∇ log π(u): what a draw is recorded from."""


class Sampler(ABC):
    """A way to draw from π, made for one problem.

    Arguments:
        config: of class `config.Drawing`.
        loss: L_n.
        n: pairs of data.
        nbeta: nβ.
    """

    def __init__(self, config: Any, loss: Loss, n: int, nbeta: float) -> None:
        self.config, self.loss, self.n, self.nbeta = config, loss, n, nbeta

    @abstractmethod
    def bias(self, chosen: Mapping[str, Any]) -> Bias:
        """How biased the plain mean of the draws is, and how that is known.

        Arguments:
            chosen: what tuning chose and measured (`Tuned.chosen`).
        """


class MarkovSampler(Sampler):
    """A sampler whose chains move by a kernel. The loop (`loop.Loop`) makes the draws, in warm-up and after."""

    @property
    @abstractmethod
    def kernel(self) -> Kernel:
        """Its transitions, as warm-up starts with them."""

    @abstractmethod
    def settle(self, chains: "Loop", states: Any, draws: int, log: Log) -> Tuned:
        """Move the chains off their starts, at settings of the sampler's own choice, whatever the configuration asks for.

        Arguments:
            chains: the loop.
            states: of all chains.
            draws: how many draws it may take.
            log: called with a line for what is worth one.
        """

    @abstractmethod
    def tune(self, chains: "Loop", states: Any, first: int, draws: int, log: Log) -> Tuned:
        """Choose the settings that the configuration leaves open.

        Arguments:
            chains: the loop.
            states: of all chains.
            first, draws: which draws of warm-up these are; none leaves the settings as they start.
            log: called with a line for what is worth one.
        """

    @property
    def thin(self) -> int:
        """Transitions of a draw, as warm-up starts."""
        return self.config.thin

    @property
    def metric(self) -> str | None:
        """Coordinates that it must move in: `curvature` or `identity`; None = a trial decides."""
        return self.config.metric

    def far_from_quadratic(self) -> "MarkovSampler | None":
        """What samples a posterior that is far from quadratic in coordinates whitened along the chains; None = in plain ones."""
        return None
