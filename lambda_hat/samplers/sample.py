"""From a target and a configuration to draws: the one way through every sampler."""

import importlib
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lambda_hat.samplers import density as densities
from lambda_hat.samplers import fluctuation as fluctuations
from lambda_hat.samplers import loop
from lambda_hat.samplers.base import Bias, MarkovSampler
from lambda_hat.samplers.laplace import Laplace
from lambda_hat.system import devices
from lambda_hat.targets import curvature as curvatures
from lambda_hat.targets import losses, metrics

LAPLACE_DRAWS = 16
"""Laplace draws that the choice of coordinates is made on."""

LAPLACE_TOLERATED = 5.0
"""Largest potential of a Laplace draw, over the one expected, at which whitening by the curvature is trusted. Measured: 1.0-1.6
on trained networks at γ = 100, 40-200 at γ = 1, 1e4 and more at the singular point of a deep linear network."""

WARMUP = {True: 24, False: 100}
"""Draws of warm-up in whitened and in plain coordinates, where they are not typed in. Whitened: on the 433-parameter network as
good as 40 and as 100."""

POSITIONS = 4
"""Positions of each chain, in the later half of settling, at which the curvature is measured."""

SETTLED_FROM = 4 * POSITIONS
"""Fewest draws of warm-up of which a quarter goes to settling the chains and measuring the curvature along them: of fewer, none
would be left to settle them with."""

SHRINKINGS, SMALLEST_START = 3, 0.3
"""Gradients that the size of Laplace draws is found with, and the least size."""

LEAST_KEPT = 4
"""Fewest draws of a chain that say how its pairs' losses vary: ArviZ has no standard error of fewer."""

CENTRE_GRADIENTS = 3
"""Full gradients at w0: for L_n(w0) in two coordinates, and for the baseline."""


class Result(NamedTuple):
    """What a sampler leaves.

    Attributes:
        draws: `loop.Draws`.
        warmup_gradients: full-data gradients spent before the first recorded draw, all chains, tuning included.
        tuned: settings that were adapted or computed.
        bias: of the draws' plain mean, as far as the sampler makes it.
        density: what was sampled.
        laplace: λ̂ if the posterior were the Gaussian of the curvature at w0.
        baseline_gain: by how much nβL_n + γ/2|w−w0|² falls below its value at w0, by a Newton step: the share of λ̂'s
            error that is due to w0 not being a minimum.
        seconds: wall-clock time of `adapt` and `sample`, compilation included.
        devices: that the chains were on.
        fluctuation: of the pairs' losses over a few of the draws; None where L_n is no mean of negative log-likelihoods, or these
            draws are too few, or not finite.
    """

    draws: loop.Draws
    warmup_gradients: float
    tuned: dict
    bias: Bias
    density: densities.Density
    laplace: float
    baseline_gain: float
    seconds: dict
    devices: tuple[jax.Device, ...]  # pyright: ignore[reportInvalidTypeForm]  jaxlib, which has the class, has no stubs
    fluctuation: fluctuations.Fluctuation | None = None


class SoFar(NamedTuple):
    """What there is of a run while it draws.

    Attributes:
        records: `density.Record` of arrays `[chains, draws]`.
        trace_r: tr R.
        bias: of the draws' plain mean.
        acceptance: mean acceptance.
    """

    records: densities.Record
    trace_r: float
    bias: Bias
    acceptance: float


def inverse_temperature(posterior, n):
    """β: as configured, else 1/log n."""
    return posterior.inverse_temperature(n)


def localization(posterior, p):
    """γ: as configured, else p/r² for a prior radius r."""
    return posterior.localization(p)


def make(config: Any, loss: losses.Loss, n: int, nbeta: float) -> Laplace | MarkovSampler:
    """The sampler that a configuration names, for a problem: `SAMPLER` of the module of that name.

    Arguments:
        config: of class `config.Drawing`.
        loss: L_n.
        n: pairs of data.
        nbeta: nβ.
    """
    return importlib.import_module(f"lambda_hat.samplers.{config.name}").SAMPLER(config, loss, n, nbeta)


def choose_metric(method, whitened, journal):
    """The coordinates a sampler moves in: as asked, else the curvature's if the posterior is near enough to quadratic.

    Draws from the Laplace approximation at w0 have a potential of ½ a dimension if it holds, and a far larger one where the
    posterior is narrower than its curvature at w0 tells, as at a singular point with a small γ; whitening by that curvature
    would then send trajectories where no posterior is.

    Returns:
        `curvature` or `identity`, the potential measured over the one expected (None if it did not matter), and the
        gradients spent.
    """
    if not whitened.metric.whitens:  # the curvature is not finite
        return "identity", None, 0
    if method.metric is not None:
        return method.metric, None, 0
    z = jax.random.normal(
        loop.stream(method.config.seed, "metric"), (LAPLACE_DRAWS, whitened.w0.size), whitened.w0.dtype
    )
    found = journal.step("potentials", lambda: {"ratio": np.median(_laplace_potentials(method.loss, whitened, z))})
    ratio = float(found["ratio"])
    near = ratio < LAPLACE_TOLERATED and not densities.is_degenerate(whitened)
    return "curvature" if near else "identity", ratio, LAPLACE_DRAWS


