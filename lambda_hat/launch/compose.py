"""Composing a sweep: Hydra once for each choice of groups, single settings set on copies of that.

Hydra reads and merges every file anew for each combination, which takes it a tenth of a second; making dataclasses of what it has
merged takes a hundredth, so each is made once for all combinations that say the same of it.
"""

import pickle
from functools import cache
from typing import Any, NamedTuple, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from lambda_hat.config import Config, hydra_private
from lambda_hat.config.hydra_glue import name_choices, to_config


class _Chosen(NamedTuple):
    """What a choice of groups composes.

    Attributes:
        pickled: the configuration; a copy is made of it in a seventh of the time that a deep copy takes.
        independent: names of the settings that depend on no other: those without an interpolation.
    """

    pickled: bytes
    independent: frozenset[str]


class Composer:
    """Compositions of one sweep.

    Arguments:
        loader: Hydra's config loader.
        master: the sweep's own composed configuration.
    """

    def __init__(self, loader, master):
        self._loader, self._master, self._chosen, self._made = loader, master, {}, {}
        parse = OverridesParser.create().parse_overrides
        self._parsed = cache(lambda word: parse([word])[0])
        self._is_group = cache(loader.repository.group_exists)

    def __call__(self, words) -> Config:
        """What these overrides compose, the options chosen noted in `names`.

        Raises:
            HydraException, OmegaConfBaseException: as Hydra does.
            ConfigError: as `to_config` does.
        """
        overrides = [self._parsed(word) for word in words]
        single = [each for each in overrides if each.package is None and not self._is_group(each.key_or_group)]
        choices = tuple(each.input_line for each in overrides if each not in single)
        if choices not in self._chosen:
            self._chosen[choices] = self._choose(choices)
        chosen = self._chosen[choices]
        config = pickle.loads(chosen.pickled)
        hydra_private.apply_overrides(single, config)
        lines = {name: [] for name in chosen.independent}
        for override in single:
            if (name := override.key_or_group.partition(".")[0]) in lines:
                lines[name].append(override.input_line)
        keys = {name: (choices, name, *each) for name, each in lines.items() if "${" not in str(each)}
        made = to_config(config, {name: self._made[key] for name, key in keys.items() if key in self._made})
        self._made |= {key: getattr(made, name) for name, key in keys.items()}
        return made

    def _choose(self, choices):
        config = self._loader.load_sweep_config(self._master, list(choices))
        name_choices(config, config.hydra.runtime.choices)
        with open_dict(config):
            del config["hydra"]
        texts = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
        independent = frozenset(name for name, values in texts.items() if "${" not in repr(values))
        return _Chosen(pickle.dumps(config), independent)
