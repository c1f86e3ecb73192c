"""Errors that a user can mend: one sentence each (what, expected, got, what to do), shown without a traceback."""

import errno
import os
import re

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EXDEV}
_DISK |= {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EFBIG, errno.ENOTCONN, errno.ELOOP}


class UserError(Exception):
    """A user's mistake or a damaged artifact; the text is all that the terminal shows."""


class ConfigError(UserError):
    """The composed configuration cannot be run; the text names each offending key on a line of its own."""


class BrokeDown(UserError):
    """Numbers that are no longer finite; the text names the step.

    Attributes:
        last_good: arrays by name, of the state before.
    """

    def __init__(self, text, last_good):
        super().__init__(text)
        self.last_good = last_good


class Stopped(BaseException):
    """The work was asked to stop by a signal; what it goes on from is kept. No `Exception`, like KeyboardInterrupt.

    Attributes:
        signal: the signal's number.
    """

    def __init__(self, signal):
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class TimeIsUp(UserError):
    """A job of a cluster was ended for its time as often as it was allowed to be."""


class StoreError(UserError):
    """An artifact is missing, damaged or does not belong to its directory's name."""


class Deposed(StoreError):
    """Another process has taken over the work of this one, which was taken for dead."""


def of_disk(error, root):
    """A `StoreError` for what a file system refuses: full, read-only, not permitted, gone; None for any other error."""
    if not isinstance(error, OSError):
        return None
    named = re.search(r"errno = (\d+)", str(error))  # HDF5's
    number = error.errno or (int(named.group(1)) if named else None)
    if number not in _DISK:
        return None
    if isinstance(error.filename, str) and not os.path.abspath(error.filename).startswith(os.path.abspath(root)):
        return StoreError(
            f"{error.filename}: {os.strerror(number)} ({type(error).__name__}), outside store.root={root}. What was finished is "
            "kept; see to that place, and run the same command again."
        )
    where = f"{error.filename}: " if error.filename else ""
    return StoreError(
        f"store.root={root}: {os.strerror(number)} ({where}{type(error).__name__}). What was finished is kept; make room or "
        "see to the permissions there, or choose another store.root, and run the same command again."
    )
