"""Models: the parametric family, w ↦ f_w, or a function w ↦ L(w) of the weights alone.

A kind of model is a subclass of `Network` or `Analytic` here, what builds it (lambda_hat/targets/models.py), and a file in
conf/model.
"""

import itertools
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lambda_hat.config import source as sources
from lambda_hat.config.fields import setting
from lambda_hat.store import given
from lambda_hat.system.errors import ConfigError

if TYPE_CHECKING:
    from lambda_hat.config.whole import Config

ACTIVATIONS = ("relu", "tanh", "gelu", "identity")
INITS = ("he", "xavier", "lecun", "orthogonal")


class Model:
    """What every kind of model says of itself without JAX.

    Attributes:
        kind: the family's name.
        is_own: whether a user brings it, so that it is tried before work begins.
    """

    kind: str
    is_own = False

    def layers(self) -> tuple[int, ...] | None:
        """Units of each layer, inputs and outputs included; None where the model has no layers of units."""
        return None

    @abstractmethod
    def parameters(self) -> int | None:
        """Number of parameters p; None where only the model itself tells."""
        raise NotImplementedError

    def arrays(self) -> dict[str, int] | None:
        """Numbers that each array of parameters holds, by its name; None where only the model itself tells."""
        p = self.parameters()
        return None if p is None else {"w": p}

    def problems(self, whole: "Config") -> Iterator[str]:
        """Reasons why it cannot be run with the rest of the configuration, a sentence each."""
        return iter(())


class Network(Model):
    """A fully connected network, fitted to data.

    Attributes:
        in_dim, out_dim: numbers of inputs and outputs.
        activation: non-linearity of the hidden layers.
        bias, layernorm: whether layers have biases, and learnt scales and shifts.
    """

    in_dim: int
    out_dim: int
    activation: str = "identity"
    bias: bool = False
    layernorm: bool = False

    @abstractmethod
    def hidden(self) -> tuple[int, ...]:
        """Units of each hidden layer."""
        raise NotImplementedError

    def layers(self):
        return self.in_dim, *self.hidden(), self.out_dim

    def parameters(self):
        return count_parameters(self.layers(), bias=self.bias, layernorm=self.layernorm)

    def arrays(self):
        found, layers = {}, self.layers()
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(layers)):
            normed = self.layernorm and i + 2 < len(layers)
            vectors = ["bias"] * self.bias + ["scale", "shift"] * normed
            found |= {f"layer{i}.{name}": fan_out for name in vectors} | {f"layer{i}.weight": fan_in * fan_out}
        return found


class Analytic(Model):
    """A loss L(w) of the weights alone: its data are nothing but their number n, and have no noise."""

    def problems(self, whole):
        if whole.data.sizes is not None:
            yield (
                f"model={self.kind} is a function of w alone and has no use for data={whole.data.kind}; use data=small."
            )
        if whole.posterior.loss != "nll":
            yield (
                f"posterior.loss must be nll for model={self.kind}, which is itself the loss; got {whole.posterior.loss}."
            )


def count_parameters(layers: tuple[int, ...], *, bias: bool, layernorm: bool) -> int:
    """Number of parameters p of a fully connected network with these layers, inputs and outputs included."""
    weights = sum(a * b for a, b in itertools.pairwise(layers))
    return weights + bias * sum(layers[1:]) + 2 * layernorm * sum(layers[1:-1])


@dataclass(frozen=True)
class MLP(Network):
    """A fully connected network with `depth` hidden layers."""

    kind: str = setting("the family", choices=("mlp",))
    in_dim: int = setting("number of inputs", ge=1, le=100_000)
    out_dim: int = setting("number of outputs", ge=1, le=100_000)
    depth: int | None = setting("number of hidden layers; null = as many as widths has entries", ge=1, le=100)
    widths: list[int] | None = setting(
        "units of each hidden layer; null = equal widths inferred from target_params", ge=1, le=100_000, nonempty=True
    )
    target_params: int | None = setting(
        "number of parameters that inferred widths come closest to; read only where widths is null", ge=1, le=10**9
    )
    activation: str = setting("non-linearity of the hidden layers", choices=ACTIVATIONS)
    bias: bool = setting("whether layers have biases (drawn as zeros)")
    layernorm: bool = setting("whether pre-activations are normalised over units, with a learnt scale and shift")
    init: str = setting("distribution of the initial weights", choices=INITS)

    def hidden(self):
        if self.widths is not None:
            return tuple(self.widths)
        if self.depth is None or self.target_params is None:
            raise ValueError("widths=null needs depth and target_params")
        return self._equal_widths(self.depth, self.target_params)

    def _equal_widths(self, depth: int, target: int) -> tuple[int, ...]:
        """Equal hidden widths, at least 1, whose parameter count comes closest to a target."""

        def count(width):
            layers = self.in_dim, *[width] * depth, self.out_dim
            return count_parameters(layers, bias=self.bias, layernorm=self.layernorm)

        low, high = 1, 2
        while count(high) < target:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if count(middle) < target else (low, middle)
        return (min((low, high), key=lambda width: abs(count(width) - target)),) * depth

    def problems(self, whole):
        if self.widths is not None and self.depth not in (None, len(self.widths)):
            yield (
                f"model.depth={self.depth} but model.widths={list(self.widths)} has {len(self.widths)}: make them "
                "agree, or set model.depth=null (or model.widths=null to infer them from model.target_params)."
            )
        if self.widths is None and (self.depth is None or self.target_params is None):
            yield "model.widths=null needs both model.depth and model.target_params, to infer the widths from; set them."


