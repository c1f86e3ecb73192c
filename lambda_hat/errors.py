"""Errors that a user can mend: one sentence each (what, expected, got, what to do), shown without a traceback."""


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


class StoreError(UserError):
    """An artifact is missing, damaged or does not belong to its directory's name."""
