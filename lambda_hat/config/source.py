"""A user's source: which file, which callable in it, and what its signature says. Read as text; nothing is imported."""

import ast
import importlib.machinery
import importlib.util
import os
from functools import cache
from typing import Any, NamedTuple

from lambda_hat.store import given
from lambda_hat.system.errors import ConfigError

OURS = ("key", "rngs", "seed")
"""Parameters of a callable that are not options: a JAX key, Flax NNX's Rngs, the target's seed."""


class Source(NamedTuple):
    """A callable in a file.

    Attributes:
        path: the file, absolute.
        module: the module's name where it was named so; None for a file.
        name: the callable.
    """

    path: str
    module: str | None
    name: str


def locate(source: str) -> Source:
    """The file and the callable of `net.py:make`, or `package.net:make`.

    Raises:
        ConfigError: where it names no callable, or a module that is not found.
    """
    where, colon, name = source.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise ConfigError(
            f"model.source must be a file or a module and a callable in it, such as net.py:make; got {source}."
        )
    if where.endswith(".py") or "/" in where:
        return Source(os.path.abspath(where), None, name)
    return Source(_of_module(where, source), where, name)


@cache
def _of_module(module, source):
    """The file of a module; packages above it are looked through, not imported."""
    path: Any = None
    spec = None
    parts = module.split(".")
    for i in range(len(parts)):
        # the first by every finder, since that of an editable installation knows packages that are on no path
        find = importlib.machinery.PathFinder.find_spec if i else _of_package
        spec = find(".".join(parts[: i + 1]), path)
        path = spec.submodule_search_locations if spec is not None else None
        if spec is None or (path is None and i + 1 < len(parts)):
            break
    if spec is None or spec.name != module or not spec.origin or not spec.origin.endswith(".py"):
        raise ConfigError(
            f"model.source={source}: there is no module {module} on Python's path; name a file net.py:make."
        )
    return os.path.abspath(spec.origin)


def _of_package(name, path):
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # a module that does not say where it is from, such as __main__
        return None


def typed(source: Source, options: dict[str, Any]) -> dict[str, Any]:
    """Options as the callable's signature types them, so that 1 and 1.0 for a float have one name.

    A parameter annotated int, float, bool or str says its type, else a default of these types does. What has neither, and the
    options of a callable that the file does not define itself, are taken as they are written.

    Raises:
        ConfigError: for an option that the callable does not have or that is not of its type, and one that is missing.
    """
    parameters = _parameters(given.text(source.path, "model.source"), source)
    if parameters is None:
        return options
    known, takes_all = parameters
    names = [name for name in known if name not in OURS]
    for name in options:
        if name in OURS or (name not in known and not takes_all):
            raise ConfigError(
                f"model.options: {source.name} has no option {name}; it takes {', '.join(names) or 'none'}."
            )
    for name in names:
        if known[name].is_required and name not in options:
            raise ConfigError(f"model.options: {source.name} needs {name}; add 'model.options={{{name}: …}}'.")
    return {
        name: _cast(name, value, known[name].type, source) if name in known else value
        for name, value in options.items()
    }


class _Parameter(NamedTuple):
    type: str | None
    is_required: bool


_TYPES = {"int": int, "float": float, "bool": bool, "str": str}


def _parameters(text, source):
    """The callable's parameters by name, and whether it takes any others; None where the text does not define it."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ConfigError(f"model.source={source.path} is not Python{line}: {getattr(error, 'msg', error)}.") from error
    for node in tree.body:
        if getattr(node, "name", None) != source.name:
            continue
        if isinstance(node, ast.FunctionDef):
            return _of_function(node.args, skip=0)
        if isinstance(node, ast.ClassDef):
            inits = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
            if inits:
                return _of_function(inits[0].args, skip=1)
            return {
                each.target.id: _Parameter(_type(each.annotation, each.value), each.value is None)
                for each in node.body
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
            }, True
    return None


def _of_function(args, skip):
    positional = [*args.posonlyargs, *args.args][skip:]
    lacking = len(positional) - len(args.defaults)
    defaults = [None] * max(lacking, 0) + args.defaults[max(-lacking, 0) :]
    found = {
        arg.arg: _Parameter(_type(arg.annotation, default), default is None)
        for arg, default in [
            *zip(positional, defaults, strict=True),
            *zip(args.kwonlyargs, args.kw_defaults, strict=True),
        ]
    }
    return found, args.kwarg is not None


def _type(annotation, default):
    name = annotation.id if isinstance(annotation, ast.Name) else getattr(annotation, "value", None)
    if name in _TYPES:
        return name
    value = default.value if annotation is None and isinstance(default, ast.Constant) else None
    return type(value).__name__ if type(value).__name__ in _TYPES else None


def _cast(name, value, kind, source):
    if kind is None or type(value) is _TYPES[kind]:
        return value
    if kind == "float" and type(value) is int:
        return float(value)
    if kind == "int" and type(value) is float and value.is_integer():
        return int(value)
    raise ConfigError(
        f"model.options.{name} must be of type {kind}, as {source.name} says; got {value!r} of {type(value).__name__}."
    )
