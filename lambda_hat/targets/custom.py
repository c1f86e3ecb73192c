"""Networks and losses that a caller brings: any function of any pytree of float arrays, checked before work begins."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from lambda_hat.store.given import listed
from lambda_hat.system.errors import ConfigError
from lambda_hat.targets.models import Network, Params, Potential

CHECKED_EXAMPLES = 8
"""Examples that a network is tried on."""

BATCH_TOLERANCE = 1e-4
"""Largest difference between an example's outputs in two batches, over the largest output. The order of sums makes one of 1e-13, or
1e-6 in a network that computes in float32; batch norm in training mode and dropout make 1e-2 and more."""


@dataclass(frozen=True, eq=False)
class CustomNetwork(Network):
    """A network given as functions.

    Attributes:
        function: parameters, inputs `[n, …]` → outputs `[n, …]`.
        start: key → parameters, a pytree of float arrays.
        pair: outputs (with an axis of length 1 where they have none), labels → loss of each example; None for a likelihood that
            `posterior.loss` names.
        name: what messages call the function.
    """

    function: Callable[[Params, Array], Array]
    start: Callable[[Any], Params]
    pair: Callable[[Array, Array], Array] | None = None
    name: str = "apply"
    in_dim: int | None = None

    def init(self, key):
        return as_float64(self.start(key), "params")

    def apply(self, params, x):
        outputs = self.function(params, x)
        return outputs[:, None] if outputs.ndim == 1 else outputs

    @property
    def key(self):
        return "custom network", _identity(self.function), _identity(self.pair)


@dataclass(frozen=True, eq=False)
class CustomPotential(Potential):
    """A loss L(w) given as a function; nothing is known of its λ.

    Attributes:
        function: parameters → L(w).
        start: the parameters w0, a pytree of float arrays.
    """

    function: Callable[[Params], Float[Array, ""]]
    start: Params

    def init(self, key):
        return as_float64(self.start, "params")

    def potential(self, params):
        return self.function(params)

    def truth(self, data, training, params):
        return None

    def finite(self, nbeta, gamma):
        return None

    @property
    def key(self):
        return "custom potential", _identity(self.function)


def _identity(function):
    """The function itself where it can be a key of a dictionary, else the object's number: whoever has the key has the object."""
    return function if function is None or getattr(function, "__hash__", None) else id(function)


# --- parameters -------------------------------------------------------------------------------------------------------


def as_float64(params: Params, name: str) -> Params:
    """A pytree of arrays in float64.

    Raises:
        ConfigError: where there is no leaf, or one is not an array of real floating-point numbers; it is named.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ConfigError(f"{name} must hold at least one array; got {params!r:.60}.")

    def convert(path, leaf):
        dtype = getattr(leaf, "dtype", None) or (np.dtype(float) if isinstance(leaf, float) else None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            got = f"an array of {dtype}" if dtype is not None else f"{type(leaf).__name__} {leaf!r:.40}"
            raise ConfigError(
                f"{name}: every leaf must be an array of floats, since all are sampled; {leaf_name(path)} is {got}. Keep what "
                "is no parameter out of it, in the function itself."
            )
        return jnp.asarray(np.asarray(leaf).astype(np.float64))

    return jax.tree_util.tree_map_with_path(convert, params)


def leaf_name(path) -> str:
    """A leaf's name: the keys and indices on its way, joined by dots; `w` for a lone array."""
    return jax.tree_util.keystr(path, simple=True, separator=".") or "w"