@dataclass(frozen=True)
class DeepLinear(Network):
    """A deep linear network: a product of matrices, identity activation, no bias."""

    kind: str = setting("the family", choices=("deep_linear",))
    in_dim: int = setting("number of inputs", ge=1, le=100_000)
    widths: list[int] = setting("units of each hidden layer", ge=1, le=100_000, nonempty=True)
    out_dim: int = setting("number of outputs", ge=1, le=100_000)
    init: str = setting("distribution of the initial weights", choices=INITS)

    def hidden(self):
        return tuple(self.widths)


@dataclass(frozen=True)
class Quadratic(Analytic):
    """L(w) = ½ Σ_i h_i w_i²: no data but n, no noise; the LLC is known in closed form at every (n, β, γ)."""

    kind: str = setting("the family", choices=("quadratic",))
    dim: int = setting("number of parameters", ge=1, le=10**7)
    curvature_min: float = setting("smallest curvature h; the others are spaced evenly in log h", ge=0, le=1e12)
    curvature_max: float = setting("largest curvature h", gt=0, le=1e12)
    curvatures: list[float] | None = setting("all curvatures, dim of them; null = spaced", ge=0, le=1e12, nonempty=True)

    def parameters(self):
        return self.dim

    def problems(self, whole):
        if self.curvatures is not None and len(self.curvatures) != self.dim:
            yield f"model.curvatures must have model.dim={self.dim} entries; got {len(self.curvatures)}."
        if self.curvatures is not None and not any(self.curvatures):
            yield "model.curvatures must not all be zero: L would not depend on w; give at least one positive curvature."
        if self.curvatures is None and self.curvature_min > self.curvature_max:
            yield f"model.curvature_min={self.curvature_min} must not exceed model.curvature_max={self.curvature_max}."
        if self.curvatures is None and self.curvature_min == 0:
            yield "model.curvature_min must be > 0 (curvatures are spaced in log h); for zeros list model.curvatures."
        yield from super().problems(whole)


@dataclass(frozen=True)
class NormalCrossing(Analytic):
    """L(w) = Π_i w_i^(2 k_i): no data but n, no noise; λ = min 1/(2 k_i)."""

    kind: str = setting("the family", choices=("normal_crossing",))
    powers: list[int] = setting("the exponents k_i, zeros allowed but not all", ge=0, le=100, nonempty=True)

    def parameters(self):
        return len(self.powers)

    def problems(self, whole):
        if not any(self.powers):
            yield f"model.powers must not all be zero: L would not depend on w; got {list(self.powers)}."
        yield from super().problems(whole)


@dataclass(frozen=True)
class Monomial(Analytic):
    """L(w) = ½ Σ_i |w_i|^(p_i): no data but n, no noise; λ = Σ 1/p_i."""

    kind: str = setting("the family", choices=("monomial",))
    powers: list[float] = setting("the exponents p_i, one for each parameter", ge=2, le=100, nonempty=True)

    def parameters(self):
        return len(self.powers)


@dataclass(frozen=True)
class Custom(Model):
    """A network of the user's own: what a callable in a source file returns. Named after the text of that file.

    What the source imports is not hashed; versions of the frameworks are recorded. Options are typed by the callable's
    signature where it says a type, else taken as written.
    """

    kind: str = setting("the family", choices=("custom",))
    source: str | None = setting(
        "a file or an importable module, and a callable in it that returns a Flax, Equinox or Haiku model, a torch module or a "
        "pair (init, apply): net.py:make",
        hashed=False,
    )
    callable: str | None = setting("the callable; null = as source says")
    options: Any = setting("what the callable is given, by its own names: {width: 32}; null = nothing")
    sha256: str | None = setting("hash of the source file; null = as it is now")

    is_own = True

    def __post_init__(self):
        if self.source is None:
            return
        found = sources.locate(self.source)
        if not isinstance(self.options, dict | None):
            raise ConfigError(f"model.options must be settings by name, such as {{width: 32}}; got {self.options}.")
        if found.module is None:
            object.__setattr__(self, "source", f"{found.path}:{found.name}")
        if self.sha256 is None:
            object.__setattr__(self, "sha256", given.sha256(found.path, "model.source"))
            object.__setattr__(self, "options", sources.typed(found, self.options or {}))
        object.__setattr__(self, "callable", found.name)

    def located(self) -> sources.Source:
        """The source, which must be the one that this was made for.

        Raises:
            ConfigError: where it is not named, or has changed.
        """
        if self.source is None:
            raise ConfigError(
                f"model=custom needs the source whose sha256 is {str(self.sha256)[:12]}…, which is imported only where the "
                f"command line names it: add model=custom model.source=net.py:{self.callable}."
            )
        found = sources.locate(self.source)
        given.refuse_changed(found.path, "model.source", self.sha256)
        return found

    def parameters(self):
        return None

    def problems(self, whole):
        if not whole.data.is_own and whole.data.sizes is None:
            yield f"model=custom needs data of its own, and data={whole.data.kind} draws none for it; use data=file."