@partial(jax.jit, static_argnums=0)
def _laplace_potentials(loss, whitened, z):
    """Potentials of Laplace draws in the directions known, `[draws]`, over the ones expected of them."""

    def potential(z):
        u = whitened.metric.known(z)
        return -densities.log_density_and_grad(loss, whitened, u)[0] / (0.5 * u @ u)

    return jax.lax.map(potential, z)


def sample(sampler, posterior, loss, rows, w0, n, curvature, log, enough, journal):
    """Run a sampler.

    Arguments:
        sampler, posterior: their configurations.
        loss: `targets.losses.Loss`.
        rows: the data in the sampler's precision.
        w0: the centre `[p]`, float64.
        n: number of pairs.
        curvature: of this loss at w0.
        log: called with a line for each phase.
        enough: given what there is `SoFar`, whether no more draws are wanted.
        journal: what has been computed so far (`resumable.Steps`).

    Returns:
        `Result`.
    """
    nbeta, gamma = n * inverse_temperature(posterior, n), localization(posterior, len(w0))
    build = partial(densities.build, loss, rows, w0, nbeta, gamma, curvature)
    whitened = build("curvature", sampler.dtype)
    method = make(sampler, loss, n, nbeta)
    if isinstance(method, Laplace):
        return _laplace(method, whitened)
    metric, laplace_ratio, trial = choose_metric(method, whitened, journal)
    density = whitened if metric == "curvature" else build("identity", sampler.dtype)
    if not whitened.metric.whitens:
        log(f"{sampler.name}: the curvature at w0 is not finite: sampling in plain coordinates")
    wide = metric == "identity" and laplace_ratio is not None
    along = metric == "curvature"
    if wide:
        careful = method.far_from_quadratic()
        method, along = careful or method, careful is not None
        log(
            f"{sampler.name}: the posterior is not quadratic around w0 (Laplace draws have {laplace_ratio:.3g} times the "
            f"potential expected): sampling in {'coordinates whitened along the chains' if along else 'plain coordinates'}"
        )

    began = time.perf_counter()
    place = partial(loop.starts, curvature_scales=whitened.metric, chains=sampler.chains, seed=sampler.seed)
    spent, first = method.kernel.gradients_of_init * sampler.chains, 0
    warmup = WARMUP[metric == "curvature"] if sampler.warmup is None else sampler.warmup
    if metric == "curvature" and warmup and curvatures.is_layered(loss, len(w0)):
        density, size, gradients = _whiten_around(loss, whitened, sampler.seed, journal)
        spent, place = spent + gradients, partial(place, size=size)
    chains = loop.Loop(method.kernel, density, sampler, method.thin, journal, keeps=loss.is_likelihood)
    states = chains.states(place(density))
    if along and warmup >= SETTLED_FROM:
        first = warmup // 4
        states, gradients = _whiten_along(method, chains, states, first, loss, log)
        spent += gradients
    settled = method.tune(chains, states, first, warmup - first, log)
    states, tuned = jax.block_until_ready(settled.states), settled.chosen
    adapted = time.perf_counter()
    log(f"{sampler.name}: tuned " + ", ".join(f"{k} {v:.4g}" for k, v in tuned.items() if v is not None))

    laplace, bias = float(whitened.shares.trace()) / 2, method.bias(settled.chosen)

    def stop(records, acceptance):
        made, stopped = records.excess.shape[1], enough(SoFar(records, 2 * laplace, bias, float(acceptance)))
        ending = ", enough for the error aimed at" if stopped and made < sampler.draws else ""
        log(f"{sampler.name}: {made}/{sampler.draws} draws{ending}", not ending)
        return stopped

    draws, _ = chains.run(settled.tuning, states, stop)
    draws, fluctuation = _fluctuation(loss, chains, draws, n, journal)
    finished = time.perf_counter()

    return Result(
        draws=draws,
        warmup_gradients=CENTRE_GRADIENTS + trial + spent + settled.gradients,
        tuned=tuned
        | {"metric": "curvature" if chains.density.metric.whitens else "identity", "laplace_ratio": laplace_ratio},
        bias=bias,
        density=chains.density,
        laplace=laplace,
        baseline_gain=_baseline_gain(loss, whitened),
        seconds={"adapt": adapted - began, "sample": finished - adapted},
        devices=chains.layout.used(sampler.chains),
        fluctuation=fluctuation,
    )


