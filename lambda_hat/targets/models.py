"""Models: how parameters are drawn, what is computed from them, and where λ is known.

A network is a subclass of `Network` with `init` and `apply`, a function of the weights alone one of `Analytic` with `loss`,
`truth` and `finite`; `_BUILDERS` says which configuration is built by which.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params
from jaxtyping import Array, Float, Key

from lambda_hat.config import MLP, DeepLinear, FromTeacher, Monomial, NormalCrossing, Quadratic, TeacherData
from lambda_hat.system.errors import ConfigError
from lambda_hat.targets import truths

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": jax.nn.gelu, "identity": lambda x: x}

INITS = {
    "he": jax.nn.initializers.he_normal(),
    "xavier": jax.nn.initializers.glorot_normal(),
    "lecun": jax.nn.initializers.lecun_normal(),
    "orthogonal": jax.nn.initializers.orthogonal(),
}

Params = Any
"""A pytree of float64 arrays; analytic models have the single entry `w`."""


class Model(ABC):
    """A parametric family.

    Attributes:
        widths: hidden widths, inferred ones filled in; empty where there are none.
        apply: a network's outputs; None for an analytic model.
        potential: an analytic model's L(w); None for a network.
    """

    widths: tuple[int, ...] = ()
    apply: Any = None
    potential: Any = None

    @abstractmethod
    def init(self, key: Key[Array, ""]) -> Params:
        """Draw parameters, in float64."""

    @abstractmethod
    def truth(self, data: Any, training: Any, params: Params) -> truths.Truth | None:
        """The learning coefficient at w0, or None where it is not known.

        Arguments:
            data, training: their configurations.
            params: the parameters at w0.
        """

    @abstractmethod
    def finite(self, nbeta: float, gamma: float) -> float | None:
        """λ̂ of the exact posterior at finite (nβ, γ), or None where there is no formula."""

    @property
    def key(self) -> Hashable:
        """What is the same for two models that compute the same: the programs compiled for one then serve the other."""
        return repr(self)

    def on(self, x: np.ndarray, seed: int) -> "Model":
        """The model for inputs like `x` `[n, …]`: itself, but for one that is made only where they are known."""
        return self

    def widest(self, params: Params, x: np.ndarray) -> int:
        """Numbers that the largest intermediate array holds for one example of `x` `[n, …]`, which chunks are cut by."""
        return max(1, *x.shape[1:])


class Network(Model):
    """A function of weights and inputs, fitted to pairs of inputs and labels.

    Attributes:
        in_dim: number of inputs, which generated data are drawn for; None where only the data tell.
        pair: outputs, labels → loss of each example `[n]`, where the network brings a loss of its own; else None.
    """

    in_dim: int | None = None
    pair: Callable[[Array, Array], Float[Array, " n"]] | None = None

    @abstractmethod
    def apply(self, params: Params, x: Array) -> Array:
        """Outputs `[n, …]` for inputs `[n, …]`; one example's must not depend on the others."""

    def truth(self, data, training, params):
        return None

    def finite(self, nbeta, gamma):
        return None

    def widest(self, params, x):
        one, two = (
            _sizes(jax.make_jaxpr(self.apply)(params, jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype)).jaxpr)
            for n in (1, 2)
        )
        return max(1, *x.shape[1:], *(larger - smaller for smaller, larger in zip(one, two, strict=False)))

    def teacher(self, config: TeacherData, key: Key[Array, ""]) -> tuple["Network", Params]:
        """A teacher of this kind, and its parameters.

        Raises:
            ConfigError: for a setting of the teacher that this kind has no use for.
        """
        for name in ("teacher_widths", "teacher_activation", "teacher_rank"):
            if getattr(config, name) is not None:
                raise ConfigError(
                    f"data.{name} must be null: the teacher of a {type(self).__name__} is one like itself; got "
                    f"{getattr(config, name)}."
                )
        return self, self.init(key)


