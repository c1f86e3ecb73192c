"""Records in words: how many of each status, the settings that all share, and what tells a target from the others."""

import textwrap
from collections import Counter
from collections.abc import Sequence

from lambda_hat.inspect.filters import KINDS
from lambda_hat.inspect.formats import brief, setting
from lambda_hat.inspect.groups import NEVER_NULL, VERDICTS, knows
from lambda_hat.inspect.records import STATES, Record

WIDTH = 118
"""Letters in a line of shared settings."""


def counted(records: Sequence[Record]) -> str:
    """How many there are of each status."""
    states = Counter(record.state for record in records)
    verdicts = Counter(record.verdict for record in records if record.state == "done" and record.verdict)
    detail = ", ".join(f"{verdicts[word]} {word}" for word in VERDICTS if verdicts[word])
    parts = [
        f"{states[state]} {state}" + (f" ({detail})" if state == "done" and detail else "")
        for state in STATES
        if states[state]
    ]
    return ", ".join(parts)


def shared(records: Sequence[Record], differing: Sequence[str]) -> list[tuple[str, str]]:
    """Settings that all records (of a kind) have alike: pairs of a group and its settings; `differing` names the others."""
    pairs = []
    for group in NEVER_NULL:
        kind = KINDS.get(group, "")
        alike = {}
        for record in records:
            if knows(record, group):
                alike.setdefault(setting(record.settings.get(kind)), record.settings)
        first = next(iter(alike.values()), {})
        everywhere = [key for key in first if all(key in each and each[key] == first[key] for each in alike.values())]
        pairs += _pair(group, group, everywhere, first, differing)
        for name, settings in alike.items() if len(alike) > 1 else ():
            rest = [key for key in settings if key not in everywhere]
            pairs += _pair(f"{group}={name}", group, rest, settings, differing)
    return pairs


def _pair(title, group, keys, settings, differing):
    kind = KINDS.get(group)
    parts = [
        f"{key.partition('.')[2] or key}={brief(settings[key])}"
        for key in keys
        if key.partition(".")[0] == group and key not in differing and key != kind
    ]
    if title == group and settings.get(kind) and kind not in differing:
        title = f"{group}={setting(settings[kind])}"
    return [(title, " ".join(parts))] if parts or title == f"{group}={settings.get(kind)}" else []


def wrapped(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Such pairs as lines of a terminal."""
    lines = []
    for title, text in pairs:
        filled = textwrap.fill(text, WIDTH - 18, break_long_words=False, break_on_hyphens=False)
        lines.append(f"{title:17} " + filled.replace("\n", "\n" + 18 * " "))
    return lines


def describe_target(records: Sequence[Record], keys: Sequence[str]) -> str:
    """What tells a target's records from the others, of the settings `keys`, and the target's dimensions."""
    settings = {key: value for record in records for key, value in record.settings.items()}
    parts = [f"{key}={brief(settings[key])}" for key in keys if key in settings and key != "sampler.name"]
    if meta := next((record.meta for record in records if record.meta), None):
        parts += [f"p = {meta.dims.p}", f"n = {meta.dims.n}"]
        parts += [f"L0 = {meta.metrics.L0:.4g}"] if meta.metrics.L0 is not None else []
        parts += [f"λ = {meta.truth.learning_coefficient:g}"] if meta.truth else []
    return "  ".join(parts)
