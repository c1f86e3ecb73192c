"""conf/, the directory of values: where it is, and which options its groups have. A group's files are its options."""

from functools import cache
from pathlib import Path

HIDDEN_GROUPS = ("hydra", "common", "resources", "local")
"""Folders of conf/ that hold parts of other options, or nothing to choose from."""


@cache
def conf_directory() -> Path:
    """The directory that holds config.yaml: inside an installed package, at the top of a source tree."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def groups() -> list[str]:
    """The groups that a command line chooses options of, in alphabetical order."""
    return sorted(
        folder.name for folder in conf_directory().iterdir() if folder.is_dir() and folder.name not in HIDDEN_GROUPS
    )


def options(group: str) -> list[str]:
    """The options of a group such as `model` or `hydra/launcher`, in alphabetical order."""
    return sorted(path.stem for path in (conf_directory() / group).glob("*.yaml"))
