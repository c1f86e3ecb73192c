"""Being asked to stop: SIGINT (Ctrl-C), SIGTERM (a batch system's last word) and SIGUSR2 (its warning) end work at a safe point.

None of them raises anything where it falls: that may be inside a library that does not bear it, and one that comes while a
compiled program runs is not seen by Python until the program ends. A thread of its own waits for signals: where the work does not
come to a safe point in time, or Ctrl-C is pressed again, it saves what is there and ends the process.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable

from lambda_hat.system.errors import Stopped

GRACE = 20.0
"""Seconds that work has to come to a safe point; batch systems give 30 and more."""

PATIENCE = 5.0
"""The same after Ctrl-C: somebody waits."""

_asked = threading.Event()
_number = 0
_savers: list[Callable] = []
_reader = None


def tell(number):
    """Say what becomes of work that was stopped."""
    print("Interrupted: finished work is kept; the same command goes on.", file=sys.stderr, flush=True)


def remember():
    """Have Ctrl-C raise KeyboardInterrupt until `listen`, and be known of: a library may make another error of it, or none."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _remembered)


def is_asked():
    """Whether a signal has come."""
    return _asked.is_set()


def _remembered(number, frame):
    _ask(number)
    signal.default_int_handler(number, frame)


def _ask(number):
    global _number
    _number = number
    _asked.set()


def listen(before_exit=tell):
    """Have signals end the work; call it in the main thread. A second call changes `before_exit` only.

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
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        if number == signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN:
            continue  # in the background of a shell
        signal.signal(number, lambda *_: None)  # the byte in the pipe is what counts
    threading.Thread(target=_watch, args=(_reader,), daemon=True).start()


def check():
    """A safe point.

    Raises:
        Stopped: where a signal has come.
    """
    if _asked.is_set():
        raise Stopped(_number)


def wait(seconds):
    """Sleep, at a safe point.

    Raises:
        Stopped: where a signal has come or comes meanwhile.
    """
    _asked.wait(seconds)
    check()


@contextlib.contextmanager
def saving(save):
    """While in this context, `save` is called before the process is ended between two safe points."""
    _savers.append(save)
    try:
        yield
    finally:
        _savers.remove(save)


_before_exit = tell


def _watch(reader):
    while True:
        (number,) = os.read(reader, 1)
        if number not in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            continue
        if number == signal.SIGINT and _asked.is_set():
            _end(number)
        _ask(number)
        end = threading.Timer(PATIENCE if number == signal.SIGINT else GRACE, _end, [number])
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
