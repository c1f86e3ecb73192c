"""Tab completion of the study's commands, through the hook that Hydra installs for `python`: it asks `<script> -sc query=bash`."""

import os

from lambda_hat.inspect import choose
from lambda_hat.inspect import rows as looking
from lambda_hat.inspect.row import STATES, show
from lambda_hat.system.errors import UserError

ASKED = ["-sc", "query=bash"]
"""Arguments with which the hook asks; the command line so far is in the environment."""


def print_choices(parser, root):
    """Print the words that may stand where the cursor is.

    Arguments:
        parser: the command's `argparse.ArgumentParser`.
        root: where filters find settings and their values.
    """
    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "10000"))]
    word = line.rpartition(" ")[2]
    print(" ".join(choice for choice in _choices(parser, root, word) if choice.startswith(word)))


def _choices(parser, root, word):
    for action in parser._actions:
        yield from action.option_strings
        yield from action.choices or () if not action.option_strings else ()
    try:
        rows = looking.scan(root)
    except UserError:  # no root yet: nothing to filter
        return
    key, equals, _ = word.partition("=")
    if equals:
        yield from (f"{key}={value}" for value in _values(rows, key))
    else:
        yield from (f"{name}=" for name in ("status", *choose.ALIASES, *choose.keys_of(rows)))


def _values(rows, key):
    if key == "status":
        return [*STATES, "ok", "warn", "bad"]
    try:
        name = choose.resolve(key, choose.keys_of(rows))
    except UserError:
        return []
    return dict.fromkeys(show(value) for row in rows for value in row.values(name) if value is not None)
