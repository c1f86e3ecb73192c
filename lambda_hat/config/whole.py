"""The whole configuration: one target and one sampler on it."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from lambda_hat.config.data import Data
from lambda_hat.config.fields import kinds, problems_of_fields, problems_of_setting, setting
from lambda_hat.config.model import Model
from lambda_hat.config.posterior import Posterior
from lambda_hat.config.runtime import Logger, Names, Resources, Runtime, Store
from lambda_hat.config.sampler import Drawing
from lambda_hat.config.training import Training
from lambda_hat.system.errors import ConfigError


@dataclass(frozen=True)
class Config:
    """One target and one sampler on it."""

    model: Any = setting("the parametric family")
    data: Any = setting("the data set")
    training: Any = setting("where w0 comes from")
    posterior: Any = setting("the tempered local posterior")
    sampler: Any = setting("the sampling algorithm")
    seed: int = setting("seed of the target: data, teacher, initialisation and training", ge=0, lt=2**63)
    target: str | None = setting("id of an existing target to sample, in place of model, data, training and seed")
    force: bool = setting("redo what exists; what is replaced is moved to <root>/replaced/")
    strict: bool = setting("exit with an error where a result's status is bad")
    names: Names = setting("what the catalog calls the model and the data")
    store: Store = setting("where artifacts land")
    runtime: Runtime = setting("how the work is done")
    resources: Resources = setting("what a cluster is asked for")
    logger: Any = setting("an experiment logger that is told how a run goes; null = none; never hashed")


KINDS = {
    "model": kinds(Model),
    "data": kinds(Data),
    "training": kinds(Training),
    "posterior": {"posterior": Posterior},
    "sampler": kinds(Drawing),
    "logger": kinds(Logger),
}
"""Which class a group's `kind` (of a sampler or logger: `name`) stands for."""

HASHED = ("model", "data", "training", "posterior", "sampler")
"""The groups that make a target's and a run's name."""


def problems(config: Config) -> list[str]:
    """All reasons why a configuration cannot be run, a sentence each, naming the key; empty if there are none."""
    return list(problems_of_fields("", config)) or [
        problem for group in HASHED for problem in getattr(config, group).problems(config)
    ]


def check(config: Config) -> None:
    """Refuse a configuration that cannot be run.

    Raises:
        ConfigError: with one sentence a line, each naming its key.
    """
    if found := problems(config):
        raise ConfigError("\n".join(found))


def range_problems(settings: dict[str, Any]) -> Iterator[str]:
    """Values of the wrong type or out of range, whatever the others are: a sentence each.

    Arguments:
        settings: any of `Config`'s fields by name, or dataclasses made of `setting`s by any name.
    """
    known = {f.name: f for f in fields(Config)}
    for name, value in settings.items():
        if is_dataclass(value):
            yield from problems_of_fields(name, value)
        else:
            yield from problems_of_setting(name, value, Config, known[name])