def _fluctuation(loss, chains, draws, n, journal):
    """The draws, with what measuring cost added to those it was measured on, and the `Fluctuation`, or None."""
    kept = draws.kept
    if kept is None or len(kept.numbers) < LEAST_KEPT or not np.all(np.isfinite(kept.positions)):
        return draws, None
    found = fluctuations.measure(loss, chains.density, kept, chains.layout, n, journal)
    gradients, count = np.array(draws.steps.gradients), kept.positions.shape[:2]
    gradients[:, kept.numbers] += fluctuations.gradients(*count) / np.prod(count)
    return draws._replace(steps=draws.steps._replace(gradients=gradients)), found


def _baseline_gain(loss, whitened):
    grad = densities.evaluate(loss, whitened, np.zeros(whitened.w0.size))[1]
    return 0.5 * float(grad @ grad)


def _laplace(method, whitened):
    draws = method.draw(whitened)
    return Result(
        draws=draws,
        warmup_gradients=CENTRE_GRADIENTS - 1,
        tuned={"metric": "curvature"},
        bias=method.bias({}),
        density=whitened,
        laplace=float(whitened.shares.trace()) / 2,
        baseline_gain=_baseline_gain(method.loss, whitened),
        seconds={"adapt": 0.0, "sample": draws.seconds[-1]},
        devices=devices.layout(0).used(1),
    )


def _whiten_around(loss, whitened, seed, journal):
    """The density whitened by the mean curvature over Laplace draws, which for a large network costs no more than at w0.

    The draws are shrunk until they are as far out as the posterior: on it the mean of uᵀ∇U is p (Stein).

    Returns:
        the density, the size of the draws (between 0.3 and 1), and the gradients spent.
    """
    z = jax.random.normal(loop.stream(seed, "metric"), (LAPLACE_DRAWS, whitened.w0.size), whitened.w0.dtype)
    size, spent = 1.0, 0
    for _ in range(SHRINKINGS):
        grad = densities.evaluate(loss, whitened, size * z[0])[1]
        virial, spent = -size * float(z[0] @ grad) / float(z[0] @ z[0]), spent + 1
        if not (np.isfinite(virial) and virial > 0):
            return whitened, SMALLEST_START, spent
        size = float(np.clip(size * virial ** (-1 / 3), SMALLEST_START, 1.0))  # settles for quadratics and quartics
    points = np.asarray(jax.vmap(whitened.metric.apply)(size * z), float)
    curvature = _curvature_along(loss, whitened, points, seed, journal)
    metric = metrics.whitening(curvature, float(whitened.nbeta), float(whitened.gamma), whitened.w0.dtype)
    return whitened._replace(metric=metric), size, spent + curvature.gradients


def _curvature_along(loss, density, shifts, seed, journal):
    """The mean curvature at w0 + shifts `[m, p]`."""
    points = np.asarray(density.w0, float) + shifts
    found = journal.step("curvature", lambda: curvatures.along(loss, density.rows, points, seed).to_arrays())
    return curvatures.from_arrays(found)


def _whiten_along(method, chains, states, draws, loss, log):
    """Settle the chains, and whiten their coordinates by the curvature that they meet.

    The mean curvature at POSITIONS of each chain takes the place of the one at w0 in the metric of `chains`.

    Returns:
        states in the new coordinates, and the gradients spent.
    """
    density, apart = chains.density, max(1, draws // (2 * POSITIONS))
    last = apart * (POSITIONS - 1)
    settled = method.settle(chains, states, draws - last, log)
    later, spent, points = settled.states, settled.gradients, [chains.positions(settled.states)]
    for first in range(draws - last, draws, apart):
        later, out = chains.advance(settled.tuning, later, "warmup", first, apart)
        spent += float(np.sum(out.steps.gradients))
        points.append(chains.positions(later))
    positions, points = points[-1], np.concatenate(points)
    if not np.all(np.isfinite(points)):
        log("warm-up broke down before the curvature along the chains could be measured: keeping that at w0")
        return states, spent
    curvature = _curvature_along(loss, density, points, chains.config.seed, chains.journal)
    metric = metrics.whitening(curvature, float(density.nbeta), float(density.gamma), density.w0.dtype)
    chains.move(density._replace(metric=metric))
    spent += curvature.gradients + method.kernel.gradients_of_init * chains.config.chains
    return chains.states(jax.vmap(metric.unapply)(jnp.asarray(positions))), spent