def _sizes(jaxpr):
    """Sizes of all arrays that a program computes, those of the programs it calls included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars if hasattr(variable.aval, "size"))
        for inner in jaxprs_in_params(equation.params):
            yield from _sizes(inner)


class Potential(Model):
    """A loss L(w) of the parameters alone: no data but n."""

    @abstractmethod
    def potential(self, params: Params) -> Float[Array, ""]:
        """L(w), in the precision of the parameters."""


class Analytic(Potential):
    """A loss of one vector w with its minimum at the origin, where it starts, and a known λ there.

    Attributes:
        dim: number of parameters.
    """

    dim: int

    @abstractmethod
    def loss(self, w: Float[Array, " dim"]) -> Float[Array, ""]:
        """L(w), in the precision of w."""

    def init(self, key):
        return {"w": jnp.zeros(self.dim, jnp.float64)}

    def potential(self, params):
        return self.loss(params["w"])


def build(config: Any) -> Model:
    """The `Model` that a model configuration describes."""
    return _BUILDERS[type(config)](config)


# --- networks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FullyConnected(Network):
    """A fully connected network; layer i holds `weight` `[fan_in, fan_out]`, and `bias`, `scale`, `shift` where asked."""

    in_dim: int
    widths: tuple[int, ...]
    out_dim: int
    activation: str
    bias: bool
    layernorm: bool
    weights: str

    @property
    def units(self):
        """Units of each layer, inputs and outputs included."""
        return (self.in_dim, *self.widths, self.out_dim)

    def init(self, key):
        params, draw = {}, INITS[self.weights]
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(self.units)):
            layer = {"weight": draw(jax.random.fold_in(key, i), (fan_in, fan_out), jnp.float64)}
            if self.bias:
                layer["bias"] = jnp.zeros(fan_out, jnp.float64)
            if self.layernorm and i < len(self.widths):
                layer |= {"scale": jnp.ones(fan_out, jnp.float64), "shift": jnp.zeros(fan_out, jnp.float64)}
            params[f"layer{i}"] = layer
        return params

    def widest(self, params, x):
        return max(1, self.in_dim, *self.widths)

    def apply(self, params, x):
        sigma, last = ACTIVATIONS[self.activation], len(self.widths)
        x = x.astype(params["layer0"]["weight"].dtype)
        for i in range(last + 1):
            layer = params[f"layer{i}"]
            x = x @ layer["weight"]
            if self.bias:
                x = x + layer["bias"]
            if i < last:
                if self.layernorm:
                    x = layer["scale"] * jax.nn.standardize(x, axis=-1) + layer["shift"]
                x = sigma(x)
        return x

    def teacher(self, config, key):
        teacher = network(
            self.in_dim,
            tuple(config.teacher_widths or self.widths),
            self.out_dim,
            activation=config.teacher_activation or self.activation,
            bias=self.bias,
            layernorm=self.layernorm,
            init=self.weights,
        )
        params = teacher.init(key)
        if config.teacher_rank is None:
            return teacher, params
        if config.teacher_balanced:
            weights = balanced_layers(teacher.units, config.teacher_rank, config.teacher_singular_value, key)
        else:
            drawn = [params[f"layer{i}"]["weight"] for i in range(len(teacher.units) - 1)]
            weights = cut_layers(drawn, config.teacher_rank, key)
        for i, weight in enumerate(weights):
            params[f"layer{i}"]["weight"] = weight
        return teacher, params

    def truth(self, data, training, params):
        """Known where w0 is the teacher's own parameters, at zero, and where the inputs span their space.

        Label noise moves the minimum, not the truth.
        """
        one_hidden = (self.in_dim, self.out_dim, len(self.widths)) == (1, 1, 1)
        plain = self.activation == "tanh" and not self.bias and not self.layernorm
        if one_hidden and plain and self._is_at_teacher(data, training) and data.teacher_rank == 0:
            return truths.tanh_zero(self.widths[0])
        return None

    def _is_at_teacher(self, data, training):
        """Whether w0 is a teacher's parameters of a stated rank, and the inputs span their space."""
        at_teacher = isinstance(training, FromTeacher) and isinstance(data, TeacherData)
        return at_teacher and data.teacher_rank is not None and data.n_data >= self.in_dim


class LinearNetwork(FullyConnected):
    """A product of matrices."""

    def truth(self, data, training, params):
        """Known where w0 is the teacher's own parameters and the inputs span their space.

        A random teacher may be less degenerate than the balanced point: for two layers the ranks of its layers tell.
        """
        if not self._is_at_teacher(data, training):
            return None
        if data.teacher_balanced:
            return truths.deep_linear(self.units, data.teacher_rank)
        if len(self.units) == 3:
            first, second = (np.linalg.matrix_rank(np.asarray(params[f"layer{i}"]["weight"])) for i in (0, 1))
            return truths.two_layers(self.units, int(first), int(second), data.teacher_rank)
        truth = truths.deep_linear(self.units, data.teacher_rank)
        return truth._replace(source="deep linear network (Aoyagi 2024), global: λ at w0 may exceed it", local=False)


