"""Training: from a random initialisation, or from the teacher, to a minimum w0 of L_n.

Minibatch descent leaves a gradient that biases the LLC (L_n(w0) is the baseline), and a noisy regression has valleys that
fall slowly for ever. What matters is whether w0 is a minimum *at the localization γ*: of nβL_n + γ/2 |w−w0|². So the
polish iterates the proximal point map of nβL_n until one application gains next to nothing; for large networks in coordinates
whitened by the curvature, where a tenth of the iterations do.
"""

from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from threadpoolctl import threadpool_limits

from lambda_hat.config import Descent
from lambda_hat.store.journal import Journal
from lambda_hat.system import devices, stopping
from lambda_hat.system.errors import BrokeDown
from lambda_hat.targets import curvature, losses, metrics, resumable

PROXIMAL_ITERATIONS = 200
"""Quasi-Newton iterations of one proximal step."""


class Minimum(NamedTuple):
    """Where training ended.

    Attributes:
        w0: flat parameters `[p]`, float64.
        metrics: L0 and how good a minimum it is, as meta.json shows them.
    """

    w0: np.ndarray
    metrics: dict


def train(config, loss, rows, n, start, key, journal=None, trajectory=None):
    """Find w0.

    Arguments:
        config: `config.Descent` or `config.FromTeacher`.
        loss: the `losses.Loss` to minimise.
        rows: function from a dtype to the data in that precision.
        n: number of pairs.
        start: flat parameters to start from `[p]`, float64.
        key: JAX key for the minibatches.
        journal: the `Journal` that the work goes on from; None = nothing is kept.
        trajectory: where the weights along a descent are kept, `trajectory.Kept`; None = nowhere.

    Returns:
        The `Minimum`.

    Raises:
        BrokeDown: where the parameters or the loss are not finite any more.
    """
    journal = journal or Journal()
    nbeta = n / np.log(n)
    objective = full_batch(loss, rows(np.float64), len(start), nbeta)
    w = np.asarray(start, float)
    steps = 0
    if isinstance(config, Descent) and (config.length or trajectory is not None) and np.any(objective(w)[1]):
        steps, along = config.length, Steps(config, loss, rows(config.dtype), n, key)
        first = along.start(jnp.asarray(w, config.dtype))
        if trajectory is None:
            w = along.run(first, journal)
        else:
            w = trajectory.weights(along, w, first, loss, rows(np.float64))
    value, grad = objective(w)
    if not np.isfinite(value):
        raise BrokeDown(
            f"target not built: the loss is not finite after {steps} steps of training; lower training.learning_rate.",
            {"w": w},
        )
    iterations, gain, trained, trained_value = 0, 0.0, w, value
    if np.any(grad):
        gamma, tolerance = config.polish_localization, config.polish_tolerance * len(w) / 2
        coordinates = _coordinates(loss, rows, w, nbeta, gamma)
        step = partial(proximal_step, objective, localization=gamma, coordinates=coordinates, tolerance=tolerance)
        if config.polish_steps:
            w, iterations, gain = polish(objective, step, w, config.polish_steps, tolerance, journal)
            value, grad = objective(w)
        else:
            gain = value - objective(step(w)[0])[0]
    found = {
        "L0": value / nbeta,
        "gradient_norm": float(np.linalg.norm(grad)) / nbeta,
        "further_descent_gain": gain,
        "further_descent_localization": config.polish_localization,
        "w0_norm": float(np.linalg.norm(w)),
        "steps": steps,
        "polish_iterations": iterations,
        "polish_distance": float(np.linalg.norm(w - trained)),
        "L0_before_polish": trained_value / nbeta,
    }
    return Minimum(w, found)


def descent_gain(loss, rows, w0, nbeta, gamma, tolerance):
    """What a local descent from w0 gains, in units of λ̂: nβ(L_n(w0) − L_n(w*)), w* the minimum of nβL_n + γ/2 |w−w0|².

    As far as the iterations of one proximal step find it.

    Arguments:
        loss: the `losses.Loss` that L_n is.
        rows: function from a dtype to the data in that precision.
        w0: `[p]`, float64.
        nbeta, gamma: nβ and γ.
        tolerance: as `proximal_step` takes it.
    """
    objective = full_batch(loss, rows(np.float64), len(w0), nbeta)
    coordinates = _coordinates(loss, rows, w0, nbeta, gamma)
    return objective(w0)[0] - objective(proximal_step(objective, w0, gamma, coordinates, tolerance)[0])[0]


def _coordinates(loss, rows, w, nbeta, gamma):
    """The map in whose coordinates nβL_n + γ/2 |w − w0|² has a curvature of about one, for `proximal_step`."""
    if not curvature.is_layered(loss, len(w)):
        return None
    return jax.jit(metrics.whitening(curvature.at(loss, rows(np.float32), w, seed=0), nbeta, gamma, np.float64).apply)


