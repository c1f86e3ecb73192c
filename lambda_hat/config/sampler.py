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
        "Monte Carlo standard error, as a share of λ̂, at which drawing stops if R-hat ≤ 1.01 and ESS ≥ 400; null = make "
        "all draws",
        gt=0,
        lt=1,
    )
    warmup: int = setting(
        "draws discarded while the chain settles and tunes, each as long as a recorded one", ge=0, le=10**8
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
class HMC(Sampling):
    """Hamiltonian Monte Carlo with jittered trajectories; exact but for the MCMC error."""

    name: str = setting("the algorithm", choices=("hmc",))
    step_size: float | None = setting("leapfrog step in the metric's coordinates; null = adapted", gt=0, le=1e6)
    trajectory_length: float | None = setting("mean integration time of a trajectory; null = tuned", gt=0, le=1e6)
    target_acceptance: float | None = setting(
        "mean acceptance that the step size is adapted to; null = 0.65 in whitened coordinates, 0.9 in plain ones",
        gt=0,
        lt=1,
    )
    max_leapfrog_steps: int = setting("most leapfrog steps of one trajectory", ge=1, le=10**6)


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
        if whole.model is None or any(whole.model.problems(whole)) or any(whole.posterior.problems(whole)):
            return
        if whole.posterior.p(whole.model) == 1:
            yield "sampler=mclmc needs at least 2 parameters (its momentum is a direction); use sampler=hmc for one."


@dataclass(frozen=True)
class SGLD(Sampling):
    """Stochastic gradient Langevin dynamics, ε/2 convention (Hitchcock & Hoogland, arXiv 2507.21449, App. D.3)."""

    name: str = setting("the algorithm", choices=("sgld",))
    step_size: float | None = setting("step ε in the metric's coordinates; null = from bias_target", gt=0, le=1e6)
    bias_target: float = setting("relative bias of λ̂ that a null step_size aims at", gt=0, lt=1)
    batch_size: int | None = setting(
        "pairs in a minibatch; null = whatever takes least time at the bias aimed at", ge=1, le=10**8
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
        if self.precond != "none" and self.metric == "curvature":
            yield (
                f"sampler.precond={self.precond} is defined in the plain coordinates and sampler.metric=curvature is "
                "a preconditioner too: set sampler.metric=identity, or sampler.precond=none."
            )
