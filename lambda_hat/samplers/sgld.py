"""Stochastic gradient Langevin dynamics: a step without bias of first order, preconditioners, a control variate, and a step size
and minibatch chosen by the bias they leave."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lambda_hat.samplers import density as densities
from lambda_hat.samplers import loop
from lambda_hat.samplers.base import Bias, Kernel, MarkovSampler, Transition, Tuned
from lambda_hat.system import devices
from lambda_hat.targets import losses

PROBES = 4
"""Random probes of the curvature and of the gradient noise, for each chain."""

POWER_ITERATIONS = 10

THIN, MOST_THIN = 20, 400
"""Transitions of a draw in warm-up, and the fewest and most of a recorded one, where they are not typed in."""

SMALLEST_BATCH = 32

OVERHEAD = 200
"""Cost of a transition but for its gradients (noise, coordinates), in gradients of one pair. By the clock of a CPU it is 660-690,
with 433 as with 9921 parameters; by the count of gradients it is nothing. At 200 the default run takes half as many gradients as at
640, and no longer."""

WORTH_IT = 0.7
"""Share of the present batch's cost below which another is taken: its program must be compiled first."""

CAREFUL = 0.004
"""Bias that is aimed at, at most, where the posterior is not quadratic, and predicted too small."""

UNCOMPENSATED = 0.45
"""Largest share of the minibatch's heating that is left where the injected noise makes up for it: one size of noise for all
directions is right for a quadratic L_n, and too hot where the curvature grows with the noise. Measured, against long HMC: 0.3 to
0.5 on the 433-parameter network, 0 to 0.4 on the one with 9921. Half of it is taken off, and as much is in doubt."""

STIFFEST = 50.0
"""Euler's step size times largest curvature, over the bias target, at most; never above 1, a quarter of where it diverges."""

STABILIZER = 4.0
"""Stabilizer over the typical gradient. The preconditioner follows the gradient about, which biases λ̂ by more than its step
does: measured on a quadratic with rmsprop, aiming at 2 %, +7.6 % at 1, +4.2 % at 4, +3.4 % at 8."""


class Tuning(NamedTuple):
    """Numbers that the kernel runs with.

    Attributes:
        step_size: ε, in the metric's coordinates.
        noise_size: of the injected noise, below 1 by what the minibatch's adds to it.
        stabilizer: a of the preconditioners.
        grad0: ∇L_n(w0) `[p]`, for the control variate.
    """

    step_size: jax.Array
    noise_size: jax.Array
    stabilizer: jax.Array
    grad0: jax.Array


class State(NamedTuple):
    """One chain.

    Attributes:
        position: u, in the metric's coordinates `[p]`.
        noise: N(0, 1) that the last step was made with `[p]` (None for Euler's).
        first, second: running moments m and v of the loss gradient `[p]` (None without a preconditioner).
        count: transitions made.
    """

    position: jax.Array
    noise: jax.Array | None
    first: jax.Array | None
    second: jax.Array | None
    count: jax.Array


class Measured(NamedTuple):
    """What decides the bias (see `_measure`).

    Attributes:
        largest: eigenvalue of P^½ A P^½, for stability.
        curvature: tr(P nβH).
        noise: tr(P C R), or tr(PC) where R vanishes.
    """

    largest: jax.Array | np.ndarray
    curvature: jax.Array | np.ndarray
    noise: jax.Array | np.ndarray


