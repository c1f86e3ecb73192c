"""What one setting is: its meaning, type and range, and the sentences about values that do not fit."""

import math
import types
from collections.abc import Iterator
from dataclasses import Field, field, fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
"""How each type of a setting is described."""


def setting(
    meaning: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    choices: tuple[str, ...] | None = None,
    nonempty: bool = False,
    hashed: bool = True,
) -> Any:
    """A dataclass field with its meaning and its range, which holds for every entry of a list; null is always in it.

    Arguments:
        meaning: what the setting is, with its unit.
        gt, ge, lt, le: bounds: greater than, at least, less than, at most.
        choices: the words that it may be.
        nonempty: whether an empty word or list is refused.
        hashed: whether it is part of what results are named after; a path is not, what the file holds is.
    """
    limits = dict(gt=gt, ge=ge, lt=lt, le=le, choices=choices)
    return field(metadata=dict(meaning=meaning, nonempty=nonempty, hashed=hashed, **limits))


def kinds(base: type) -> dict[str, type]:
    """The classes of a group: every class below `base` whose `kind` or `name` has one choice, by that choice."""
    found = {}
    for cls in base.__subclasses__():
        for f in fields(cls) if is_dataclass(cls) else ():
            if f.name in ("kind", "name") and len(f.metadata["choices"] or ()) == 1:
                found[f.metadata["choices"][0]] = cls
        found |= kinds(cls)
    return found


def problems_of_fields(key: str, value: Any) -> Iterator[str]:
    """Settings of a dataclass that have the wrong type or are out of range, a sentence each.

    Arguments:
        key: the dotted name of `value`; empty for the whole configuration.
        value: an instance of a dataclass made of `setting`s.
    """
    for f in fields(value):
        yield from problems_of_setting(f"{key}.{f.name}" if key else f.name, getattr(value, f.name), type(value), f)


def problems_of_setting(key: str, value: Any, owner: type, f: Field) -> Iterator[str]:
    """The same for a single setting.

    Arguments:
        key: its dotted name.
        value: its value.
        owner, f: the dataclass that has it, and its field there.
    """
    hint = type_hints(owner)[f.name]
    if is_dataclass(value):
        yield from problems_of_fields(key, value)
    elif not conforms(value, hint):
        yield wrong_type(key, value, hint)
    else:
        yield from _range_problems(key, value, f)


type_hints = cache(get_type_hints)
"""The annotations of a dataclass by field, evaluated."""


def explain(key: str, cls: type) -> Iterator[tuple[str, str, str]]:
    """The settings of a dataclass: their dotted names, their types with ranges, and their meanings."""
    for f in fields(cls):
        hint, name = type_hints(cls)[f.name], f"{key}.{f.name}" if key else f.name
        if isinstance(hint, type) and is_dataclass(hint):
            yield from explain(name, hint)
            continue
        if f.metadata["choices"] is None:
            expected = f"{describe_type(hint)} {_expected(f.metadata)}".rstrip()
        else:
            expected = _expected(f.metadata)
        nullable = type(None) in get_args(hint)
        yield name, expected + (", or null" if nullable else ""), f.metadata["meaning"]


# --- types ------------------------------------------------------------------------------------------------------------


def conforms(value: Any, hint: Any) -> bool:
    """Whether a value has the type that a setting's annotation names."""
    if hint is Any:
        return True
    if get_origin(hint) in (Union, types.UnionType):
        return any(conforms(value, part) for part in get_args(hint))
    if get_origin(hint) is dict:
        return isinstance(value, dict)
    if get_origin(hint) is list:
        return isinstance(value, (list, tuple)) and all(conforms(entry, get_args(hint)[0]) for entry in value)
    if get_origin(hint) is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def describe_type(hint: Any) -> str:
    """An annotation in words: `a whole number`, `a list such as [16,16]`."""
    parts = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(describe_type, parts))
    if get_origin(hint) is list:
        return {int: "a list such as [16,16]", float: "a list such as [0.5,2.0]"}.get(parts[0], "a list such as [a,b]")
    if get_origin(hint) is dict:
        return "settings by name such as {width: 32}"
    return SCALARS.get(hint, "a group of settings")


def wrong_type(key: str, value: Any, hint: Any) -> str:
    """The sentence for a value of the wrong type."""
    shown = "null" if value is None else str(value)
    return f"{key} must be {describe_type(hint)}; got {shown if len(shown) < 80 else shown[:77] + '...'}."


# --- ranges -----------------------------------------------------------------------------------------------------------


def _range_problems(key: str, value: Any, f: Field) -> Iterator[str]:
    if f.metadata["nonempty"] and value is not None and not value:
        yield f"{key} must not be empty ({f.metadata['meaning']})."
    entries = value if isinstance(value, (list, tuple)) else [value]
    if any(entry is not None and not _in_range(entry, f.metadata) for entry in entries):
        yield _out_of_range(key, value, f)


def _in_range(value, limits):
    if limits["choices"] is not None:
        return value in limits["choices"]
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (
        (limits["gt"] is None or value > limits["gt"])
        and (limits["ge"] is None or value >= limits["ge"])
        and (limits["lt"] is None or value < limits["lt"])
        and (limits["le"] is None or value <= limits["le"])
    )


def _out_of_range(key, value, f):
    return f"{key} must be {_expected(f.metadata) or 'a finite number'}; got {value!r} ({f.metadata['meaning']})."


def _expected(limits):
    if limits["choices"] is not None:
        return "one of " + ", ".join(limits["choices"])
    signs = (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
    return " and ".join(f"{sign} {_short(limits[name])}" for name, sign in signs if limits[name] is not None)


def _short(number):
    return str(number) if abs(number) < 10_000 else f"{number:.4g}"
