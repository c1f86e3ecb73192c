"""Samplers: how draws of the posterior are made.

A sampler is a subclass of `Sampling` here, its algorithm (lambda_hat/samplers), and a file in conf/sampler.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_hat.config.fields import setting

if TYPE_CHECKING:
    from lambda_hat.config.whole import Config


@dataclass(frozen=True)
class Drawing:
    """What all ways to draw share."""

    name: str = setting("the algorithm")
    chains: int = setting("number of independent chains", ge=1, le=10_000)
    draws: int = setting("recorded draws of each chain, at most", ge=1, le=10**8)
    dtype: str = setting(
        "precision of data and gradients; positions and sums over data are in float64", choices=("float32", "float64")
    )
    seed: int = setting("seed of the sampler's random streams", ge=0, lt=2**63)
    save_params: bool = setting("whether trace.nc holds the parameters of every draw (chains × draws × p numbers)")

    def problems(self, whole: "Config") -> Iterator[str]:
        """Reasons why it cannot be run with the rest of the configuration, a sentence each."""
        return iter(())


@dataclass(frozen=True)
class Laplace(Drawing):
    """λ̂ of the Gaussian of the curvature at w0, in closed form; its draws only tell how far to believe it."""

    name: str = setting("the algorithm", choices=("laplace",))


@dataclass(frozen=True)
class Sampling(Drawing):
    """What all samplers share.

    Attributes:
        chooses_thin: whether thin=null makes sense, since the sampler then chooses it.
    """

    mcse_target: float | None = setting(
        "Monte Carlo standard error, as a share of λ̂, at which drawing stops if R-hat ≤ 1.01 and ESS ≥ 400 (1.05 "
        "and 100 where what is averaged scatters by less than a tenth of λ̂); null = make all draws",
        gt=0,
        lt=1,
    )
    warmup: int | None = setting(
        "draws discarded while the chain settles and tunes, each as long as a recorded one; null = 24 in whitened "
        "coordinates, 100 in plain ones",
        ge=0,
        le=10**8,
    )
    thin: int | None = setting(
        "transitions for each draw; null = chosen with the step size, by samplers that can", ge=1, le=10**6
    )
    metric: str | None = setting(
        "coordinates in which the chain moves: whitened by the curvature nβH + γ, at w0 and then along the settled chains, "
        "or the plain ones; null = curvature where a trial finds the posterior near to quadratic and sgld has no diagonal "
        "preconditioner",
        choices=("curvature", "identity"),
    )

    chooses_thin = False

    def problems(self, whole):
        if self.thin is None and not self.chooses_thin:
            yield f"sampler.thin must be a number for sampler={self.name}; got null."


@dataclass(frozen=True)
class Adjusted(Sampling):
    """What samplers with a Metropolis test share; they are exact but for the Monte Carlo error."""

    step_size: float | None = setting("integrator step in the metric's coordinates; null = adapted", gt=0, le=1e6)
    target_acceptance: float | None = setting(
        "mean acceptance that the step size is adapted to; null = in whitened coordinates 0.65 (hmc), 0.8 (nuts), 0.574 (mala) "
        "and 0.65 (amclmc), in plain ones 0.9",
        gt=0,
        lt=1,
    )


@dataclass(frozen=True)
class HMC(Adjusted):
    """Hamiltonian Monte Carlo with jittered trajectories."""

    name: str = setting("the algorithm", choices=("hmc",))
    trajectory_length: float | None = setting("mean integration time of a trajectory; null = tuned", gt=0, le=1e6)
    max_leapfrog_steps: int = setting("most leapfrog steps of one trajectory", ge=1, le=10**6)


@dataclass(frozen=True)
class NUTS(Adjusted):
    """The No-U-Turn sampler: Hamiltonian Monte Carlo whose trajectories end where they turn back."""

    name: str = setting("the algorithm", choices=("nuts",))
    max_doublings: int = setting("most doublings of a trajectory: 2^this leapfrog steps", ge=1, le=20)


@dataclass(frozen=True)
class MALA(Adjusted):
    """The Metropolis-adjusted Langevin algorithm: Hamiltonian Monte Carlo of one step."""

    name: str = setting("the algorithm", choices=("mala",))


@dataclass(frozen=True)
class AMCLMC(Adjusted):
    """Adjusted microcanonical Monte Carlo: MCLMC's trajectories, with a Metropolis test at the end of each."""

    name: str = setting("the algorithm", choices=("amclmc",))
    trajectory_length: float | None = setting("mean length of a trajectory, a distance; null = tuned", gt=0, le=1e9)
    max_steps: int = setting("most integrator steps of one trajectory", ge=1, le=10**6)

    def problems(self, whole):
        yield from super().problems(whole)
        yield from _one_parameter(self.name, whole)


