"""Being asked to stop: SIGTERM (a batch system's last word) and SIGUSR2 (its warning) end work at its next safe point.

A signal that comes while a compiled program runs is not seen by Python until the program ends. So a thread of its own waits for
signals: where the work has not come to a safe point within GRACE seconds, it saves what is there and ends the process.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable

from lambda_hat.errors import Stopped

GRACE = 20.0
"""Seconds that work has to come to a safe point; batch systems give 30 and more."""

_asked = threading.Event()
_number = 0
_savers: list[Callable] = []
_reader = None


def listen(before_exit=lambda number: None):
    """Have SIGTERM and SIGUSR2 end the work; call it in the main thread. A second call changes `before_exit` only.

    Arguments:
        before_exit: called with the signal's number, in another thread, before the process is ended for want of a safe point.
    """
    global _reader, _before_exit
    _before_exit = before_exit
    if _reader is not None or threading.current_thread() is not threading.main_thread():
        return
    _reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)  # the byte in the pipe is what counts
    threading.Thread(target=_watch, daemon=True).start()


def check():
    """A safe point.

    Raises:
        Stopped: where a signal has come.
    """
    if _asked.is_set():
        raise Stopped(_number)


@contextlib.contextmanager
def saving(save):
    """While in this context, `save` is called before the process is ended between two safe points."""
    _savers.append(save)
    try:
        yield
    finally:
        _savers.remove(save)


def _before_exit(number):
    pass


def _watch():
    global _number
    while True:
        (number,) = os.read(_reader, 1)
        if number not in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            continue
        if number != signal.SIGINT:  # that is Python's own to raise
            _number = number
            _asked.set()
        end = threading.Timer(GRACE, _end, [number])
        end.daemon = True
        end.start()


def _end(number):
    """The work did not come to a safe point."""
    try:
        for save in list(_savers):
            save()
        _before_exit(number)
    finally:
        os._exit(128 + number)
