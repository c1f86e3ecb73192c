"""Where a result came from: code, packages, host. Recorded beside it, never hashed into its name."""

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("jax", "jaxlib", "blackjax", "optax", "numpy", "scipy", "arviz", "xarray", "hydra-core")

COMMIT = "COMMIT"
"""File beside this one that says which commit a copy was made of."""


def summary():
    """Everything that is recorded beside a run."""
    return {
        "code_sha": code_sha(),
        "pkg_versions": versions(),
        "python": platform.python_version(),
        "hostname": platform.node(),
    }


def code_sha():
    """Commit of the source tree, with `+dirty` where it is modified; None outside a git checkout."""
    here = Path(__file__).parent.parent
    if (here / COMMIT).exists():
        return (here / COMMIT).read_text().strip()
    try:
        sha = _git(here, "rev-parse", "HEAD")
        return sha + ("+dirty" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def source_hash():
    """Hash of this package's source: what results depend on, committed or not."""
    total = hashlib.sha256()
    here = Path(__file__).parent.parent
    for path in sorted(here.rglob("*.py")):
        total.update(f"{path.relative_to(here).as_posix()}\n".encode() + path.read_bytes())
    return total.hexdigest()


def _git(directory, *words):
    return subprocess.run(
        ["git", "-C", str(directory), *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def versions():
    """Installed versions of the packages that numbers depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
