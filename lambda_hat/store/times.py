"""The time as the store records it."""

import time
from datetime import UTC, datetime


def now() -> str:
    """The time for people, in notes about work in progress: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def unix_time(value: float | str | None) -> float | None:
    """A recorded `created_at` as a Unix time, which records of older stores have as ISO 8601 text; None where it is neither."""
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError):
            return None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def created_at() -> float:
    """The time as artifacts record it: seconds since 1970."""
    return time.time()
