"""A user's network made from its source: Flax, Equinox, Haiku, torch, or a pair of functions, as one function of parameters.

Frameworks are told apart by where an object's class comes from, and imported by the source alone.
"""

import importlib
import importlib.util
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num

from lambda_hat import config as configs
from lambda_hat.store import given
from lambda_hat.system import devices
from lambda_hat.system.errors import ConfigError
from lambda_hat.targets import custom, models
from lambda_hat.targets.models import Params

PACKAGES = ("flax", "equinox", "dm-haiku", "torch", "torchax")
"""Frameworks whose versions are recorded where a source has imported them."""


class Parts(NamedTuple):
    """A network taken apart.

    Attributes:
        params: what is sampled, a pytree of float arrays.
        buffers: other arrays, a pytree; running statistics are some.
        function: params, buffers, inputs `[n, …]` → outputs `[n, …]`.
    """

    params: Params
    buffers: Any
    function: Callable[[Params, Any, Array], Array]


@dataclass(frozen=True, eq=False)
class OwnNetwork(models.Network):
    """The network that a source makes; without parts until `on` is called, since frameworks draw parameters for inputs.

    Attributes:
        config: its `config.Custom`.
        parts: the network; None as yet.
    """

    config: configs.Custom
    parts: Parts | None = None
    in_dim: int | None = None

    def on(self, x, seed):
        return OwnNetwork(self.config, make(self.config, x, seed))

    def init(self, key):
        """The parameters that the network was made with, whatever the key."""
        return custom.as_float64(self._made().params, f"{self.config.callable}'s parameters")

    def apply(self, params, x):
        parts = self._made()
        dtype = jax.tree.leaves(params)[0].dtype
        outputs = parts.function(params, jax.tree.map(partial(_in_precision, dtype), parts.buffers), x)
        return outputs[:, None] if outputs.ndim == 1 else outputs

    def _made(self) -> Parts:
        assert self.parts is not None, "the inputs are not known yet"
        return self.parts

    @property
    def key(self) -> Hashable:
        content = [(name, array.tobytes()) for name, array in self.buffers().items()]
        return "own network", self.config.sha256, self.config.callable, json.dumps(self.config.options), repr(content)

    def buffers(self) -> dict[str, np.ndarray]:
        """Arrays of numbers that are no parameters, by name."""
        return {
            name: np.asarray(leaf)
            for name, leaf in custom.named_leaves(self._made().buffers).items()
            if _is_numeric(leaf)
        }

    def with_buffers(self, arrays: dict[str, np.ndarray], where: str) -> "OwnNetwork":
        """The same with the numbers of these arrays in its buffers, as far as they are there.

        Raises:
            ConfigError: where a shape differs.
        """
        parts = self._made()
        leaves, structure = jax.tree.flatten(parts.buffers)
        changed = []
        for name, leaf in zip(custom.named_leaves(parts.buffers), leaves, strict=True):
            if name not in arrays:
                changed.append(leaf)
            elif arrays[name].shape != leaf.shape:
                raise ConfigError(
                    f"{where}: {name} must have shape {leaf.shape}, as the model's; got {arrays[name].shape}."
                )
            else:
                changed.append(jnp.asarray(arrays[name], leaf.dtype))
        return OwnNetwork(self.config, parts._replace(buffers=jax.tree.unflatten(structure, changed)))


def _is_numeric(leaf):
    return hasattr(leaf, "dtype") and (jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool)


