"""Tab completion of the commands that look at a store, by the hook that Hydra installs for `python`: `<script> -sc query=bash`."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from lambda_hat.inspect import filters
from lambda_hat.inspect.formats import setting
from lambda_hat.inspect.scan import scan
from lambda_hat.system.errors import UserError
from lambda_hat.system.terminal import printable

QUERY = ["-sc", "query=bash"]
"""Arguments with which the hook asks; the command line so far is in the environment."""


def print_choices(parser: argparse.ArgumentParser, root: Path) -> None:
    """Print the words that may stand where the cursor is.

    Arguments:
        root: where filters find settings and their values.
    """
    line = os.environ.get("COMP_LINE", "")
    point = os.environ.get("COMP_POINT", "")
    word = line[: int(point) if point.isdecimal() else None].rpartition(" ")[2]
    print(" ".join(printable(choice) for choice in _choices(parser, root, word) if choice.startswith(word)))


def _choices(parser, root, word) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        yield from action.choices or () if not action.option_strings else ()
    try:
        records = scan(root)
    except UserError:  # no root yet: nothing to filter
        return
    key, equals, _ = word.partition("=")
    if equals:
        yield from (f"{key}={value}" for value in _values(records, key))
    else:
        yield from (f"{name}=" for name in ("status", *filters.ALIASES, *filters.setting_names(records)))


def _values(records, key):
    if key == "status":
        return filters.STATUSES
    try:
        name = filters.resolve(key, filters.setting_names(records))
    except UserError:
        return []
    return dict.fromkeys(setting(value) for record in records for value in record.values(name) if value is not None)
