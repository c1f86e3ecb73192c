"""What every command prints, and how: output that arrives whatever the terminal, and how the user called the command.

A terminal or pipe that cannot show λ̂, ± or ≤ gets `llc`, `+-` and `<=`. Where nothing can be written at all (a full disk, a
closed standard output) the work goes on, and the command ends with a sentence on standard error and exit code 1. A reader that
has seen enough (`| head`) is no error.
"""

import codecs
import errno
import io
import os
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

PLAIN = {
    "λ̂": "llc",
    "λ": "lambda",
    "β": "beta",
    "γ": "gamma",
    "ε": "eps",
    "ρ": "rho",
    "σ": "sigma",
    "Σ": "sum",
    "Π": "prod",
    "∇": "grad ",
    "π": "pi",
    "√": "sqrt",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "≈": "~",
    "−": "-",
    "–": "-",
    "…": "...",
    "×": "x",
    "·": "*",
    "½": "1/2",
    "χ²": "chi2",
    "→": "->",
    "↦": "->",
    "∞": "inf",
    "“": '"',
    "”": '"',
    "’": "'",
}
"""What stands for a letter that an encoding lacks; others lose their accents, or are written as escapes."""

_ERRORS = "lambda_hat.plain"
"""The name under which `codecs` knows the replacement."""


def program(name: str | None = None) -> str:
    """What to type for a command: `python bin/status.py` where a script of bin/ runs, else `lambda-hat-status`.

    Arguments:
        name: of a command, such as `status` or `build_target`; None for the one that runs.
    """
    script = Path(sys.argv[0])
    if script.suffix == ".py":
        return f"python {script if name is None else script.with_name(f'{name}.py')}"
    return script.name if name is None else f"lambda-hat-{name.replace('_', '-')}"


_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Text from a file as it may be printed: control characters, which a terminal would obey, are written as escapes."""
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def shown(text: str) -> str:
    """A text with the letters that standard output can show, for whoever lays it out in columns."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, _ERRORS).decode(encoding)


def run(act: Callable[[], int | None]) -> NoReturn:
    """Do what a command does and end the process with its exit code.

    Arguments:
        act: returns the exit code (None is 0), or raises SystemExit with a code or a sentence for standard error.
    """
    prepare()
    try:
        code = act() or 0
    except SystemExit as stop:
        code = stop.code or 0
    if not isinstance(code, int):
        print(printable(str(code)), file=sys.stderr)
        code = 1
    sys.exit(finish(code))


def prepare() -> None:
    """Make standard output and error fit to print on. A second call does nothing."""
    for descriptor in range(3):  # a file opened later must not become what a closed one was: libraries write there
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed when Python started
            output = _Output(open(os.devnull, "wb"), encoding="utf-8", errors=_ERRORS)
            output.failure = OSError(errno.EBADF, "it is closed")
            setattr(sys, name, output)
        elif type(stream) is io.TextIOWrapper:  # no replacement of a test or a notebook
            setattr(sys, name, _Output.in_place_of(stream))


def finish(code: int) -> int:
    """Say on standard error what standard output could not take, if anything; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    failure = getattr(sys.stdout, "failure", None)
    if failure is None or failure.errno == errno.EPIPE:
        return code
    print(
        f"standard output cannot be written ({failure.strerror}): part of the output is missing. Finished work is kept; see "
        f"{program('status')}.",
        file=sys.stderr,
    )
    sys.stderr.flush()
    return code or 1


class _Output(io.TextIOWrapper):
    """A stream that remembers the first failure to write, and from then on drops what it is given.

    Attributes:
        failure: that error, or None.
    """

    failure: OSError | None = None

    @classmethod
    def in_place_of(cls, stream: io.TextIOWrapper) -> "_Output":
        encoding, line_buffering = stream.encoding, stream.line_buffering
        return cls(stream.detach(), encoding=encoding, errors=_ERRORS, line_buffering=line_buffering)

    def write(self, text):
        if self.failure is None:
            try:
                return super().write(text)
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self):
        if self.failure is None and not self.closed:
            try:
                super().flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error):
        self.failure = error
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # takes what is still buffered, at exit too


def _plain(error):
    """What stands for what an encoding lacks; a handler of `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    for letter, word in PLAIN.items():
        text = text.replace(letter, word)
    written = (_without_accent(letter, error.encoding) for letter in text)
    return "".join(written), error.end


def _without_accent(letter, encoding):
    try:
        letter.encode(encoding)
        return letter
    except UnicodeEncodeError:
        base = "".join(part for part in unicodedata.normalize("NFKD", letter) if part.isascii())
        return base or letter.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(_ERRORS, _plain)