def batch_size(config, n, nbeta):
    """Pairs in the minibatch that warm-up starts with: as asked, or √(OVERHEAD nβ), the cheapest if the noise of nβ pairs adds as
    much bias as discretisation; of large data at most half, so that the noise can be measured."""
    return config.batch_size or int(min(n if n <= 4 * OVERHEAD else n // 2, max(1, np.ceil(np.sqrt(OVERHEAD * nbeta)))))


def _kernel_settings(config):
    """The configuration with all that compiled programs do not depend on taken out."""
    fixed = {"draws": 1, "warmup": 0, "thin": 1, "seed": 0, "step_size": None, "bias_target": 0.5, "stabilizer": None}
    return replace(config, **fixed, control_variate=is_controlled(config), integrator=integrator(config))


def integrator(config):
    """As asked, else Leimkuhler and Matthews's, but for preconditioners, which are defined with Euler's."""
    return config.integrator or ("leimkuhler_matthews" if config.precond == "none" else "euler")


def is_controlled(config):
    """Whether gradients are corrected by those at w0: as asked, else no, until `SGLD.tune` finds that it pays."""
    return config.control_variate is True


@dataclass(frozen=True)
class Langevin(Kernel):
    """A step of overdamped Langevin dynamics with a minibatch gradient.

    Attributes:
        config: what the configuration decides of a step (`_kernel_settings`).
        n, batch: pairs of data, and in a minibatch.
    """

    config: Any
    n: int
    batch: int

    @property
    def gradients_per_step(self) -> float:
        return _gradient_cost(self.config, self.loss, self.n, self.batch)

    @property
    def gradients_of_init(self) -> float:
        return 0.0

    @property
    def gradients_of_view(self) -> float:
        return 1.0

    def init(self, density, u, key):
        first = second = noise = None
        if integrator(self.config) != "euler":
            noise = jax.random.normal(key, u.shape, density.w0.dtype)
        if self.config.precond != "none":
            first, second = jnp.zeros(u.size, density.w0.dtype), jnp.ones(u.size, density.w0.dtype)
        return State(u, noise, first, second, jnp.zeros((), jnp.int32))

    def step(self, density, tuning, state, key, shared):
        config = self.config
        batch_key, noise_key = jax.random.split(key)
        dtype = density.w0.dtype
        shift = density.metric.apply(state.position.astype(dtype))
        g = _gradient(config, self.loss, density, tuning, shift, batch_key, self.n, self.batch)
        count = state.count + 1
        drift, first, second, eps = g, state.first, state.second, tuning.step_size
        if config.precond != "none":
            b1, b2 = config.first_moment_decay, config.second_moment_decay
            second = b2 * second + (1 - b2) * g**2
            eps = eps / (jnp.sqrt(second / (1 - b2**count)) + tuning.stabilizer)
        if config.precond == "adam":
            first = b1 * first + (1 - b1) * g
            drift = first / (1 - b1**count)
        force = density.metric.apply(density.gamma.astype(dtype) * shift + density.nbeta.astype(dtype) * drift)
        noise = jax.random.normal(noise_key, state.position.shape, dtype)
        injected = noise if state.noise is None else tuning.noise_size * (noise + state.noise) / 2
        u = state.position - eps / 2 * force + jnp.sqrt(eps) * injected
        noise = None if state.noise is None else noise
        nan, broken = jnp.asarray(jnp.nan), ~jnp.all(jnp.isfinite(u))
        return State(u, noise, first, second, count), Transition(
            nan, nan, nan, broken, jnp.asarray(self.gradients_per_step)
        )

    def view(self, density, state):
        return state.position, *densities.log_density_and_grad(self.loss, density, state.position)


def make_kernel(config, loss, n, batch):
    """The kernel for a data set of n pairs and this batch size."""
    return Langevin(loss, _kernel_settings(config), n, batch)


class SGLD(MarkovSampler):
    """Stochastic gradient Langevin dynamics, in the ε/2 convention.

        w ← w − (ε_t/2) ( γ(w−w0) + nβ·drift ) + √ε_t ξ_t

        leimkuhler_matthews:  ξ_t = s (η_{t−1} + η_t)/2,  s² = 1 − (ε/4) noise;      euler:  ξ_t = η_t;      η_t = N(0, 1)

        none:    ε_t = ε                                              drift = g
        rmsprop: v ← b2 v + (1−b2) g², v_{−1} = 1;  ε_t = ε/(√v̂ + a)  drift = g
        adam:    as rmsprop, and m ← b1 m + (1−b1) g;                 drift = m̂

    with g the minibatch gradient of L_n, v̂ = v/(1−b2^t), m̂ = m/(1−b1^t); moments see the loss gradient only, never the
    localization. The control variate replaces g by g(w) − g(w0) + ∇L_n(w0), both on the same batch: its noise vanishes towards w0.
    In whitened coordinates w = w0 + Mu the same step is made in u.

    Under Euler's step λ̂ is too large, to first order, by the share (ε/4)(curvature + gradient noise), which `_measure` measures.
    The mean of two successive noises takes the curvature's part off, for a quadratic wholly; the smaller size s of the noise takes
    off the minibatch's, but for `UNCOMPENSATED` of it where L_n is not quadratic. Warm-up chooses ε so that what is left is
    `bias_target` at most, and the batch, the control variate and the transitions of a draw so that effective draws cost least. The
    prediction is taken off λ̂. Under rmsprop and adam it is not known: ε_t follows the
    gradient about, and the term ½ div of the preconditioner that would make up for that is left out, as everywhere. The
    Stein correction takes that bias off where it helps; elsewhere the run warns of it. They are here to compare with; `none` in
    whitened coordinates is better in every respect.

    BlackJAX's `sgld` has twice this ε.

    Arguments (of `config.SGLD`):
        step_size: ε, in the metric's coordinates: 0.01 to 0.3 in whitened ones, 1e-7 to 1e-3 in those of w. None = from
            bias_target.
        bias_target: relative bias of λ̂ that ε aims at; 0.002 to 0.1.
        integrator: `leimkuhler_matthews`, or `euler`, as published. None = the former, but the latter with a preconditioner, and
            where the posterior is far from quadratic.
        batch_size: pairs in a minibatch. None = whatever costs least.
        precond: `none`, `rmsprop` or `adam`.
        control_variate: None = where it pays.
        first_moment_decay, second_moment_decay: b1 and b2; 0.9 and 0.99 to 0.999.
        stabilizer: a, in units of the gradient of L_n. None = `STABILIZER` times its root mean square. Small ones (1e-8) take away
            the cap 1/a of the step in flat directions, which are what λ measures.
        thin: transitions of a draw. None = chosen.

    Example:
        A linear regression of 4 parameters, λ = 2:

        >>> import lambda_hat, numpy as np
        >>> x = np.random.default_rng(0).standard_normal((1000, 4))
        >>> y, w0 = x @ [1.0, -2.0, 0.5, 0.0], np.array([1.0, -2.0, 0.5, 0.0])
        >>> est = lambda_hat.estimate(lambda w, x: x @ w, w0, x, y, noise_scale=0.1, gamma=1, sampler="sgld")
        >>> f"{est.llc:.3f} ± {est.mcse:.0e}", est.status
        ('2.000 ± 2e-06', 'ok')
        >>> est.summary.error.bias_kind
        'compensated'

    References:
        Welling and Teh, ICML 2011. Ahn, Korattikara and Welling, ICML 2012: noise that is smaller by the minibatch's.
        Leimkuhler and Matthews, Appl. Math. Res. eXpress 2013:34 (arXiv 1203.5428): the mean of two noises.
        Hitchcock and Hoogland, arXiv 2507.21449, App. D.3: the preconditioned variants.
        Vollmer, Zygalakis and Teh, J. Mach. Learn. Res. 17:159 (2016): the bias of step and minibatch.
        Baker, Fearnhead, Fox and Nemeth, Stat. Comput. 29:599 (2019): the control variate.
    """

    @property
    def _batch(self) -> int:
        return batch_size(self.config, self.n, self.nbeta)

    @property
    def kernel(self) -> Langevin:
        return make_kernel(self.config, self.loss, self.n, self._batch)

    @property
    def thin(self) -> int:
        return self.config.thin or THIN

    @property
    def metric(self) -> str | None:
        return "identity" if self.config.precond != "none" else self.config.metric

    def far_from_quadratic(self) -> "SGLD":
        """By Euler's step, and with a small bias aimed at: the bias is predicted too small there, and that of the default step, of
        second order, not at all."""
        careful = min(self.config.bias_target, CAREFUL)
        config = replace(self.config, bias_target=careful, integrator=self.config.integrator or "euler")
        return SGLD(config, self.loss, self.n, self.nbeta)

    def settle(self, chains, states, draws, log):
        config = replace(self.config, step_size=None)
        begun = _begin(config, self.loss, chains, states)
        chosen = _choose(config, self.loss, chains, begun, 0, self.n, self._batch)
        return _stages(config, self.loss, chains, chosen, (0, draws), log, self.n, self._batch)

    def tune(self, chains, states, first, draws, log):
        """Choose the step size from the measured curvature and gradient noise, and with it the batch and the length of a draw.

        The step is chosen at the start, with the batch, again half way, and at the end.
        """
        config, loss, n, batch = self.config, self.loss, self.n, self._batch
        tuned = _choose(config, loss, chains, _begin(config, loss, chains, states), first, n, batch)
        if draws:
            config, batch, tuned = _cheapest(config, loss, tuned, n, batch)
            chains.use(make_kernel(config, loss, n, batch))
            ends = sorted({first, first + draws // 2, first + draws})
            tuned = _stages(config, loss, chains, tuned, ends, log, n, batch)
            tuned = _choose(config, loss, chains, tuned, first + draws, n, batch)
        step_size = float(tuned.tuning.step_size)
        if config.thin is None:
            cost = _gradient_cost(config, loss, n, batch) + OVERHEAD / n
            chains.thin = _cheapest_thin(_slowest_rate(config, chains.density, tuned.tuning), cost)
        chosen = {"step_size": step_size, "batch_size": batch, "thin": chains.thin}
        chosen |= {"control_variate": batch < n and is_controlled(config)} | tuned.chosen
        if integrator(config) != "euler":
            chosen["noise_size"] = float(tuned.tuning.noise_size)
        if config.precond != "none":
            chosen["stabilizer"] = float(tuned.tuning.stabilizer)
        return tuned._replace(chosen=chosen)

    def bias(self, chosen: Mapping[str, Any]) -> Bias:
        """Predicted, unless a preconditioner follows the gradient, which has a bias of its own."""
        share = chosen["predicted_bias"]
        if integrator(self.config) != "euler":
            return Bias("compensated", share)
        if self.config.precond != "none":
            return Bias("unknown", share)
        return Bias("bound" if chosen["predicted_bias_is_a_bound"] else "predicted", share)


SAMPLER = SGLD


def _gradient_cost(config, loss, n, batch):
    """Full-data gradients that one stochastic gradient costs."""
    if loss.potential is not None or batch == n:
        return 1.0
    return batch / n * (2 if is_controlled(config) else 1)


def _gradient(config, loss, density, tuning, shift, key, n, batch):
    """The stochastic gradient of L_n at w0 + shift."""
    if loss.potential is not None or batch == n:
        return losses.value_and_grad(loss, density.rows, density.w0 + shift)[1]
    index = jax.random.randint(key, (batch,), 0, n)
    g = losses.batch_grad(loss, density.rows, density.w0 + shift, index)
    if is_controlled(config):
        g = g - losses.batch_grad(loss, density.rows, density.w0, index) + tuning.grad0
    return g


def _cheapest_thin(rate, cost):
    """The transitions of a draw that make the most effective draws of L_n for the work.

    Arguments:
        rate: what L_n in the slowest direction forgets in a transition.
        cost: of a transition, in full gradients; recording a draw costs one.
    """
    thins = np.arange(THIN, MOST_THIN + 1)
    return int(thins[np.argmax(np.tanh(rate * thins / 2) / (1 + cost * thins))])


def _slowest_rate(config, density, tuning):
    """Twice what a direction without curvature relaxes by in a transition."""
    rate = float(tuning.step_size) * (1 if density.metric.whitens else float(density.gamma))
    return rate / (1 if config.precond == "none" else float(tuning.stabilizer))


def _begin(config, loss, chains, states):
    """Nothing chosen yet but what is typed in."""
    grad0 = losses.evaluate(loss, chains.density.rows, chains.density.w0)[1]
    tuning = Tuning(
        jnp.asarray(config.step_size or 0.0, jnp.float64),
        jnp.ones((), jnp.float64),
        jnp.asarray(config.stabilizer or 0.0, jnp.float64),
        grad0,
    )
    return Tuned(states, tuning, 1.0, {})


def _step_size(config, measured, share=1.0):
    """The largest step that meets the bias target and is stable, at a share of the batch that the noise was measured with."""
    noise = measured["gradient_noise"] / share
    heat = measured["typical_curvature"] + noise if integrator(config) == "euler" else UNCOMPENSATED * noise
    stiffest = min(1.0, STIFFEST * config.bias_target) if integrator(config) == "euler" else 1.0
    stable = stiffest / measured["largest_curvature"]
    return min(4 * config.bias_target / max(heat, 1e-300), stable)


def _noise_size(config, step_size, noise):
    """Size of the injected noise which with the minibatch's comes to 1, on the mean over directions that λ̂ is."""
    if integrator(config) == "euler":
        return jnp.ones((), jnp.float64)
    return jnp.sqrt(jnp.maximum(1 - step_size * noise / 4, 0.25)).astype(jnp.float64)


def _has_choice(config, loss, n, batch):
    """Whether another minibatch gradient may be taken: neither the step is typed in, nor the whole data used."""
    return config.step_size is None and loss.potential is None and batch < n


def _cheapest(config, loss, settled, n, batch):
    """The batch and the control variate, or none, whose steps, as long as their noise allows, cost least for the time they cover.

    Returns:
        the configuration with that control variate, the batch, and `settled` with the step for them.
    """
    if not _has_choice(config, loss, n, batch):
        return config, batch, settled
    powers = [2**i for i in range(SMALLEST_BATCH.bit_length() - 1, (n // 2).bit_length())]
    noises = {is_controlled(config): settled.chosen["gradient_noise"]}
    if config.control_variate is None:
        noises[True] = settled.chosen["controlled_noise"]

    def step_size(option):
        controlled, size = option
        return _step_size(config, settled.chosen | {"gradient_noise": noises[controlled]}, size / batch)

    def cost(option):
        controlled, size = option
        return ((2 if controlled else 1) * size + OVERHEAD) / step_size(option)

    present = is_controlled(config), batch
    best = min(itertools.product(noises, [batch, *(powers if config.batch_size is None else ())]), key=cost)
    if cost(best) > WORTH_IT * cost(present):
        best = present
    step = step_size(best)
    noise_size = _noise_size(config, step, noises[best[0]] * batch / best[1])
    tuning = settled.tuning._replace(step_size=jnp.asarray(step, jnp.float64), noise_size=noise_size)
    return replace(config, control_variate=best[0]), best[1], settled._replace(tuning=tuning)


def _stages(config, loss, chains, settled, ends, log, n, batch):
    """The draws of warm-up between these ends, the step chosen anew before each stage but the first.

    A stage that breaks down is repeated with a quarter of the step.
    """
    for first, last in itertools.pairwise(ends):
        if first > ends[0]:
            settled = _choose(config, loss, chains, settled, first, n, batch)
        while True:
            states, out = chains.advance(settled.tuning, settled.states, "warmup", first, last - first)
            settled = settled._replace(gradients=settled.gradients + float(np.sum(out.steps.gradients)))
            step_size = float(settled.tuning.step_size)
            if config.step_size or bool(jnp.all(jnp.isfinite(states.position))):
                llc = float(np.mean(out.records.excess[:, (last - first) // 2 :])) if last > first else None
                settled = settled._replace(states=states, chosen=settled.chosen | {"llc_in_warmup": llc})
                break
            if step_size < 1e-12:
                break
            log(f"SGLD: step {step_size:.3g} broke down in warm-up; trying {step_size / 4:.3g}")
            settled = settled._replace(tuning=settled.tuning._replace(step_size=jnp.asarray(step_size / 4)))
    return settled


def _choose(config, loss, chains, settled, number, n, batch):
    """The step size, and the preconditioner's stabilizer, where they are not typed in: a `Tuned` with them.

    `predicted_bias` is the share of λ̂ by which it is too large, to first order in the step (see `_measure`).
    """
    density, (states, tuning, gradients, measured) = chains.density, settled
    keys = jax.random.split(jax.random.fold_in(loop.stream(config.seed, "tune"), number), config.chains)
    kernel, layout = _kernel_settings(config), (chains.layout, config.chains)
    cost = _gradient_cost(config, loss, n, batch)
    if config.precond != "none" and config.stabilizer is None:
        program = _squares_program(kernel, loss, n, batch, *layout)
        found = chains.journal.step(
            "squares", lambda: {"mean": np.mean(np.asarray(program(density, tuning, states, keys)))}
        )
        tuning = tuning._replace(stabilizer=(STABILIZER * jnp.sqrt(found["mean"])).astype(jnp.float64))
        gradients += config.chains * PROBES * cost
    kernels = [kernel]
    if config.control_variate is None and _has_choice(config, loss, n, batch):
        kernels.append(replace(kernel, control_variate=True))
    measuring = _measuring_program(tuple(kernels), loss, n, batch, *layout)
    found = chains.journal.step("measure", lambda: measuring(density, tuning, states, keys)._asdict())
    found = Measured(**{name: np.asarray(value) for name, value in found.items()})
    largest, total = float(np.max(found.largest)), _twice_llc(density, settled.chosen.get("llc_in_warmup"))
    typical, *noises = (
        max(0.0, float(value)) / total for value in (np.mean(found.curvature), *np.mean(found.noise, 0))
    )
    if np.isinf(total):
        typical = largest
    noise, *controlled = noises
    gradients += config.chains * (
        2 * POWER_ITERATIONS + 1 + PROBES * (2 + sum(_gradient_cost(kernel, loss, n, batch) for kernel in kernels))
    )
    if config.precond == "adam":  # the drift lags behind by b1/(1−b1) steps, which heats by as many εA/2
        typical *= (1 + config.first_moment_decay) / (1 - config.first_moment_decay)
    measured = {"largest_curvature": largest, "typical_curvature": typical, "gradient_noise": noise}
    if config.step_size is None:
        tuning = tuning._replace(step_size=jnp.asarray(_step_size(config, measured), jnp.float64))
    tuning = tuning._replace(noise_size=_noise_size(config, tuning.step_size, noise))
    if "llc_in_warmup" in settled.chosen:
        measured["llc_in_warmup"] = settled.chosen["llc_in_warmup"]
    if controlled:
        measured["controlled_noise"] = controlled[0]
    measured |= {
        "predicted_bias": float(tuning.step_size)
        / 4
        * (typical + noise if integrator(config) == "euler" else UNCOMPENSATED / 2 * noise),
        "predicted_bias_is_a_bound": bool(densities.is_degenerate(density)),
    }
    return Tuned(states, tuning, gradients, measured)


def _twice_llc(density, llc):
    """2λ̂: as warm-up found it, if that is less than tr R; infinite where neither is known.

    On the 10k-parameter network tr R is 2.1 times 2λ̂.
    """
    laplace = np.inf if densities.is_degenerate(density) else float(density.shares.trace())
    return min(laplace, 2 * llc) if llc and llc > 0 else laplace


@lru_cache(maxsize=4)
def _measuring_program(kernels, loss, n, batch, layout, chains):
    measure = partial(_measure, kernels, loss, n, batch)
    return layout.program(measure, chains, (False, False, True, True), True)


def _measure(kernels, loss, n, batch, density, tuning, states, keys):
    """What decides the bias, at the chains' positions.

    To first order in ε the stationary covariance exceeds A^{-1} by (ε/4)(P + P C A^{-1}), with A the curvature of the
    potential, P the preconditioner and C the covariance of the stochastic force; λ̂ = ½ tr(nβH Σ) sees of that the share
    (ε/4) [tr(P nβH) + tr(P C R)] / 2λ̂, where R = nβH A^{-1} is `density.shares` and 2λ̂ = tr R on a quadratic.

    Returns:
        `Measured`, for each chain; the noise for each of the kernels' settings.
    """
    config = kernels[0]

    def one(state, key):
        dtype = density.w0.dtype
        shift = density.metric.apply(state.position.astype(dtype))
        w = density.w0 + shift
        root = jnp.ones_like(shift)
        if config.precond != "none":
            b2 = config.second_moment_decay
            settled = state.second / (1 - b2 ** jnp.maximum(state.count, 1))
            second = jnp.where(state.count > 0, settled, (tuning.stabilizer / STABILIZER) ** 2)
            root = (jnp.sqrt(second) + tuning.stabilizer).astype(dtype) ** -0.5
        nbeta, gamma = density.nbeta.astype(dtype), density.gamma.astype(dtype)

        def data_curvature(v):
            product = losses.hessian_product(loss, density.rows, w, density.metric.apply(root * v))
            return nbeta * root * density.metric.apply(product)

        def power(v, _):
            image = data_curvature(v) + gamma * root * density.metric.apply(density.metric.apply(root * v))
            size = jnp.linalg.norm(image)
            return image / size, size

        start = jax.random.normal(key, shift.shape, dtype)
        _, sizes = jax.lax.scan(power, start / jnp.linalg.norm(start), None, length=POWER_ITERATIONS)
        full = losses.value_and_grad(loss, density.rows, w)[1]

        def seen(noise):
            return jnp.where(densities.is_degenerate(density), noise, density.shares.apply(noise))

        def probe(key):
            z = jax.random.rademacher(key, shift.shape, dtype)
            noises = [_gradient(kernel, loss, density, tuning, shift, key, n, batch) - full for kernel in kernels]
            noises = [nbeta * root * density.metric.apply(noise) for noise in noises]
            return z @ data_curvature(z), jnp.stack([noise @ seen(noise) for noise in noises])

        found = jax.lax.map(probe, jax.random.split(key, PROBES))
        return Measured(sizes[-1], *jax.tree.map(lambda leaf: jnp.mean(leaf, 0), found))

    return devices.one_by_one(lambda pair: one(*pair), (states, keys))


@lru_cache(maxsize=4)
def _squares_program(config, loss, n, batch, layout, chains):
    """Mean square over parameters and batches of the stochastic loss gradient, for each chain."""

    def one(density, tuning, state, key):
        shift = density.metric.apply(state.position.astype(density.w0.dtype))
        square = lambda key: jnp.mean(_gradient(config, loss, density, tuning, shift, key, n, batch) ** 2)
        return jnp.mean(jax.lax.map(square, jax.random.split(key, PROBES)))

    def squares(density, tuning, states, keys):
        return devices.one_by_one(lambda pair: one(density, tuning, *pair), (states, keys))

    return layout.program(squares, chains, (False, False, True, True), True)
