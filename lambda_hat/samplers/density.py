"""The tempered local posterior as samplers see it: a log density over whitened coordinates u, with w = w0 + M u.

Coordinates are in float64, data and gradients in the sampler's precision."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lambda_hat.targets import losses, metrics
from lambda_hat.targets.curvature import Curvature


class Density(NamedTuple):
    """log π(u) = −nβ (L_n(w) − L_n(w0)) − γ/2 |w − w0|², w = w0 + M u; all numbers are arguments of compiled programs.

    M = 1, or M² ≈ (nβH + γ)⁻¹: whitened coordinates, in which a quadratic L_n has a unit Gaussian for posterior. β is the inverse
    temperature, 1/log n by default; γ, in units of 1/w², keeps the chain near w0, and chooses what λ̂ is an estimate of: 100 for
    trained networks, 1 or less for singular models whose λ is known.

    Attributes:
        rows: the data, in the sampler's precision.
        w0: the centre `[p]`.
        loss0: L_n(w0) in float64, computed as the sampler computes it, so that rounding cancels.
        nbeta: nβ, float64.
        gamma: γ, float64.
        metric: M.
        shares: R = nβH(nβH+γ)^{-1}, H the curvature at w0: what each direction adds to 2λ̂ (Laplace).
    """

    rows: losses.Rows
    w0: Float[Array, " p"]
    loss0: Float[Array, ""]
    nbeta: Float[Array, ""]
    gamma: Float[Array, ""]
    metric: metrics.Metric | metrics.LayerMetric
    shares: metrics.Metric | metrics.LayerMetric


class Record(NamedTuple):
    """What is kept of a draw: scalars, never the trajectory; of many draws arrays `[chains, draws]` in NumPy.

    Attributes:
        excess: nβ (L_n(w) − L_n(w0)), whose mean is λ̂.
        distance2: |w − w0|².
        stein: (w−w0)ᵀ ∇U, with mean p under the exact posterior, U = −log π.
        stein_curvature: (w−w0)ᵀ R ∇U with mean tr R. Its half is the excess of a quadratic L_n.
    """

    excess: Float[Array | np.ndarray, "..."]
    distance2: Float[Array | np.ndarray, "..."]
    stein: Float[Array | np.ndarray, "..."]
    stein_curvature: Float[Array | np.ndarray, "..."]


def build(loss, rows, w0, nbeta, gamma, curvature, metric, dtype):
    """The `Density` of a target.

    Arguments:
        loss: `losses.Loss`.
        rows: the data in `dtype`.
        w0: `[p]` float64.
        nbeta, gamma: nβ and γ.
        curvature: `targets.curvature.Curvature` or `LayerCurvature` of this loss at w0.
        metric: `curvature` or `identity`.
        dtype: `float32` or `float64`.
    """
    if metric == "curvature":
        mass = metrics.whitening(curvature, nbeta, gamma, dtype)
    else:
        mass = metrics.Metric(jnp.zeros((len(w0), 0), dtype), jnp.zeros(0, dtype), jnp.ones((), dtype))
    centre = jnp.asarray(w0, dtype)
    return Density(
        rows=rows,
        w0=centre,
        loss0=losses.evaluate(loss, rows, centre)[0],
        nbeta=jnp.asarray(nbeta, jnp.float64),
        gamma=jnp.asarray(gamma, jnp.float64),
        metric=mass,
        shares=shares(curvature, nbeta, gamma, dtype),
    )


def shares(curvature, nbeta, gamma, dtype):
    """R = nβH(nβH + γ)^{-1} of a curvature; in directions that it does not know, H is their mean curvature."""
    rest = 0.0
    if isinstance(curvature, Curvature) and curvature.eigenvectors.shape[0] > curvature.eigenvectors.shape[1]:
        p, k = curvature.eigenvectors.shape
        rest = max(curvature.trace - float(np.sum(curvature.eigenvalues)), 0.0) / (p - k)
    return metrics.of(curvature, lambda h: nbeta * h / (nbeta * h + gamma), rest, dtype)


def is_degenerate(density):
    """Whether the Hessian at w0 vanishes, so that R has nothing to say."""
    return density.shares.trace() < 1e-6 * density.w0.size


def log_density_and_grad(loss, density, u):
    """log π(u) and its gradient `[p]` in float64; the pass over the data is in the data's precision."""
    shift = density.metric.apply(u.astype(density.w0.dtype))
    mean, grad = losses.value_and_grad(loss, density.rows, density.w0 + shift)
    shift64 = shift.astype(jnp.float64)
    potential = density.nbeta * (mean - density.loss0) + 0.5 * density.gamma * shift64 @ shift64
    force = density.nbeta.astype(shift.dtype) * grad + density.gamma.astype(shift.dtype) * shift
    return -potential, -density.metric.apply(force).astype(jnp.float64)


evaluate = jax.jit(log_density_and_grad, static_argnums=0)
"""`log_density_and_grad`, compiled once for a loss."""


def log_density(loss):
    """log π(density, u), whose derivative in u costs the same single pass (as BlackJAX's integrators ask for it)."""

    @jax.custom_vjp
    def function(density, u):
        return log_density_and_grad(loss, density, u)[0]

    def forward(density, u):
        return log_density_and_grad(loss, density, u)

    def backward(grad, cotangent):
        return None, cotangent * grad

    function.defvjp(forward, backward)
    return function


def record(density, u, logp, grad):
    """The `Record` of a draw from what the kernel's state already holds: no pass over the data."""
    shift = density.metric.apply(u.astype(density.w0.dtype)).astype(jnp.float64)
    distance2 = shift @ shift
    force = -density.metric.unapply(grad)
    return Record(
        excess=-logp - 0.5 * density.gamma * distance2,
        distance2=distance2,
        stein=-u @ grad,
        stein_curvature=density.shares.apply(shift) @ force,
    )