@dataclass(frozen=True)
class MCLMC(Sampling):
    """Microcanonical Langevin Monte Carlo, unadjusted: its step size leaves a bias, kept small by `energy_variance`."""

    name: str = setting("the algorithm", choices=("mclmc",))
    step_size: float | None = setting("integrator step in the metric's coordinates; null = tuned", gt=0, le=1e6)
    decoherence_length: float | None = setting(
        "distance L over which the momentum is forgotten; null = tuned", gt=0, le=1e9
    )
    energy_variance: float = setting(
        "variance of the energy error per dimension that the step size is tuned to", gt=0, le=1
    )

    def problems(self, whole):
        yield from super().problems(whole)
        yield from _one_parameter(self.name, whole)


def _one_parameter(sampler: str, whole: "Config") -> Iterator[str]:
    """Why a sampler whose momentum is a direction cannot be run on one parameter."""
    if whole.model is None or any(whole.model.problems(whole)) or any(whole.posterior.problems(whole)):
        return
    if whole.posterior.p(whole.model) == 1:
        yield f"sampler={sampler} needs at least 2 parameters (its momentum is a direction); use sampler=hmc for one."


@dataclass(frozen=True)
class SGLD(Sampling):
    """Stochastic gradient Langevin dynamics, ε/2 convention (Hitchcock & Hoogland, arXiv 2507.21449, App. D.3)."""

    name: str = setting("the algorithm", choices=("sgld",))
    step_size: float | None = setting("step ε in the metric's coordinates; null = from bias_target", gt=0, le=1e6)
    bias_target: float = setting("relative bias of λ̂ that a null step_size aims at", gt=0, lt=1)
    batch_size: int | None = setting(
        "pairs in a minibatch; null = whatever takes least time at the bias aimed at", ge=1, le=10**8
    )
    integrator: str | None = setting(
        "euler, as published, or leimkuhler_matthews, whose injected noise is the mean of two successive ones, less what the "
        "minibatch adds: without the bias of first order in the step; null = the latter, but the former with a preconditioner, and "
        "where the posterior is far from quadratic",
        choices=("leimkuhler_matthews", "euler"),
    )
    precond: str = setting("diagonal preconditioner", choices=("none", "rmsprop", "adam"))
    control_variate: bool | None = setting(
        "whether minibatch gradients are corrected by those of the same batch at w0; null = where it pays"
    )
    first_moment_decay: float = setting("adam: b1", ge=0, lt=1)
    second_moment_decay: float = setting("rmsprop, adam: b2", ge=0, lt=1)
    stabilizer: float | None = setting(
        "rmsprop, adam: the a of 1/(√v̂ + a), in units of the mean loss gradient; null = 4 times the root mean "
        "square of the loss gradient over parameters, chains and batches",
        gt=0,
        le=1e6,
    )

    chooses_thin = True

    def problems(self, whole):
        yield from super().problems(whole)
        n, whose = whole.posterior.pairs(whole.data), "n" if whole.posterior.data else "data.n_data"
        if self.batch_size is not None and self.batch_size > n:
            yield f"sampler.batch_size must be ≤ {whose}={n}; got {self.batch_size}."
        if self.precond != "none" and self.integrator == "leimkuhler_matthews":
            yield (
                f"sampler.precond={self.precond} is defined with sampler.integrator=euler; got leimkuhler_matthews: leave "
                "sampler.integrator out, or set sampler.precond=none."
            )
        if self.precond != "none" and self.metric == "curvature":
            yield (
                f"sampler.precond={self.precond} is defined in the plain coordinates and sampler.metric=curvature is "
                "a preconditioner too: set sampler.metric=identity, or sampler.precond=none."
            )