def network(in_dim, widths, out_dim, *, activation, bias, layernorm, init) -> FullyConnected:
    """A fully connected network."""
    return FullyConnected(
        in_dim=in_dim,
        widths=tuple(widths),
        out_dim=out_dim,
        activation=activation,
        bias=bias,
        layernorm=layernorm,
        weights=init,
    )


def balanced_layers(sizes, rank, singular_value, key):
    """Weights of a deep linear network at the balanced point: the deepest singularity above a map of this rank.

    Layer i is Q_i diag(σ, …, σ, 0, …, 0) Q_{i+1}ᵀ with orthogonal Q, so that the same `rank` axes pass through all
    layers and local λ equals the global one (Aoyagi's formula).
    """
    frames = [
        jnp.linalg.qr(jax.random.normal(jax.random.fold_in(key, i), (size, size), jnp.float64))[0][:, :rank]
        for i, size in enumerate(sizes)
    ]
    return [singular_value * left @ right.T for left, right in itertools.pairwise(frames)]


def cut_layers(weights, rank, key):
    """Weights of which one, drawn at random, keeps its `rank` largest singular values only.

    After the random networks of Furman & Lau (arXiv 2402.03698): a point above a map of this rank that is often less
    degenerate than the deepest one.
    """
    which = int(jax.random.randint(jax.random.fold_in(key, 0x637574), (), 0, len(weights)))
    left, values, right = jnp.linalg.svd(weights[which], full_matrices=False)
    cut = left[:, :rank] * values[:rank] @ right[:rank]
    return [cut if i == which else weight for i, weight in enumerate(weights)]


def _mlp(config: MLP):
    return network(
        config.in_dim,
        config.hidden(),
        config.out_dim,
        activation=config.activation,
        bias=config.bias,
        layernorm=config.layernorm,
        init=config.init,
    )


def _deep_linear(config: DeepLinear):
    return LinearNetwork(
        in_dim=config.in_dim,
        widths=tuple(config.widths),
        out_dim=config.out_dim,
        activation="identity",
        bias=False,
        layernorm=False,
        weights=config.init,
    )


# --- functions of the weights alone -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class QuadraticLoss(Analytic):
    """L(w) = ½ Σ_i h_i w_i²."""

    config: Quadratic

    @cached_property
    def curvatures(self) -> Float[np.ndarray, " dim"]:
        """The curvatures h."""
        if self.config.curvatures is not None:
            return np.asarray(self.config.curvatures, float)
        return np.geomspace(self.config.curvature_min, self.config.curvature_max, self.config.dim)

    @property
    def dim(self):
        return len(self.curvatures)

    def loss(self, w):
        return 0.5 * jnp.sum(jnp.asarray(self.curvatures, w.dtype) * w**2)

    def truth(self, data, training, params):
        return truths.regular(np.count_nonzero(self.curvatures))

    def finite(self, nbeta, gamma):
        return truths.finite_quadratic(self.curvatures, nbeta, gamma)


@dataclass(frozen=True)
class NormalCrossingLoss(Analytic):
    """L(w) = Π_i w_i^(2 k_i)."""

    config: NormalCrossing

    @property
    def dim(self):
        return len(self.config.powers)

    def loss(self, w):
        return jnp.prod(w ** (2 * np.asarray(self.config.powers)))

    def truth(self, data, training, params):
        return truths.normal_crossing(self.config.powers)

    def finite(self, nbeta, gamma):
        return truths.finite_product([2 * k for k in self.config.powers], nbeta, gamma)


@dataclass(frozen=True)
class MonomialLoss(Analytic):
    """L(w) = ½ Σ_i |w_i|^(p_i)."""

    config: Monomial

    @property
    def dim(self):
        return len(self.config.powers)

    def loss(self, w):
        return 0.5 * jnp.sum(jnp.abs(w) ** jnp.asarray(self.config.powers, w.dtype))

    def truth(self, data, training, params):
        return truths.monomial(self.config.powers)

    def finite(self, nbeta, gamma):
        return sum(truths.finite_product([power], nbeta / 2, gamma) for power in self.config.powers)


_BUILDERS = {
    MLP: _mlp,
    DeepLinear: _deep_linear,
    Quadratic: QuadraticLoss,
    NormalCrossing: NormalCrossingLoss,
    Monomial: MonomialLoss,
}
"""What builds the model of each configuration."""
