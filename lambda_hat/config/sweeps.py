"""The combinations of a sweep: counted before there are any, so that a slip of the pen does not fill the memory."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep

from lambda_hat.config import messages
from lambda_hat.config.messages import LOGARITHMIC
from lambda_hat.config.overrides import key_of
from lambda_hat.system.errors import ConfigError


def combinations(
    words: list[str], params: Mapping[Any, Any] | None, loader, most: int, compose: Callable[[list[str]], Any]
) -> list[list[str]]:
    """The Cartesian product of a sweep's overrides, the last one varying fastest.

    Arguments:
        words: overrides of the command line.
        params: a sweep that an experiment brings along; what the command line names goes before it.
        loader: Hydra's config loader, which knows the options that glob(…) stands for.
        most: combinations that are refused if exceeded.
        compose: from a combination's overrides to its configuration.

    Raises:
        ConfigError: where there are more, or a sweep cannot be enumerated.
        HydraException: for a word that is no override.
    """
    named = {key_of(word) for word in words}
    words = [f"{key}={value}" for key, value in (params or {}).items() if key not in named] + words
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(words)
    counts = {override.get_key_element(): _count(override) for override in overrides}
    if (total := math.prod(counts.values())) > most:
        factors = " × ".join(f"{count} of {key}" for key, count in counts.items() if count > 1)
        raise ConfigError(
            f"The sweep has {total} combinations ({factors}), more than hydra.sweeper.max_combinations={most}: make it "
            "smaller, or raise that."
        )
    product = [list(combination) for combination in itertools.product(*map(_values, overrides))]
    found = [each for words in product for each in expanded(words, compose)]
    if len(found) > most:
        raise ConfigError(
            f"The sweep has {len(found)} combinations with all checkpoints, more than hydra.sweeper.max_combinations={most}: make "
            "it smaller, or raise that."
        )
    return found


def checkpoints(count: int, steps: int) -> list[int]:
    """0 and count − 1 different steps of training from 1 to the last one, as evenly spaced in the logarithm as they can be.

    All of them where there are no more than that.
    """
    if count > steps:
        return list(range(steps + 1))
    found = [0]
    for i in range(count - 2):
        found.append(max(found[-1] + 1, round(steps ** (i / (count - 2)))))
    return [*found, steps]


def expanded(words: list[str], compose: Callable[[list[str]], Any]) -> list[list[str]]:
    """A combination, or where its training.checkpoint is such as log20, the combinations that this stands for.

    Arguments:
        words: its overrides.
        compose: from overrides to the configuration, for how many steps training has.

    Raises:
        ConfigError: for fewer than two checkpoints.
    """
    values = {word: match for word in words if key_of(word) == CHECKPOINT and (match := _logarithmic(word))}
    if not values:
        return [words]
    (word, match), rest = next(iter(values.items())), [word for word in words if word not in values]
    if int(match[1]) < 2:
        raise ConfigError(f"{word}: a logarithm is spaced from two checkpoints on; take log20, or name the steps.")
    try:
        steps = getattr(compose(rest).training, "steps", None)
    except Exception as error:
        if not (isinstance(error, ConfigError) or messages.is_of_composition(error)):
            raise
        steps = None
    if type(steps) is not int or steps < 0:  # which checking the combination says
        return [[*rest, f"{CHECKPOINT}=0"]]
    return [[*rest, f"{CHECKPOINT}={step}"] for step in checkpoints(int(match[1]), steps)]


CHECKPOINT = "training.checkpoint"


def _logarithmic(word):
    return LOGARITHMIC.fullmatch(word.partition("=")[2].strip())


def _count(override: Override) -> int:
    if not override.is_sweep_override():
        return 1
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{override.input_line}: an interval has no values to run through; name some, or write range(…)."
        )
    value = override.value()
    if isinstance(value, RangeSweep) and value.start is not None and value.stop is not None:
        return max(0, math.ceil((value.stop - value.start) / value.step))
    return sum(1 for _ in override.sweep_iterator())


def _values(override: Override) -> list[str]:
    key = override.get_key_element()
    if override.is_sweep_override():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    return [f"{key}={override.get_value_element_as_str()}"]
