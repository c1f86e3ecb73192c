"""Composition errors in one sentence: what, expected, got, what to do."""

import difflib
import re

from hydra.errors import MissingConfigException
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from lambda_hat.hydra_glue import one_sentence


def of(error):
    """The sentence (or sentences, a line each) that the terminal shows for an error of ours, Hydra's or OmegaConf's."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if error.options and group:
            options = [name for name in error.options if not name.startswith("_")]
            return f"{group}={option}: there is no such option; expected one of {', '.join(options)}.{_near(option, options)}"
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for cause in reversed(chain):
        if isinstance(cause, ConfigKeyError):
            siblings = (
                list(cause.parent_node.keys())
                if cause.parent_node is not None and hasattr(cause.parent_node, "keys")
                else []
            )
            name = str(cause.key)
            return f"{cause.full_key or name}: there is no such setting{_listed(siblings)}.{_near(name, siblings)}"
        if isinstance(cause, (ValidationError, OmegaConfBaseException)):
            return one_sentence(cause) + "."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"\s+", " ", " ".join(lines[:2])) if type(error).__module__.startswith("hydra") else str(error)


def _near(word, options):
    close = difflib.get_close_matches(word, options, 1)
    return f" Did you mean {close[0]}?" if close else ""


def _listed(names):
    return f" (there are {', '.join(map(str, names))})" if names else ""
