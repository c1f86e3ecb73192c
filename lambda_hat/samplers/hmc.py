"""Hamiltonian Monte Carlo: BlackJAX's kernel, its step size adapted over all chains, its trajectories jittered."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.adaptation.step_size import dual_averaging_adaptation

from lambda_hat.samplers import density as densities
from lambda_hat.samplers import loop
from lambda_hat.samplers.base import Bias, Kernel, MarkovSampler, Transition, Tuned
from lambda_hat.samplers.density import Density
from lambda_hat.system import devices
from lambda_hat.targets import resumable

mcmc: Any = blackjax.mcmc  # whose hints say float, int and bool of what are arrays

LENGTH = {True: 1.1, False: 0.75}
"""Mean trajectory length in whitened and in plain coordinates, in units of the time in which the slowest direction turns by a
radian. Whitened: 1 makes the most effective draws for the work with 433 and with 9921 parameters, twice as many as 0.5 and 2.5 on
the latter. Plain: of 1.5, 0.75, 0.375 and 0.1875 the one with the most effective draws of |w − w0|² for the work on crossings,
deep linear and tanh networks at γ = 1; L_n alone would take shorter ones, whose chains then stay in one arm of the zero set."""

ACCEPTANCE = {True: 0.65, False: 0.9}
"""Mean acceptance aimed at in whitened and in plain coordinates. Whitened: the optimum for a Gaussian (Beskos et al., Bernoulli
19:1501, 2013). Plain ones are for posteriors that are narrow in places, where an average hides rejections: at 0.9 the same problems
have a tenth of the divergences and as many effective draws for the work."""

TRIALS = {True: 1, False: 6}
"""Trials, a sixth of the draws of warm-up each, that must pass without a divergence."""

MOST_SHORTENED = 6
"""Times that a step is halved whose trajectories still diverge: acceptance is an average, and a posterior that is narrow in
places only (a crossing's arms) would keep the chains out of them."""


class Tuning(NamedTuple):
    """Numbers that the kernel runs with.

    Attributes:
        step_size: leapfrog step, in the metric's coordinates.
        trajectory_length: mean integration time of a trajectory.
        max_steps: most leapfrog steps of one.
    """

    step_size: jax.Array
    trajectory_length: jax.Array
    max_steps: jax.Array


class Leapfrog(Kernel):
    """A trajectory of leapfrog steps, and a Metropolis test of its end."""

    @property
    def gradients_per_step(self) -> float:
        return 1.0

    def init(self, density, u, key):
        return mcmc.hmc.HMCState(u, *densities.log_density_and_grad(self.loss, density, u))

    def step(self, density, tuning, state, key, shared):
        logp = densities.log_density(self.loss)
        wanted = jax.random.uniform(shared, minval=0.5, maxval=1.5) * tuning.trajectory_length / tuning.step_size
        count = jnp.clip(jnp.round(wanted), 1, tuning.max_steps).astype(jnp.int32)
        state, info = mcmc.hmc.build_kernel()(
            key,
            state,
            lambda u: logp(density, u),
            tuning.step_size,
            jnp.ones_like(state.position),
            count,
        )
        return state, Transition(
            acceptance=info.acceptance_rate,
            energy=info.energy,
            energy_error2=jnp.asarray(jnp.nan),
            diverging=info.is_divergent,
            gradients=count.astype(jnp.float64) * self.gradients_per_step,
        )

    def view(self, density, state):
        return state.position, state.logdensity, state.logdensity_grad


class Adjusted(MarkovSampler):
    """A sampler with a Metropolis test, whose step size is adapted to a mean acceptance over all chains.

    Attributes:
        acceptance: aimed at in whitened and in plain coordinates, where `target_acceptance` is not typed in.
    """

    acceptance: Mapping[bool, float] = ACCEPTANCE

    @staticmethod
    @abstractmethod
    def _begin(config: Any, density: Density) -> Any:
        """The settings before adaptation, a NamedTuple with a `step_size`."""

    def settle(self, chains, states, draws, log):
        free = {name: None for name in ("step_size", "trajectory_length") if hasattr(self.config, name)}
        config = replace(self.config, **free)
        return _adapt(config, self.acceptance, chains, states, self._begin(config, chains.density), 0, draws)

    def tune(self, chains, states, first, draws, log):
        """Adapt the step size over all chains, and halve it until transitions no longer diverge."""
        config, whitens, trial = self.config, chains.density.metric.whitens, draws // 6
        adapting = draws - trial * min(3, TRIALS[whitens])
        began = self._begin(config, chains.density)
        adapted = _adapt(config, self.acceptance, chains, states, began, first, adapting)
        states, tuning, gradients = adapted.states, adapted.tuning, adapted.gradients
        made, clean, shortened = first + adapting, 0, 0
        while trial and clean < TRIALS[whitens]:
            states, out = chains.advance(tuning, states, "warmup", made, trial)
            made, clean, gradients = made + trial, clean + 1, gradients + float(np.sum(out.steps.gradients))
            if np.any(out.steps.diverging) and not config.step_size and shortened < MOST_SHORTENED:
                clean, shortened = 0, shortened + 1
                tuning = tuning._replace(step_size=tuning.step_size / 2)
                log(
                    f"{config.name}: trajectories diverge where the posterior is narrow; step shortened to "
                    f"{float(tuning.step_size):.3g}"
                )
        chosen = {k: float(v) for k, v in tuning._asdict().items()} | {"shortened": shortened}
        return Tuned(states, tuning, gradients, chosen)

    def bias(self, chosen: Mapping[str, Any]) -> Bias:
        """None: the Metropolis test removes what the integrator errs by."""
        return Bias("none")


class HMC(Adjusted):
    """Hamiltonian Monte Carlo: exact but for the Monte Carlo error, and the reference for the other samplers.

    With U(u) = −log π(u) in the metric's coordinates u, momentum v ~ N(0, 1) and step ε, a trajectory is k leapfrog steps

        v ← v − ε/2 ∇U(u);   u ← u + ε v;   v ← v − ε/2 ∇U(u)

    whose end is accepted with probability min(1, exp(−ΔH)), H = U + |v|²/2. Its length kε is drawn anew for each draw, uniform
    between half and one and a half times the mean and the same for all chains: no resonance with a direction's period, and no
    chain waits for another.

    Warm-up adapts ε to a mean acceptance by dual averaging, one ε for all chains; then it makes trial draws and halves ε as long as
    a trajectory diverges, for an average hides a posterior that is narrow in places.

    Arguments (of `config.HMC`):
        step_size: ε, in the metric's coordinates: whitened ones make the posterior about a unit Gaussian, and 0.1 to 0.5 is
            usual; in plain ones it is in units of w, and 0.001 to 0.1. None = adapted.
        trajectory_length: mean of kε, in the same units. None = `LENGTH`: 1.1 in whitened coordinates, 0.75/√γ in plain ones.
        target_acceptance: between 0.6 and 0.95. None = `ACCEPTANCE`: 0.65 in whitened coordinates, 0.9 in plain ones.
        max_leapfrog_steps: most steps k of a trajectory: what a draw may cost, in full gradients.

    Example:
        A quadratic L has λ = p/2 and, at nβ = 1000/log 1000 and γ = 1, λ̂ = 0.993 p/2:

        >>> import lambda_hat, numpy as np
        >>> potential, w0 = lambda w: 0.5 * (w**2).sum(), np.zeros(4)
        >>> est = lambda_hat.estimate(potential=potential, params=w0, n=1000, gamma=1, sampler="hmc")
        >>> f"{est.llc:.3f} ± {est.mcse:.0e}", est.status
        ('1.986 ± 2e-06', 'ok')
        >>> est.summary.error.bias_kind, est.summary.adapted["trajectory_length"]
        ('none', 1.1)

    References:
        Duane, Kennedy, Pendleton and Roweth, Phys. Lett. B 195:216 (1987); Neal, arXiv 1206.1901.
        Hoffman and Gelman, J. Mach. Learn. Res. 15:1593 (2014), section 3.2: dual averaging.
        Bou-Rabee and Sanz-Serna, Ann. Appl. Probab. 27:2159 (2017): random trajectory lengths.
    """

    @property
    def kernel(self) -> Leapfrog:
        return Leapfrog(self.loss)

    @staticmethod
    def _begin(config, density):
        whitens, radian = density.metric.whitens, _radian(density)
        return Tuning(
            jnp.asarray(config.step_size or 0.1 * LENGTH[whitens] * radian, jnp.float64),
            jnp.asarray(config.trajectory_length or LENGTH[whitens] * radian, jnp.float64),
            jnp.asarray(config.max_leapfrog_steps),
        )


SAMPLER = HMC


def _radian(density):
    """Time in which a direction without curvature turns by a radian."""
    return 1.0 if density.metric.whitens else float(density.gamma) ** -0.5


def _adapt(config, acceptance, chains, states, tuning, first, draws):
    """Dual averaging of the step size over the draws of warm-up from `first` on."""
    fixed = bool(config.step_size)
    target = config.target_acceptance or acceptance[chains.density.metric.whitens]
    program = _adaptation_program(chains.kernel, chains.layout, config.chains, target, fixed)
    begin, _, final = dual_averaging_adaptation(target)
    numbers = jnp.arange(config.chains)
    keys = loop.stream(config.seed, "warmup"), loop.stream(config.seed, "tune")
    averaging = begin(tuning.step_size)  # weakly typed, which the program's own is not: it would be compiled twice
    averaging = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), averaging)
    carry, done = (states, averaging, jnp.zeros(numbers.shape, jnp.float64)), 0
    structure = jax.tree.structure(carry)
    pieces = resumable.Pieces(
        chains.journal,
        lambda carry: tuple(chains.layout.place(part, config.chains, i != 1) for i, part in enumerate(carry)),
    )

    def call(carry, count):
        start = first + done
        return program(chains.density, tuning, *carry, numbers, *keys, start, start + count, chains.thin), ()

    while done < draws:
        carry, found = pieces.next(f"adapt {first + done}", carry, structure, call, draws - done, done > 0)
        done += int(found["count"])
    states, averaging, spent = carry
    if not fixed and draws:
        tuning = tuning._replace(step_size=jnp.asarray(final(averaging)))
    return Tuned(states, tuning, float(np.sum(spent)), {k: float(v) for k, v in tuning._asdict().items()})


@lru_cache(maxsize=4)
def _adaptation_program(kernel, layout, chains, target_acceptance, fixed):
    _, update, _ = dual_averaging_adaptation(target_acceptance)

    def adapt(density, tuning, states, averaging, gradients, numbers, key, jitter, first, last, thin):
        chain_keys = jax.vmap(lambda c: jax.random.fold_in(key, c))(numbers)

        def draw(t, carry):
            states, averaging, gradients = carry
            now = tuning._replace(step_size=tuning.step_size if fixed else jnp.exp(averaging.log_step_size))
            shared = jax.random.fold_in(jitter, t)

            def one(state, chain_key):
                return loop.transitions(kernel, density, now, state, jax.random.fold_in(chain_key, t), shared, thin)

            states, step = layout.over(one)(states, chain_keys)
            accepted = jnp.mean(devices.gather(jnp.nan_to_num(step.acceptance)))
            return states, update(averaging, accepted), gradients + step.gradients

        return jax.lax.fori_loop(first, last, draw, (states, averaging, gradients))

    split = (False, False, True, False, True, True, False, False, False, False, False)
    return layout.program(adapt, chains, split, (True, False, True))
