"""Linear maps made of a curvature: functions of it, such as the coordinates in which it is the identity."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lambda_hat.targets.curvature import LayerCurvature


class Metric(NamedTuple):
    """A symmetric linear map M = rest·I + V (diag(scales) − rest) Vᵀ, applied in O(pk).

    Attributes:
        vectors: orthonormal columns V `[p, k]`.
        scales: M's eigenvalues on them `[k]`.
        rest: its eigenvalue everywhere else.
    """

    vectors: Float[Array, "p k"]
    scales: Float[Array, " k"]
    rest: Float[Array, ""]

    @property
    def whitens(self):
        """Whether this is more than a multiple of the identity."""
        return self.scales.size > 0

    def apply(self, u: Float[Array, " p"]) -> Float[Array, " p"]:
        """M u."""
        if not self.whitens:  # XLA of jax 0.11.2 crashes over a product along an axis of no entries
            return self.rest * u
        return self.rest * u + self.vectors @ ((self.scales - self.rest) * (u @ self.vectors))

    def unapply(self, v: Float[Array, " p"]) -> Float[Array, " p"]:
        """M^{-1} v."""
        return Metric(self.vectors, 1 / self.scales, 1 / self.rest).apply(v)

    def known(self, u: Float[Array, " p"]) -> Float[Array, " p"]:
        """The part of u in the directions that are told apart."""
        return self.vectors @ (u @ self.vectors) if self.whitens else jnp.zeros_like(u)

    def trace(self):
        """tr M."""
        p, k = self.vectors.shape
        return jnp.sum(self.scales) + (p - k) * self.rest


class LayerMetric(NamedTuple):
    """A symmetric linear map that is, on each layer's matrix of parameters, W → A (S ∘ (Aᵀ W B)) Bᵀ.

    Attributes:
        left: A of each layer, orthogonal `[a, a]`; `[0, 0]` stands for the identity.
        right: B, orthogonal `[b, b]`; `[0, 0]` stands for the identity.
        scales: S, its eigenvalues `[a, b]`.
    """

    left: tuple[Array, ...]
    right: tuple[Array, ...]
    scales: tuple[Array, ...]
    whitens = True

    def apply(self, u: Float[Array, " p"]) -> Float[Array, " p"]:
        """M u."""
        parts, start = [], 0
        for left, right, scales in zip(*self, strict=True):
            layer = u[start : start + scales.size].reshape(scales.shape)
            rotated = _times(_times(left.T, layer), right)
            parts.append(_times(_times(left, scales * rotated), right.T).ravel())
            start += scales.size
        return jnp.concatenate(parts)

    def unapply(self, v: Float[Array, " p"]) -> Float[Array, " p"]:
        """M^{-1} v."""
        return self._replace(scales=tuple(1 / scales for scales in self.scales)).apply(v)

    def known(self, u: Float[Array, " p"]) -> Float[Array, " p"]:
        """The part of u in the directions that are told apart: all of it."""
        return u

    def trace(self):
        """tr M."""
        return sum(jnp.sum(scales) for scales in self.scales)


def _times(first, second):
    """The product of two matrices, one of which may be `[0, 0]` in the identity's place."""
    if not first.size or not second.size:
        return second if not first.size else first
    return first @ second


def of(curvature, function, rest, dtype):
    """function(H) of a curvature H, its negative eigenvalues taken for zero and the unknown ones for `rest`.

    Arguments:
        curvature: `curvature.Curvature` or `LayerCurvature`.
        function: of eigenvalues.
        rest: eigenvalue where the curvature does not know it.
        dtype: precision of the map.
    """

    def positive(h):
        return jnp.asarray(function(np.maximum(h, 0.0)), dtype)

    if isinstance(curvature, LayerCurvature):
        left, right = ([jnp.asarray(basis, dtype) for basis in bases] for bases in (curvature.left, curvature.right))
        return LayerMetric(tuple(left), tuple(right), tuple(positive(h) for h in curvature.eigenvalues))
    return Metric(jnp.asarray(curvature.eigenvectors, dtype), positive(curvature.eigenvalues), positive(rest))


def whitening(curvature, nbeta, gamma, dtype):
    """The map M = (nβH + γ)^(-1/2) of a curvature; in directions that it does not know, H = 0."""
    return of(curvature, lambda h: (nbeta * h + gamma) ** -0.5, 0.0, dtype)
