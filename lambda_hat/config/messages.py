"""Composition errors in one sentence: what, expected, got, what to do."""

import difflib
import re
import traceback
from dataclasses import fields, is_dataclass

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from lambda_hat.config.fields import describe_type, type_hints, wrong_type
from lambda_hat.system.errors import UserError

LOGARITHMIC = re.compile(r"log(\d{1,6})")
"""What stands for so many values of training.checkpoint in a sweep."""

_REWORDED = (  # Hydra's first lines, which have no type of their own, and what is shown in their place
    (r"Ambiguous value for argument '(.*)'", r"\1 has several values: add -m to run each, or write [a,b] for a list."),
    (r"Sweep parameters '(.*)' requires --multirun", r"\1 has several values: add -m to run each."),
    (r"Key '(.*)' not in 'Config'", r"\1: there is no such setting, or it was deleted with ~; leave the ~ out."),
    (r"Multiple values for (\S+)\. .*", r"\1 is there already: write \1=… without the +."),
    (r"Key '(.*)' is not in struct", r"{key}: there is no such setting; the YAML of its group lists what there is."),
    (r"Error resolving interpolation '\$\{(\w+)\}'.*", r"\1 is missing; name one option, and leave the ~ out."),
    (r".*Out of range float values are not JSON compliant", r"{key}: NaN and infinity cannot be hashed; give numbers."),
    (r"In '.*': Could not find '(.*)/(.*)'", r"\1=\2: there is no such option; ls conf/\1 lists what there is."),
    (r"Config group override must be a string or a list.*", "A group (model, data, …) cannot be null; name an option."),
)


def of(error):
    """The sentence (or sentences, a line each) that the terminal shows for an error of ours, Hydra's or OmegaConf's."""
    if isinstance(error, OverrideParseException) or "mismatched input" in str(error) or "Lexer" in str(error):
        return _unreadable(getattr(error, "override", None) or "")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = [name for name in error.options if not name.startswith("_")]
        return unknown_option(group, option, options)
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ConfigCompositionException) and (sentence := _of_option(error)):
        return sentence
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    kind = getattr(cause, "object_type", None)
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and is_dataclass(kind) and cause is not error:
        return unknown(cause.full_key, [f.name for f in fields(kind)])
    return _by_type(cause) or _reworded(cause)


def _of_option(error):
    """The sentence where an option sets what the option chosen for another group has no setting for; else None."""
    option = re.match(r"In '(\w+)/(\w+)': ", str(error))
    missing = re.search(r"Key '\w+' not in '(\w+)'\s+full_key: ((\w+)\.[\w.]+)", str(error))
    if not option or not missing:
        return None
    (group, name), (kind, key, other) = option.groups(), missing.groups()
    plain = " (digits_plain sets no sizes)" if name == "digits" else ""
    return (
        f"{group}={name} sets {key}, which this {other} ({kind}) does not have: choose another {group}{plain} or another "
        f"{other}."
    )


def _by_type(error):
    """The sentence for an error of OmegaConf's whose class and attributes say what is wrong; None for others."""
    key, index, _ = str(getattr(error, "full_key", None) or "").partition("[")
    match error:
        case _ if not key:
            return None
        case MissingMandatoryValue():
            return f"{key} is missing; give it a value."
        case InterpolationKeyError():
            return f"{key} refers to a setting that does not exist."
        case InterpolationResolutionError() if str(error).startswith("Recursive interpolation"):
            return f"{key} refers to itself; give it a value."
        case ValidationError() if is_dataclass(error.object_type):
            if error.value is None:
                return f"{key} must not be null; give it a value, or leave it out."
            if key == "training.checkpoint" and LOGARITHMIC.fullmatch(str(error.value)):
                return f"{key}={error.value} stands for several steps: add -m to run each."
            return wrong_type(key, error.value, type_hints(error.object_type)[key.rpartition(".")[2]])
        case ValidationError() if index:
            return f"{key} must be {describe_type(error.ref_type)}; one of its entries is {error.value}."
        case ConfigTypeError() if is_dataclass(error.object_type):
            return f"{key} cannot be deleted; set it to another value instead."
        case ConfigTypeError():
            return f"{key} must be {describe_type(error.ref_type)}."
    return None


def _unreadable(word):
    """The sentence for an override that Hydra's grammar refuses."""
    key, equals, value = word.partition("=")
    if (
        re.fullmatch(r"[+~]*[\w./@-]+", key)
        and equals
        and not value.startswith("=")
        and value.strip("'\" ")
        and not re.search("[][{}()$'\"]", value)
    ):
        return f"{word!r}: a value with such letters needs quotes, inside the shell's: '{key}=\"{value}\"'."
    return f"{word!r} is not a setting: write key=value, or group=option, with no space around the =."


def unknown_group(group, groups):
    """The sentence for a group that does not exist."""
    return f"{group}: there is no such group; expected one of {', '.join(groups)}.{_near(group, groups)}"


def unknown_option(group, option, options):
    """The sentence for an option that a group does not have."""
    return f"{group}={option}: there is no such option; expected one of {', '.join(options)}.{_near(option, options)}"


def unknown(key, siblings):
    """The sentence for a setting that does not exist beside those that do."""
    if str(key) == "training.checkpoint":
        return (
            "training.checkpoint has no use with training=given or teacher, which take no steps of training; leave it out, or "
            "use training=adam, adamw or sgd."
        )
    group, dot, name = str(key).rpartition(".")
    close = difflib.get_close_matches(name, siblings, 1)
    near = f" Did you mean {group}{dot}{close[0]}?" if close else ""
    return f"{key}: there is no such setting; expected one of {', '.join(siblings)}.{near}"


def is_of_composition(error):
    """Whether Hydra or OmegaConf raised this, of whatever type: it is about the command line, or a file in conf/."""
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    module = frames[-1][0].f_globals.get("__name__", "") if frames else ""
    return module.split(".")[0] in ("hydra", "omegaconf", "antlr4", "yaml")


def _reworded(error):
    key = getattr(error, "full_key", None)
    text = (getattr(error, "msg", None) or str(error) or type(error).__name__).strip().splitlines()[0].strip()
    text = re.sub(r"^While dereferencing interpolation '.*': ", "", text)
    for pattern, words in _REWORDED:
        if match := re.fullmatch(pattern, text):
            return match.expand(words.replace("{key}", str(key or "A setting")))
    if isinstance(error, HydraException):  # its second line says what to do
        lines = [line.strip() for line in str(error).splitlines()[:2]]
        text = " ".join(line for line in lines if line and "search path:" not in line)
    text = text if text.endswith("?") else text.removesuffix(".") + "."
    return f"{key}: {text}" if key and key not in text else text


def _near(word, options):
    close = difflib.get_close_matches(word, options, 1)
    return f" Did you mean {close[0]}?" if close else ""
