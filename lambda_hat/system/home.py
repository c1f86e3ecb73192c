"""A home directory for libraries that keep files there, on machines that have none that can be written."""

import atexit
import logging
import os
import shutil
import tempfile

log = logging.getLogger(__name__)


def settle():
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
