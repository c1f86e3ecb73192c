"""Overrides as they are typed: put in the order that Hydra takes, and what must not be said refused, before Hydra composes."""

import os
import re

import yaml

from lambda_hat.config.messages import LOGARITHMIC
from lambda_hat.config.options import conf_directory, options
from lambda_hat.system.errors import ConfigError

TAKE_A_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
TAKE_A_VALUE += ("--experimental-rerun",)
"""Hydra's flags that the next argument belongs to."""

INFORMATION = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
"""What may follow --info, or not."""

OWN_DIRECTORY = {
    "hydra.run": None,
    "hydra.sweep": None,
    "hydra.output_subdir": None,
    "hydra.job.chdir": None,
    "hydra.callbacks": None,
    "hydra/callbacks": None,
    "hydra/output": None,
    "hydra/sweeper": ("local",),
    "hydra/job_logging": ("plain", "none", "disabled", "stdout"),
    "hydra/hydra_logging": ("plain", "none", "disabled"),
}
"""Settings of Hydra's that write files into the working directory, and the values that do not."""


def arranged(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The flags of a command line with their values, and its overrides: Hydra's parser wants them in this order."""
    flags, words = [], []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            words += rest
        elif not re.match(r"-+[a-z]", argument):
            words.append(argument)
        else:
            flags.append(argument)
            if argument in TAKE_A_VALUE:
                flags += [value] if (value := next(rest, None)) is not None else []
            elif argument in ("--info", "-i"):
                following = next(rest, None)
                (flags if following in INFORMATION else words).extend([] if following is None else [following])
    return flags, [_with_home(word) for word in words]


def key_of(word: str) -> str:
    """The setting or group that an override names, without + and ~."""
    return word.lstrip("+~").partition("=")[0].strip()


def as_sweep(words: list[str]) -> list[str]:
    """Overrides of a sweep, in which a word that stands for several values is a choice of them also where it is alone.

    Hydra composes what is no choice before anything is known of the others.
    """
    alone = re.compile(rf"training\.checkpoint=({LOGARITHMIC.pattern})")
    return [alone.sub(r"training.checkpoint=choice(\1)", word) if alone.fullmatch(word) else word for word in words]


def check(words: list[str], more_options: bool = False) -> None:
    """Refuse overrides that Hydra takes and does something else with than was meant.

    Arguments:
        more_options: whether options may come from other directories than conf/.

    Raises:
        ConfigError: for a setting that is given twice, an option that an optional group does not have, and a setting of
            Hydra's that would write into the working directory.
    """
    first = {}
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        if key in first:
            raise ConfigError(
                f"{key} is set twice, by {first[key]} and {word}: leave one of them out, or run each with -m {key}=a,b."
            )
        first[key] = word
        if (key, value) == ("hydra/launcher", "slurm"):
            raise ConfigError(
                "hydra/launcher=slurm: write hydra/launcher=submitit_slurm, which has the options of hydra-submitit-launcher: "
                "gpus_per_node for gpus, cpus_per_task for cpus, max_num_timeout for max_requeues, additional_parameters for "
                "additional, mail_user and mail_type, srun_args for run_with; --help hydra/launcher explains all."
            )
        _refuse_own_directory(key, value)
        if not more_options:
            _refuse_unknown_option(key, value)


def _with_home(word):
    """A path that begins with ~ means the user's home; the shell expands it only at a word's beginning."""
    key, equals, value = word.partition("=")
    quote = value[:1] if value[:1] in ("'", '"') else ""
    if equals and re.match(r"~[\w.-]*(/|$)", value[len(quote) :].removesuffix(quote) or " "):
        inner = os.path.expanduser(value[len(quote) :])
        return f"{key}={quote}{inner}"
    return word


def _refuse_own_directory(key, value):
    for name, harmless in OWN_DIRECTORY.items():
        if (key == name or key.startswith(f"{name}.")) and value not in (harmless or ()):
            expected = f"; it stays {harmless[0]}" if harmless else ""
            raise ConfigError(
                f"{key} cannot be set{expected}: nothing is written to the working directory. Results and logs go to "
                "store.root, in directories whose names follow from the settings."
            )


def _refuse_unknown_option(key, value):
    """An option that an optional group does not have: Hydra would leave the group out."""
    group = key.partition("@")[0]
    if group not in _optional_groups() or value == "null" or set(value) & set(",()[]${}'\""):
        return
    known = options(group)
    if value not in known:
        raise ConfigError(f"{group}={value}: there is no such option; expected one of {', '.join(known) or 'none'}.")


def _optional_groups():
    defaults = yaml.safe_load((conf_directory() / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    names = [name for entry in defaults if isinstance(entry, dict) for name in entry]
    return [name.removeprefix("optional ") for name in names if name.startswith("optional ")]
