"""The combinations of a sweep: counted before there are any, so that a slip of the pen does not fill the memory."""

import itertools
import math

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep

from lambda_hat.config.overrides import key_of
from lambda_hat.system.errors import ConfigError


def combinations(words: list[str], params: dict[str, str] | None, loader, most: int) -> list[list[str]]:
    """The Cartesian product of a sweep's overrides, the last one varying fastest.

    Arguments:
        words: overrides of the command line.
        params: a sweep that an experiment brings along; what the command line names goes before it.
        loader: Hydra's config loader, which knows the options that glob(…) stands for.
        most: combinations that are refused if exceeded.

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
    return [list(combination) for combination in itertools.product(*map(_values, overrides))]


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
