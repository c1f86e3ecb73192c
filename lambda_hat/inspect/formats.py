"""Values as text: estimates, intervals, settings, durations, sizes."""

import math
import re
from datetime import UTC, datetime
from typing import Any

DASH = "–"
"""Shown where a value is unknown."""

HASH_DIGITS = 12
"""Of a sha256 that are shown, enough to tell one from another."""


def setting(value: Any) -> str:
    """A setting as one writes it on a command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(setting, value))}]"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def brief(value: Any) -> str:
    """A setting to be read, not typed: the sha256 of a file by its first digits."""
    text = setting(value)
    return text[:HASH_DIGITS] if re.fullmatch("[0-9a-f]{64}", text) else text


def cell(value: Any) -> str:
    """A setting in a table; a dash where it is not known."""
    return DASH if value is None else brief(value)


def estimate(mean: float | None, error: float | None) -> str:
    """λ̂ ± its error, to two digits of the error; `?` where that is not known."""
    if mean is None:
        return DASH
    if not error:
        return f"{mean:.5g} ± ?"
    digits = max(0, 1 - int(f"{error:e}".partition("e")[2]))
    if digits > 12 or abs(mean) >= 1e12:
        return f"{mean:.5g} ± {error:.2g}"
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def interval(low: float | None, high: float | None) -> str:
    """An interval in brackets; a dash where there is none."""
    return DASH if low is None or high is None else f"[{low:.5g}, {high:.5g}]"


def number(value: float | str | None, pattern: str) -> str:
    """A number, or a word, in a format; a dash for none."""
    return DASH if value is None else format(value, pattern)


def short(value: float) -> str:
    """A number to three digits, without an exponent below a million."""
    return f"{float(f'{value:.3g}'):g}"


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds is None:
        return DASH
    unit, size = next((unit, size) for unit, size, most in _UNITS if seconds < most)
    return f"{seconds / size:.3g} {unit}"


_UNITS = (("s", 1, 100), ("min", 60, 6000), ("h", 3600, math.inf))


def size(count: float) -> str:
    """Bytes as one reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def time(seconds: float) -> str:
    """A Unix time as a date, UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s after 1970"
