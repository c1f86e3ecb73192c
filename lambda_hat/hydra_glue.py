"""What Hydra needs to know of us: the schemas behind conf/, and the resolvers that conf/config.yaml uses.

Below this module and store.py there are dataclasses only, no OmegaConf object.
"""

from dataclasses import fields
from datetime import datetime

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lambda_hat import store
from lambda_hat.config import KINDS, Config
from lambda_hat.errors import ConfigError

STARTED = datetime.now()
"""When this command began, the same for every combination of a sweep."""


def register():
    """Make schemas and resolvers known; safe to call twice."""
    schemas = ConfigStore.instance()
    schemas.store(group="schema", name="root", node=_schema(Config), package="_global_")
    for group, kinds in KINDS.items():
        for kind, cls in kinds.items():
            schemas.store(group=f"schema/{group}", name=kind, node=_schema(cls))
    OmegaConf.register_new_resolver("digest", _digest, replace=True)
    OmegaConf.register_new_resolver(
        "first", lambda *values: next((v for v in values if v is not None), None), replace=True
    )
    OmegaConf.register_new_resolver("clock", STARTED.strftime, replace=True)


def to_config(cfg):
    """The composed Hydra configuration as one `Config` of dataclasses.

    Raises:
        ConfigError: for a value that is missing or cannot be resolved.
    """
    try:
        groups = {
            f.name: OmegaConf.to_object(cfg[f.name]) if isinstance(cfg[f.name], DictConfig) else cfg[f.name]
            for f in fields(Config)
        }
    except OmegaConfBaseException as error:
        raise ConfigError(one_sentence(error)) from error
    return Config(**groups)


def group_from_plain(group, plain):
    """A group's dataclass from the plain dictionary of a stored config.yaml, typed by its schema.

    Raises:
        ConfigError: for an unknown kind or key, a wrong type or a missing value.
    """
    kinds = KINDS[group]
    kind = group if group in kinds else plain.get("name" if group == "sampler" else "kind")
    if kind not in kinds:
        raise ConfigError(f"{group}: unknown kind {kind!r}; expected one of {', '.join(kinds)}.")
    try:
        return OmegaConf.to_object(OmegaConf.merge(_schema(kinds[kind]), plain))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{group}: {one_sentence(error)}") from error


def one_sentence(error):
    """An OmegaConf or Hydra error without its multi-line appendix, naming the key."""
    key = getattr(error, "full_key", None)
    text = (getattr(error, "msg", None) or str(error)).strip().splitlines()[0]
    return f"{key}: {text}" if key and key not in text else text


def _schema(cls):
    node = OmegaConf.structured(cls)
    OmegaConf.set_readonly(node, None)  # frozen dataclasses come read-only, and Hydra still has to merge into them
    for child in node._content.values() if isinstance(node, DictConfig) else ():
        if isinstance(child, DictConfig):
            OmegaConf.set_readonly(child, None)
    return node


def _digest(stage, *nodes):
    return store.digest(
        stage,
        [
            OmegaConf.to_container(n, resolve=True, throw_on_missing=True) if OmegaConf.is_config(n) else n
            for n in nodes
        ],
    )
