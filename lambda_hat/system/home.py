"""A home directory for libraries that keep files there, on machines that have none that can be written."""

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


@contextmanager
def lent() -> Iterator[None]:
    """HOME within this block: a temporary directory where the user's own cannot be written; as it was afterwards.

    For a caller's own process, in which ArviZ is to be imported.
    """
    home = os.environ.get("HOME")
    settle()
    try:
        yield
    finally:
        if os.environ.get("HOME") != home:
            os.environ.pop("HOME")
            os.environ.update({} if home is None else {"HOME": home})


def settle() -> None:
    """Let HOME be a temporary directory where the user's own cannot be written: there ArviZ cannot be imported.

    Called before work begins; what is configured has been read by then.
    """
    home = os.path.expanduser("~")
    if os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK):
        return
    temporary = tempfile.mkdtemp(prefix="lambda_hat_home_")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    os.environ["HOME"] = temporary
    log.info("  HOME=%s cannot be written: what libraries keep there goes to %s for now", home, temporary)