def full_batch(loss, rows, p, scale):
    """A function w `[p]` → (scale·L_n(w), scale·∇L_n(w)) in float64 NumPy, spread over devices where there is work enough."""
    chunks, operations = rows.weight.shape[0], losses.gradient_operations(rows, p)
    count = devices.parts(operations) if loss.potential is None else 1
    count = count if chunks % count == 0 else 1
    layout = devices.layout(operations)
    shares = jax.tree.map(lambda leaf: leaf.reshape(count, chunks // count, *leaf.shape[1:]), rows)
    shares = layout.place(shares, count, True)

    def whole(shares, w):
        return devices.total(lambda share: losses.value_and_grad(loss, share, w), shares)

    function = layout.program(whole, count, (True, False), (False, False))

    def objective(w):
        value, grad = function(shares, jnp.asarray(w, rows.weight.dtype))
        return scale * float(value), scale * np.asarray(grad, float)

    return objective


# --- first order ------------------------------------------------------------------------------------------------------


class Steps:
    """Minibatch steps of the configured optimizer; batches are drawn with replacement.

    On one device: a minibatch is too little work to be shared out. Step i is the same however many there are, and wherever they are
    cut, unless the schedule has a length.

    Arguments:
        config: `config.Descent`.
        loss, rows, n: what is minimised, in the configured precision.
        key: JAX key for the minibatches.
    """

    def __init__(self, config, loss, rows, n, key):
        self.config = config
        batch = config.batch_size or min(n, 1024)
        longest = max(config.steps, config.length, *(config.keep or ()))
        self._optimizer, self._rows = _OPTIMIZERS[config.optimizer](config, _schedule(config)), rows
        self._keys = jax.random.split(key, longest)
        optimizer = self._optimizer

        @jax.jit
        def descend(rows, keys, first, last, carry):
            def step(i, carry):
                w, state, broke = carry
                grad = losses.batch_grad(loss, rows, w, jax.random.randint(keys[i], (batch,), 0, n)) * loss.scale
                updates, state = optimizer.update(grad, state, w)
                moved = cast(jax.Array, optax.apply_updates(w, updates))  # an array as w is; optax says a tree
                broke = jnp.where((broke < 0) & ~jnp.all(jnp.isfinite(moved)), i, broke)
                return jnp.where(broke < 0, moved, w), state, broke

            return jax.lax.fori_loop(first, last, step, carry)

        self._descend = descend

    def start(self, w):
        """What step 0 begins with: the weights (the first leaf), the optimizer's state, and where it broke down."""
        return w, self._optimizer.init(w), jnp.asarray(-1)

    def pieces(self, journal):
        """What cuts the steps into calls, as `next` takes it."""
        return resumable.Pieces(journal, partial(jax.tree.map, jnp.asarray))

    def next(self, pieces, carry, structure, done, most) -> tuple[int, Any]:
        """Some steps after the first `done`.

        Arguments:
            pieces: what cuts them into calls.
            carry: after those; None while the journal has later ones.
            structure: of the carry.
            most: how many are left.

        Returns:
            how many steps are done, and the carry after them.

        Raises:
            BrokeDown: at the first step after which the parameters are not finite.
        """

        def call(carry, count):
            return self._descend(self._rows, self._keys, done, done + count, carry), ()

        carry, found = pieces.next(f"descent {done}", carry, structure, call, most, done > 0)
        if carry is not None and int(carry[2]) >= 0:
            raise BrokeDown(
                f"target not built: the parameters are not finite after step {int(carry[2])} of training; lower "
                "training.learning_rate.",
                {"w": np.asarray(carry[0])},
            )
        return done + int(found["count"]), carry

    def run(self, first, journal):
        """The weights after all steps up to w0, in float64, from what step 0 begins with."""
        done, carry, pieces = 0, first, self.pieces(journal)
        while done < self.config.length:
            done, carry = self.next(pieces, carry, jax.tree.structure(first), done, self.config.length - done)
        return np.asarray(carry[0], float)


def _schedule(config):
    peak, steps = config.learning_rate, config.steps
    return {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, steps),
        "warmup_cosine": lambda: optax.warmup_cosine_decay_schedule(0.0, peak, max(1, steps // 20), max(2, steps)),
    }[config.schedule]()


_OPTIMIZERS = {
    "adam": lambda config, rate: optax.adam(rate),
    "adamw": lambda config, rate: optax.adamw(rate, weight_decay=config.weight_decay),
    "sgd": lambda config, rate: optax.sgd(rate, momentum=config.momentum),
}


# --- second order -----------------------------------------------------------------------------------------------------


def polish(objective, step, w, most, tolerance, journal):
    """Proximal steps until one gains less than `tolerance`, at most `most` quasi-Newton iterations in all.

    Returns:
        w `[p]`, the number of iterations, and what the last step gained: more than another one would.
    """
    done, gain = 0, np.inf
    while done < most and gain >= tolerance:
        value = objective(w)[0]
        one = partial(step, w, iterations=min(PROXIMAL_ITERATIONS, most - done))
        found = journal.step("polish", lambda one=one: dict(zip(("w", "iterations"), one(), strict=True)))
        w, iterations = found["w"], int(found["iterations"])
        done += max(1, iterations)
        gain = value - objective(w)[0]
    return w, done, gain


def proximal_step(objective, centre, localization, coordinates, tolerance, iterations=PROXIMAL_ITERATIONS):
    """The minimum of objective(w) + localization/2 |w − centre|² by L-BFGS; returns it and the iterations taken.

    Arguments:
        objective: w → value and gradient.
        centre: `[p]`.
        localization: of the proximal term.
        coordinates: symmetric map u → w − centre in which the curvature is about one; None for the identity.
        tolerance: in whitened coordinates, the iteration that gains less than a thousandth of it is the last.
        iterations: most iterations.
    """
    move = (lambda u: u) if coordinates is None else (lambda u: np.asarray(coordinates(u)))

    def regularised(u):
        stopping.check()
        shift = move(u)
        value, grad = objective(centre + shift)
        return value + 0.5 * localization * shift @ shift, move(grad + localization * shift)

    start = objective(centre)[0]
    ftol = 1e-14 if coordinates is None else 1e-3 * tolerance / max(start, 1.0)
    with threadpool_limits(1, "blas"):  # idle threads of its own spin, and take XLA's cores
        result = scipy.optimize.minimize(
            regularised,
            np.zeros_like(centre),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": iterations, "maxfun": 10 * iterations, "maxcor": 30, "ftol": ftol, "gtol": 1e-8},
        )
    return centre + move(result.x), result.nit
