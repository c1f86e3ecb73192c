"""What a posterior sees of a target: the loss over other data, and some parameters, the others fixed at w0.

Either is a `Target` like any other, so that samplers, curvature and analysis know of neither: p, n and w0 are the view's.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from lambda_hat.config import Posterior
from lambda_hat.store.given import listed
from lambda_hat.system.errors import ConfigError
from lambda_hat.targets import custom, models
from lambda_hat.targets.models import Params

LONGEST = 120
"""Letters up to which the names of the parameters that move are written out."""


def seen_by(posterior: Posterior, target: Any) -> Any:
    """The `artifact.Target` whose L_n(w) a posterior is of: the target itself, where it restricts neither data nor parameters.

    Nothing is known of λ of any other.

    Raises:
        ConfigError: where the other data do not fit the network, or a pattern matches no parameter.
    """
    seen = target
    if posterior.data is not None:
        seen = _on_other_data(posterior, seen)
    names = list(custom.named_leaves(seen.params))
    moving = posterior.moving(names)
    if len(moving) < len(names):
        seen = _of_some_parameters(frozenset(moving), seen)
        seen.meta["parameters"] = text(moving)
    return seen


def text(names: list[str]) -> str:
    """Names of parameters in a few words, the same for the same ones."""
    names = sorted(names)
    whole = ", ".join(names)
    if len(whole) <= LONGEST:
        return whole
    return f"{names[0]}, …, {names[-1]} ({len(names)} arrays, sha256 {hashlib.sha256(whole.encode()).hexdigest()[:8]})"


# --- data -------------------------------------------------------------------------------------------------------------


def _on_other_data(posterior, target):
    named = f"posterior.data={posterior.data}"
    if target.model.potential is not None:
        raise ConfigError(f"{named} has no use with a model that is itself the loss; leave it out.")
    own = target.meta.get("table")
    x, y, table = posterior.other_pairs(own and own["target"])
    if own and table and table.inputs != tuple(own["inputs"]):
        raise ConfigError(
            f"{named} must have the inputs of the target's table, in their order: {listed(own['inputs'])}; got "
            f"{listed(table.inputs)}."
        )
    if table and table.classes:
        y = _numbered(y, table.classes, own and own["classes"], named)
    for what, ours, theirs in (("inputs", target.x, x), ("labels", target.y, y)):
        if np.issubdtype(ours.dtype, np.integer) > np.issubdtype(theirs.dtype, np.integer):
            raise ConfigError(f"{named} must have integers for {what}, as the target's data; got floats.")
    if x.shape[1:] != target.x.shape[1:]:
        raise ConfigError(
            f"{named} must have inputs of the target's shape {target.x.shape[1:]}; got {x.shape[1:]} for each."
        )
    x, y = _of_kind(x, target.x), _of_kind(y, target.y)
    try:
        if target.model.pair is None:
            y = custom.fit_labels(y, custom.check_network("the network", target.model.apply, target.params, x))
    except ConfigError as error:
        raise ConfigError(f"{named}: {error}") from error
    dims = target.meta.get("dims", {}) | {"n": len(x)}
    meta = target.meta | {"dims": dims, "truth": None, "other_data": posterior.other_data}
    return target._replace(x=x, y=y, meta=meta)


def _of_kind(array, like):
    """Integers as floats where the target's data are floats."""
    both_are_real = np.issubdtype(array.dtype, np.floating) or np.issubdtype(like.dtype, np.integer)
    return array if both_are_real else array.astype(np.float64)


def _numbered(y, names, classes, named):
    """Labels that are words, by the numbers that the target's classes have."""
    if not classes:
        raise ConfigError(
            f"{named} must have numbers for labels, as the target's data; got words: {listed(names)}. Which class has which number "
            "is known only of a target whose own labels are words."
        )
    if unknown := [name for name in names if name not in classes]:
        raise ConfigError(
            f"{named} must have labels among the target's classes, {listed(classes)}; got {listed(unknown)}."
        )
    return np.array([list(classes).index(name) for name in names])[y]


# --- parameters -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Completed:
    """A model's function of all its parameters as one of those that move: a pytree like the model's, the fixed leaves None.

    Two that compute the same are equal, so that the programs compiled for one serve the other.

    Attributes:
        model: with `apply` or `potential`.
        params: all parameters, at w0.
        moving: names of those that move.
    """

    model: models.Model
    params: Params
    moving: frozenset[str]

    def part(self) -> Params:
        """The parameters that move, at w0."""
        leaves = [leaf if moves else None for leaf, moves in self._leaves]
        return jax.tree.unflatten(jax.tree.structure(self.params), leaves)

    def whole(self, part: Params) -> Params:
        """All parameters, in the precision of those given."""
        found = iter(jax.tree.leaves(part))
        dtype = jax.tree.leaves(part)[0].dtype
        leaves = [next(found) if moves else leaf.astype(dtype) for leaf, moves in self._leaves]
        return jax.tree.unflatten(jax.tree.structure(self.params), leaves)

    def __call__(self, part: Params, *x: Array) -> Array:
        function = self.model.potential or self.model.apply
        return function(self.whole(part), *x)

    def __eq__(self, other):
        return isinstance(other, Completed) and self._key == other._key

    def __hash__(self):
        return hash(self._key)

    @cached_property
    def _leaves(self):
        return [(leaf, name in self.moving) for name, leaf in custom.named_leaves(self.params).items()]

    @cached_property
    def _key(self):
        fixed = hashlib.sha256()
        for leaf, moves in self._leaves:
            if not moves:
                fixed.update(np.asarray(leaf).tobytes())
        return self.model.key, self.moving, fixed.hexdigest()


def _of_some_parameters(moving, target):
    function = Completed(target.model, target.params, moving)
    part = function.part()
    if target.model.potential is not None:
        model = custom.CustomPotential(function, part)
    else:
        model = custom.CustomNetwork(function, lambda key: part, target.model.pair)
    p = sum(leaf.size for leaf in jax.tree.leaves(part))
    dims = target.meta.get("dims", {}) | {"p": p}
    meta = target.meta | {"dims": dims, "truth": None, "p_model": len(target.w0)}
    return target._replace(model=model, params=part, meta=meta)
