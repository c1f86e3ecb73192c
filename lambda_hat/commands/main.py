"""What the scripts in bin/ run: Hydra composes, we check, skip what is done, do the rest, and say what came out."""

import logging
import os
import signal
import sys
import textwrap
from functools import partial
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lambda_hat.config import KINDS, Resources, Runtime, Store, hydra_glue, launcher, messages, options, overrides
from lambda_hat.config.fields import explain
from lambda_hat.config.options import conf_directory
from lambda_hat.launch import combinations
from lambda_hat.system import stopping, terminal
from lambda_hat.system.errors import ConfigError, Stopped, UserError

CONF = conf_directory()


def main(stage: str) -> NoReturn:
    """Entry point of the commands that make targets (`target`) or runs (`run`)."""
    terminal.run(partial(_main, stage))


def _main(stage):
    if sys.argv[1:2] in (["--help"], ["-h"]) and len(sys.argv) < 4:
        print(help_of_group(sys.argv[2]) if sys.argv[2:] else _help())
        return
    logging.raiseExceptions = False  # work goes on where nobody reads its messages any more (`| head`)
    stopping.remember()
    hydra_glue.register()
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through, so that this function can word them

    def task(cfg):
        try:
            task_overrides = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
            words = [str(word) for word in task_overrides or ()]
            if sweep := HydraConfig.get().sweeper.get("params"):
                raise ConfigError(f"{' '.join(words)} is a sweep over {', '.join(sweep)}: run it with -m.")
            hydra_glue.name_choices(cfg, HydraConfig.get().runtime.choices)
            sys.exit(combinations.run_all(stage, [(partial(hydra_glue.to_config, cfg), words)], HydraConfig.get()))
        except UserError as error:  # here, since Hydra would print a line of its own before ours
            sys.exit(str(error))

    task.stage = stage
    try:
        flags, words = overrides.arranged(sys.argv[1:])
        if any(flag.startswith("query=") for flag in words) and "COMP_LINE" not in os.environ:
            sys.exit(
                "query=… is how a shell asks for completions, and sets COMP_LINE; install them with -sc install=bash."
            )
        overrides.check(words, more_options="-cd" in flags or "--config-dir" in flags)
        if "-m" in flags or "--multirun" in flags:
            words = overrides.as_sweep(words)
        sys.argv[1:] = [*flags, *words]
        hydra.main(version_base="1.3", config_path=str(conf_directory()), config_name="config")(task)()
    except Exception as error:
        if stopping.is_asked():
            _end_interrupted(signal.SIGINT)
        if full_error or not (isinstance(error, UserError) or messages.is_of_composition(error)):
            raise
        sys.exit(messages.of(error))
    except (KeyboardInterrupt, Stopped) as stop:
        _end_interrupted(getattr(stop, "signal", signal.SIGINT))


def _end_interrupted(number):
    try:
        stopping.tell(number)
        logging.shutdown()
        sys.stdout.flush()  # which fails where Ctrl-C has ended its reader too (`| tee`)
    finally:
        os._exit(128 + number)  # JAX's threads, in the middle of compiling, do not bear the interpreter's own end


def _help():
    """Hydra's own takes half a second to find the groups."""
    text = OmegaConf.load(conf_directory() / "hydra" / "help" / "plain.yaml")
    listed = [f"{group}: {', '.join(options.options(group))}" for group in options.groups()]
    lines = "\n".join([text.header, "Groups (group=option):", "", *listed, "", text.footer.rstrip()])
    for name in ("sample", "build_target"):
        lines = lines.replace(f"python bin/{name}.py", terminal.program(name))
    return lines


def help_of_group(group: str) -> str:
    """What a group's settings are: of every kind in it, with types, ranges and meanings.

    Arguments:
        group: such as `model`, `sampler`, `runtime`.
    """
    parts = {name: {name: cls} for name, cls in (("store", Store), ("runtime", Runtime), ("resources", Resources))}
    parts |= KINDS | {"hydra/launcher": launcher.KINDS}
    if group not in parts:
        sys.exit(messages.unknown_group(group, sorted(parts)))
    lines = [f"{group}: {', '.join(options.options(group))}"] if group in KINDS else []
    for kind, cls in parts[group].items():
        lines += ["", f"{kind}: {(cls.__doc__ or '').splitlines()[0]}"]
        for name, expected, meaning in explain(group.replace("/", "."), cls):
            lines += [f"  {name}", textwrap.indent(textwrap.fill(f"{meaning} ({expected})", 96), "      ")]
    return "\n".join(lines).strip()