def _in_precision(dtype, leaf):
    return leaf.astype(dtype) if _is_numeric(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def versions() -> dict[str, str]:
    """Versions of the frameworks that have been imported."""
    imported = {name: name.removeprefix("dm-") for name in PACKAGES}
    return {name: metadata.version(name) for name, module in imported.items() if module in sys.modules}


# --- from a source to an object ---------------------------------------------------------------------------------------


def make(config: configs.Custom, x: Num[np.ndarray, "n ..."], seed: int) -> Parts:
    """Run the source, call its callable, and take apart what that returns.

    Raises:
        ConfigError: where it raises, or returns no network.
    """
    found = config.located()
    function = getattr(_module(found, config.sha256), found.name, None)
    if not callable(function):
        what = f"got {type(function).__name__}" if function is not None else "there is no such name"
        raise ConfigError(f"model.source={config.source}: {found.name} must be a callable; {what}.")
    key = devices.key(seed)
    _guarded("import torch", lambda: _seed_torch(text(config), seed))
    network = _guarded(found.name, lambda: function(**config.options or {}, **_ours(function, key, seed)))
    for origin, take in _FRAMEWORKS.items():
        if any(
            cls.__module__.split(".")[: origin.count(".") + 1] == origin.split(".") for cls in type(network).__mro__
        ):
            return _guarded(found.name, lambda take=take: take(network, key, jnp.asarray(x[:2])))
    if isinstance(network, (tuple, list)) and len(network) == 2 and all(map(callable, network)):
        return _guarded("init(key)", lambda: _of_pair(network, key))
    raise ConfigError(
        f"{found.name} must return a Flax, Equinox or Haiku model, a torch.nn.Module or a pair (init, apply) of functions; got "
        f"{type(network).__name__}."
    )


_MODULES: dict[tuple, Any] = {}


def _module(found, sha256):
    """The source's module, run once for each content; a file beside others can import them."""
    if found.module is not None:
        return _guarded(found.module, lambda: importlib.import_module(found.module))
    if (found.path, sha256) not in _MODULES:
        spec = importlib.util.spec_from_file_location(f"lambda_hat_source_{sha256[:12]}", found.path)
        assert spec is not None and spec.loader is not None
        module, loader = importlib.util.module_from_spec(spec), spec.loader
        writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        sys.modules[spec.name] = module  # where dataclasses look up annotations
        sys.path.insert(0, os.path.dirname(found.path))
        try:
            _guarded(os.path.basename(found.path), lambda: loader.exec_module(module))
        except ConfigError:
            del sys.modules[spec.name]
            raise
        finally:
            sys.path.remove(os.path.dirname(found.path))
            sys.dont_write_bytecode = writes_bytecode
        _MODULES[found.path, sha256] = module
    return _MODULES[found.path, sha256]


def _ours(function, key, seed):
    """What the callable takes beside options, of a JAX key, NNX's Rngs and a seed."""
    try:
        names = inspect.signature(function.__init__ if inspect.isclass(function) else function).parameters
    except (TypeError, ValueError):
        return {}
    made = {"key": lambda: key, "seed": lambda: seed, "rngs": lambda: importlib.import_module("flax.nnx").Rngs(seed)}
    return {name: value() for name, value in made.items() if name in names}


def _seed_torch(content, seed):
    """Torch draws parameters from a state of its own; a source may import it as late as in the callable."""
    if re.search(r"^\s*(import|from)\s+torch\b", content, re.MULTILINE):
        importlib.import_module("torch").manual_seed(seed)


def _guarded(name, function):
    """What a function of the user's returns, whatever it raises in a sentence."""
    try:
        return function()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        text = (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(f"model.source: {name} raised {type(error).__name__}: {text:.300}") from error


# --- from an object to functions --------------------------------------------------------------------------------------


def _of_pair(pair, key):
    init, apply = pair
    return Parts(init(key), {}, lambda params, buffers, x: apply(params, x))


def _of_linen(module, key, x):
    variables = dict(jax.tree.map(lambda leaf: leaf, module.init({"params": key}, x)))
    params = variables.pop("params", {})
    return Parts(params, variables, lambda params, buffers, x: module.apply({"params": params, **buffers}, x))


def _of_nnx(module, key, x):
    nnx = sys.modules["flax.nnx"]
    module.eval()
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    return Parts(params, rest, lambda params, buffers, x: nnx.merge(graph, params, buffers)(x))


def _of_equinox(module, key, x):
    eqx = sys.modules["equinox"]
    params, static = eqx.partition(eqx.nn.inference_mode(module), eqx.is_inexact_array)
    return Parts(params, {}, lambda params, buffers, x: jax.vmap(eqx.combine(params, static))(x))


def _of_haiku(transformed, key, x):
    with_key = "rng" in inspect.signature(transformed.apply).parameters
    started = transformed.init(key, x)
    with_state = type(transformed).__name__ == "TransformedWithState"
    params, state = started if with_state else (started, {})

    def function(params, buffers, x):
        arguments = [params, *([buffers] if with_state else []), *([None] if with_key else []), x]
        outputs = transformed.apply(*arguments)
        return outputs[0] if with_state else outputs

    return Parts(params, state, function)


def _of_torch(module, key, x):
    try:
        import torchax  # pyright: ignore[reportMissingImports]  not installed but with the extra `torch`
    except ImportError as error:
        raise ConfigError(
            "A torch.nn.Module needs torchax, which runs it in JAX: pip install 'lambda-hat[torch]' (torch 2.12)."
        ) from error
    states, function = torchax.extract_jax(module.double().eval())
    names = {name for name, _ in module.named_parameters()}
    params = {name: array for name, array in states.items() if name in names}
    buffers = {name: array for name, array in states.items() if name not in names}
    return Parts(params, buffers, lambda params, buffers, x: function({**params, **buffers}, (x,)))


_FRAMEWORKS = {
    "flax.linen": _of_linen,
    "flax.nnx": _of_nnx,
    "equinox": _of_equinox,
    "haiku": _of_haiku,
    "torch.nn": _of_torch,
}
"""What takes apart an object whose class comes from here."""


def text(config: configs.Custom) -> str:
    """The source file, of which a copy is kept with the target."""
    return given.text(config.located().path, "model.source")