def named_leaves(params: Params) -> dict[str, Any]:
    """The leaves of a pytree by name, in their order; where two names would be the same, all are written out in full."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [leaf_name(path) for path, _ in leaves]
    if all(name.endswith(".value") for name in names):  # Flax NNX's, of every variable
        names = [name.removesuffix(".value") for name in names]
    if len(set(names)) < len(names):
        names = [jax.tree_util.keystr(path) for path, _ in leaves]
    return dict(zip(names, (leaf for _, leaf in leaves), strict=True))


def fill_in(params: Params, arrays: dict[str, np.ndarray], where: str) -> Params:
    """Parameters of the shapes of `params` with the numbers of arrays of the same names, in float64.

    Arguments:
        arrays: by name; `/` counts as a dot, and `params.` before every name is nothing.
        where: what the arrays are from, for errors.

    Raises:
        ConfigError: where names or shapes differ, or a number is not finite.
    """
    given = {_plain_name(name, arrays): array for name, array in arrays.items()}
    wanted = {name: (_plain_name(name, ()), leaf) for name, leaf in named_leaves(params).items()}
    if {plain for plain, _ in wanted.values()} != set(given):
        lacking = [name for name, (plain, _) in wanted.items() if plain not in given]
        unknown = sorted(set(given) - {plain for plain, _ in wanted.values()})
        raise ConfigError(
            f"{where} must hold one array for each parameter, by its name: {listed(wanted)}; "
            + "; ".join(
                f"{what} {listed(names)}" for what, names in (("it lacks", lacking), ("unknown are", unknown)) if names
            )
            + "."
        )
    leaves = []
    for name, (plain, leaf) in wanted.items():
        array = given[plain]
        if array.shape != leaf.shape:
            raise ConfigError(f"{where}: {name} must have shape {leaf.shape}, as the model's; got {array.shape}.")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ConfigError(f"{where}: {name} must be an array of floats; got one of {array.dtype}.")
        array = np.asarray(array).astype(np.float64)
        if not np.all(np.isfinite(array)):
            raise ConfigError(f"{where}: {name} must be finite; {np.mean(~np.isfinite(array)):.0%} of it is not.")
        leaves.append(jnp.asarray(array))
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def _plain_name(name, names):
    plain = name.replace("/", ".")
    return plain.removeprefix("params.") if all(n.replace("/", ".").startswith("params.") for n in names) else plain


# --- data -------------------------------------------------------------------------------------------------------------


def check_arrays(x: Any, y: Any) -> tuple[Num[np.ndarray, "n ..."], Num[np.ndarray, "n ..."]]:
    """Inputs and labels as float64 or integer arrays.

    Raises:
        ConfigError: where they are not numbers, not finite, not equally many or too few.
    """
    x, y = _numbers(x, "x"), _numbers(y, "y")
    if len(x) != len(y):
        raise ConfigError(f"x and y must be equally long; got {len(x)} inputs and {len(y)} labels.")
    if len(x) < 2:
        raise ConfigError(f"x and y must hold at least 2 pairs, since β = 1/log n; got {len(x)}.")
    if y.size == 0 or x.size == 0:
        raise ConfigError(f"x and y must not be empty; got shapes {x.shape} and {y.shape}.")
    return x, y


def _numbers(values, name):
    array = np.asarray(values)
    if array.ndim == 0:
        raise ConfigError(f"{name} must be an array with one entry for each pair; got {values!r:.60}.")
    if jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(np.float64)
        if not np.all(np.isfinite(array)):
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ConfigError(f"{name} must be finite; {name}{list(where)} is {array[where]}.")
        return array
    if np.issubdtype(array.dtype, np.integer) or array.dtype == bool:
        if np.issubdtype(array.dtype, np.unsignedinteger) and array.size and array.max() > np.iinfo(np.int64).max:
            raise ConfigError(f"{name} must fit 64-bit integers; its largest value is {array.max()}.")
        return array.astype(np.int64)
    raise ConfigError(f"{name} must be an array of floats or integers; got one of {array.dtype}.")


def fit_labels(y: Num[np.ndarray, "n ..."], outputs: tuple[int, ...]) -> Num[np.ndarray, "n ..."]:
    """Labels in the shape that outputs of shape `[n, …]` are compared with.

    Raises:
        ConfigError: where they do not fit: class numbers need outputs with one axis more, of the classes; real-valued labels
            outputs of the same shape, up to an axis of length 1 at the end.
    """
    if np.issubdtype(y.dtype, np.integer):
        if y.ndim == len(outputs) and y.shape[-1] == 1:
            y = y[..., 0]
        if outputs[:-1] != y.shape or len(outputs) < 2:
            raise ConfigError(
                f"integer labels are class numbers, so outputs must have their shape {y.shape} and one axis more, of the "
                f"classes; the outputs are {outputs}. Make y floats for a regression."
            )
        if y.min() < 0 or y.max() >= outputs[-1]:
            raise ConfigError(
                f"class numbers must be between 0 and {outputs[-1] - 1}, as the network has {outputs[-1]} outputs; got "
                f"{y.min()} to {y.max()}."
            )
        return y
    if y.shape == outputs:
        return y
    if y.shape == (*outputs, 1) or (*y.shape, 1) == outputs:
        return y.reshape(outputs)
    raise ConfigError(f"real-valued labels must have the outputs' shape {outputs}; got y of shape {y.shape}.")


# --- functions --------------------------------------------------------------------------------------------------------


def check_network(name: str, function: Callable, params: Params, x: Num[np.ndarray, "n ..."]) -> tuple[int, ...]:
    """Try a network on a few examples; returns the shape of its outputs for all of `x`.

    Arguments:
        name: what messages call the function.
        function: parameters, inputs `[n, …]` → outputs `[n, …]`.

    Raises:
        ConfigError: where it raises, returns no array of one row for each example, or something that is not finite, or where an
            example's outputs change from call to call or with the rest of the batch.
    """
    batch = np.unique(np.linspace(0, len(x) - 1, CHECKED_EXAMPLES).astype(int))
    examples = x[batch]
    first = _call(name, function, params, examples)
    _refuse_if_differ(name, first, _call(name, function, params, examples), "from one call to the next (dropout?)")
    order = np.roll(np.arange(len(batch)), 1)
    together = "with the other examples in the batch (batch norm in training mode?)"
    _refuse_if_differ(name, first[order], _call(name, function, params, examples[order]), together)
    _refuse_if_differ(name, first[:1], _call(name, function, params, examples[:1]), together)
    return len(x), *first.shape[1:]


def _call(name, function, params, x):
    outputs = call(name, function, params, jnp.asarray(x))
    shape = getattr(outputs, "shape", None)
    if shape is None or not hasattr(outputs, "dtype"):
        raise ConfigError(f"{name}(params, x) must return an array of outputs; got {type(outputs).__name__}.")
    if len(shape) == 0 or shape[0] != len(x):
        raise ConfigError(
            f"{name}(params, x) must return one row for each example; got shape {tuple(shape)} for x of shape {x.shape}."
        )
    outputs = np.asarray(outputs, float)
    if not np.all(np.isfinite(outputs)):
        raise ConfigError(f"{name}(params, x) must be finite at w0; {np.mean(~np.isfinite(outputs)):.0%} of it is not.")
    return outputs


def call(name: str, function: Callable, *arguments: Any) -> Any:
    """A caller's function called, its error a sentence.

    Raises:
        ConfigError: for whatever it raises, which is the sentence's cause.
    """
    try:
        return function(*arguments)
    except Exception as error:
        shapes = ", ".join(_shape(argument) for argument in arguments)
        text = (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(f"{name}({shapes}) raised {type(error).__name__}: {text:.300}") from error


def _shape(argument):
    return f"{argument.dtype}{list(argument.shape)}" if hasattr(argument, "shape") else "params"


def _refuse_if_differ(name, one, other, how):
    scale = max(float(np.max(np.abs(one), initial=0.0)), float(np.max(np.abs(other), initial=0.0)), 1e-300)
    if one.shape != other.shape or float(np.max(np.abs(one - other), initial=0.0)) > BATCH_TOLERANCE * scale:
        raise ConfigError(
            f"{name}(params, x) must depend on params and each example alone; an example's outputs change {how}. Use the "
            "network's inference mode."
        )


def noise_scale(
    value: float | str | None, loss: str, y: Num[np.ndarray, "n ..."], outputs: Callable[[], Array]
) -> float | None:
    """σ of real-valued labels; None where the loss has none.

    Arguments:
        value: a number, `residual`, or None.
        loss: `nll`, `mse` or `student_t`.
        outputs: gives the network's outputs at w0, in the shape of y.

    Raises:
        ConfigError: where a σ is missing or has no use.
    """
    classes = np.issubdtype(y.dtype, np.integer)
    if classes and loss != "nll":
        raise ConfigError(
            f"loss must be nll (cross-entropy) for integer labels; got {loss}. Make y floats for a regression."
        )
    if classes or loss == "mse":
        if value is not None:
            why = "integer labels" if classes else "loss=mse"
            raise ConfigError(f"noise_scale has no use with {why}; leave it out. Got {value}.")
        return None
    if value is None:
        raise ConfigError(
            "noise_scale is missing: real-valued labels need σ, which sets the temperature and so λ̂. Give a number, or residual "
            "for σ² = the mean squared residual at w0; or take loss=mse."
        )
    if value == "residual":
        return residual_scale(float(np.mean((np.asarray(outputs()) - y) ** 2)))
    if isinstance(value, str) or not 0 < value < np.inf:
        raise ConfigError(f"noise_scale must be a positive number or residual; got {value!r}.")
    return float(value)


def residual_scale(mean_square: float) -> float:
    """σ of labels with this mean squared residual at w0.

    Raises:
        ConfigError: where that is zero.
    """
    if mean_square == 0:
        raise ConfigError(
            "noise_scale=residual needs residuals, and the network fits every label at w0; give a number."
        )
    return float(np.sqrt(mean_square))


def check_log_likelihood(function: Callable, outputs: Array, y: Num[np.ndarray, "n ..."]) -> None:
    """Try a log-likelihood on a few outputs.

    Raises:
        ConfigError: where it raises, or is not one finite number for each.
    """
    values = call("log_likelihood", function, outputs, jnp.asarray(y))
    if getattr(values, "shape", None) != (len(y),):
        raise ConfigError(
            f"log_likelihood(outputs, y) must return one number for each example; got shape {getattr(values, 'shape', None)} for "
            f"{len(y)} examples."
        )
    if not np.all(np.isfinite(np.asarray(values, float))):
        raise ConfigError(f"log_likelihood(outputs, y) must be finite at w0; got {np.asarray(values)}.")


def check_potential(function: Callable, params: Params) -> None:
    """Try a potential at w0.

    Raises:
        ConfigError: where it raises, or is not one finite number.
    """
    value = call("potential", function, params)
    if getattr(value, "shape", None) != () or not np.isfinite(float(value)):
        raise ConfigError(f"potential(params) must return one finite number at w0; got {value!r:.100}.")
