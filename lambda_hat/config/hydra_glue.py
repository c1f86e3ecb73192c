"""What Hydra needs to know of us: the schemas behind conf/, and the resolvers that conf/config.yaml uses.

Below this module and store.py there are dataclasses only, no OmegaConf object.
"""

import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lambda_hat import store
from lambda_hat.config import KINDS, Config, hydra_private, launcher, messages, range_problems
from lambda_hat.config.fields import type_hints
from lambda_hat.config.options import conf_directory
from lambda_hat.system.errors import ConfigError

STARTED = datetime.now()
"""When this command began, the same for every combination of a sweep."""


def register():
    """Make schemas and resolvers known; safe to call twice."""
    schemas = ConfigStore.instance()
    schemas.store(group="schema", name="root", node=_schema(Config), package="_global_")
    for group, kinds in KINDS.items():
        for kind, cls in kinds.items():
            schemas.store(group=f"schema/{group}", name=kind, node=_schema(cls))
    launcher.register()
    OmegaConf.register_new_resolver("digest", _digest, replace=True)
    OmegaConf.register_new_resolver(
        "first", lambda *values: next((v for v in values if v is not None), None), replace=True
    )
    OmegaConf.register_new_resolver("command", lambda: Path(sys.argv[0]).stem, replace=True)
    OmegaConf.register_new_resolver("clock", STARTED.strftime, replace=True)


def composed(*words):
    """What a command line of these overrides composes, in a process that may be another Hydra application's."""
    register()
    callers = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_directory()), version_base="1.3"):
            return hydra.compose("config", list(words))
    finally:
        GlobalHydra.instance().hydra = callers  # Hydra replaces the instance


def name_choices(cfg, choices):
    """Note in a composed configuration which options of its groups were chosen, where it does not name them otherwise.

    Arguments:
        choices: Hydra's `runtime.choices`, option by group.
    """
    names = cfg.get("names")
    for group in names or ():
        if group in choices and not OmegaConf.is_missing(names, group) and names[group] is None:
            names[group] = choices[group]


def to_config(cfg, known: Mapping[str, Any] = MappingProxyType({})):
    """The composed Hydra configuration as one `Config` of dataclasses.

    Arguments:
        cfg: it; the interpolations of its `store` are replaced by what they stand for.
        known: settings that this function has made before of the same values, by name.

    Raises:
        ConfigError: for a setting that is unknown or missing, or cannot be resolved, or whose range is left.
    """
    _refuse_unknown_in("", cfg, [f.name for f in fields(Config)], ignored={"hydra", *known})  # which `+key=value` opens
    settings, made = dict(known), OmegaConf.get_cache(cfg)["digest"]
    try:
        for name in sorted((f.name for f in fields(Config)), key=lambda name: name == "store"):
            if name == "store":  # whose ids are hashed from the others
                fresh = {name: value for name, value in settings.items() if name not in known}
                if found := list(range_problems(fresh)):
                    raise ConfigError("\n".join(found))
                made |= {id(cfg[name]): value for name, value in settings.items()}
            if OmegaConf.is_missing(cfg, name):
                raise ConfigError(f"{name} is missing; set it on the command line, or do not delete it there.")
            if name not in known:
                value = cfg[name]
                if name == "store":
                    _settle(value)
                settings[name] = OmegaConf.to_object(value) if isinstance(value, DictConfig) else value
    except OmegaConfBaseException as error:
        raise ConfigError(messages.of(error)) from error
    finally:
        made.clear()
    return Config(**settings)


def _settle(node):
    """Put in the place of interpolations what they stand for, so that those which name others are resolved once."""
    for key in node:
        if OmegaConf.is_interpolation(node, key) and "${" not in str(value := node[key]):
            node[key] = value


def _refuse_unknown_in(prefix, node, known, ignored=()):
    for key in sorted(set(node).difference(ignored)):
        if key not in known:
            raise ConfigError(messages.unknown(f"{prefix}{key}", known))
        if not (OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key)):
            child = node[key]
            cls = OmegaConf.get_type(child) if isinstance(child, DictConfig) else None
            if cls is not None and is_dataclass(cls):
                _refuse_unknown_in(f"{prefix}{key}.", child, [f.name for f in fields(cls)])


def group_from_plain(group, plain):
    """A group's dataclass from the plain dictionary of a stored config.yaml, typed by its schema.

    Raises:
        ConfigError: for an unknown kind or key, a wrong type or a missing value.
    """
    kinds = KINDS[group]
    kind = group if group in kinds else plain.get("name" if group in ("sampler", "logger") else "kind")
    if kind not in kinds:
        raise ConfigError(f"{group}: unknown kind {kind!r}; expected one of {', '.join(kinds)}.")
    hints = type_hints(kinds[kind])  # what is not in a name: paths, and null, which later settings are in older names
    absent = {
        f.name: None for f in fields(kinds[kind]) if not f.metadata["hashed"] or type(None) in get_args(hints[f.name])
    }
    try:
        return OmegaConf.to_object(OmegaConf.merge(_schema(kinds[kind]), absent | plain))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{group}: {messages.of(error)}") from error


def config_from_plain(plain):
    """The `Config` that was kept as plain dictionaries.

    Raises:
        ConfigError: where it is not one that this version of lambda_hat can read.
    """
    settings = {}
    for f in fields(Config):
        if f.name not in plain:
            raise ConfigError(f"{f.name} is missing in the kept configuration: another version of lambda_hat wrote it.")
        value = plain[f.name]
        if f.name in KINDS and value is not None:
            value = group_from_plain(f.name, value)
        elif is_dataclass(f.type):
            try:
                value = OmegaConf.to_object(OmegaConf.merge(_schema(f.type), value))
            except OmegaConfBaseException as error:
                raise ConfigError(f"{f.name}: {messages.of(error)}") from error
        settings[f.name] = value
    return Config(**settings)


def _schema(cls):
    """A dataclass as Hydra merges values into it: frozen ones come read-only, and those in them too."""
    node = OmegaConf.structured(cls)
    for part in (node, *hydra_private.nodes(node)):
        if isinstance(part, DictConfig):
            OmegaConf.set_readonly(part, None)
    return node


def _digest(stage, *nodes, _root_):
    made = OmegaConf.get_cache(_root_)["digest"]  # what `to_config` has made of a node already
    return store.digest(
        stage,
        [made.get(id(node)) or OmegaConf.to_object(node) if OmegaConf.is_config(node) else node for node in nodes],
    )
