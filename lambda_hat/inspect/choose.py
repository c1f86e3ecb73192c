"""Which rows a filter keeps, which settings rows differ in, and their order."""

import difflib

from lambda_hat import store
from lambda_hat.inspect.row import STATES, show
from lambda_hat.system.errors import StoreError

ALIASES = {
    "target": "target_id",
    "run": "run_id",
    "verdict": "status",
    "model": "model.kind",
    "data": "data.kind",
    "training": "training.kind",
    "sampler": "sampler.name",
    "target_seed": "seed",
}
"""Short names of settings, as filters and columns take them."""


def keys_of(rows):
    """Every setting that any of these rows has."""
    return dict.fromkeys(key for row in rows for key in row.settings)


def resolve(key, known):
    """The full name of a setting that is given in short: `n_data` for `data.n_data`, `model` for `model.kind`.

    Raises:
        StoreError: where there is none, or there are several.
    """
    if key in ("status", "state", "verdict", "stage", "target_id", "run_id") or key in known:
        return key
    if key in ALIASES:
        return ALIASES[key]
    fitting = [name for name in known if name.rpartition(".")[2] == key]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise StoreError(f"{key} may mean {' or '.join(sorted(fitting))}: write the one that is meant.")
    names = [*known, *(name.rpartition(".")[2] for name in known), *ALIASES, "status"]
    close = difflib.get_close_matches(key, names, 1)
    near = f" Did you mean {close[0]}?" if close else ""
    raise StoreError(
        f"{key}: no run here has such a setting; filter by status, target, sampler or a setting such as data.n_data.{near}"
    )


def select(rows, filters):
    """The rows that fit every filter: pairs of a key and the values that it may have, as text.

    Raises:
        StoreError: for a key that no row has.
    """
    known = keys_of(rows)
    chosen = [(resolve(key, known), values) for key, values in filters] if rows else []
    for key, values in chosen:
        if key in ("status", "state", "verdict"):
            allowed = (*STATES, "ok", "warn", "bad")
            if unknown := [value for value in values if value not in allowed]:
                raise StoreError(f"status={unknown[0]}: there is no such status; expected one of {', '.join(allowed)}.")
    return [row for row in rows if all(_fits(row, key, values) for key, values in chosen)]


def _fits(row, key, values):
    has = row.values(key)
    if key in ("target_id", "run_id"):
        return any(str(one or "").startswith(value.rstrip("/").rpartition("/")[2]) for one in has for value in values)
    return any(_equal(one, value) for one in has for value in values)


def _equal(value, text):
    if show(value) == text.replace(" ", ""):
        return True
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return False


KINDS = {"model": "model.kind", "data": "data.kind", "training": "training.kind", "sampler": "sampler.name"}
"""The setting that says which others a group has."""

NEVER_NULL = {
    "model": "model.kind",
    "data": "data.kind",
    "training": "training.kind",
    "seed": "seed",
    "sampler": "sampler.chains",
    "posterior": "posterior.loss",
}
"""A setting that a group always has."""


def varying(rows, groups=tuple(NEVER_NULL)):
    """Settings in these groups in which rows of the same kind differ, and those that make the kinds where there are several."""
    found = []
    for group in groups:
        known = [row for row in rows if knows(row, group)]
        if group in store.STAGES["target"].keys:  # the same for all runs of a target
            known = {row.target_id: row for row in known}.values()
        kinds = {}
        for row in known:
            kinds.setdefault(row.settings.get(KINDS.get(group)), []).append(row.settings)
        for key in keys_of(known):
            if key.partition(".")[0] == group:
                apart = (
                    len(kinds) > 1 if key == KINDS.get(group) else any(_differ(alike, key) for alike in kinds.values())
                )
                found += [key] * apart
    return found


def _differ(settings, key):
    values = [one.get(key) for one in settings]
    return values.count(values[0]) != len(values)


def knows(row, group):
    """Whether the row's settings in a group are known, not just the name of its sampler."""
    return NEVER_NULL[group] in row.settings


def ordered(rows):
    """Rows by what targets differ in, target, sampler, and what runs differ in."""
    rows = list(rows)
    keys = varying(rows)
    own = [key for key in keys if key.partition(".")[0] in ("sampler", "posterior")]
    outer = [key for key in keys if key not in own]
    place = lambda row, some: [_rank(row.settings.get(key)) for key in some]
    return sorted(
        rows, key=lambda row: (place(row, outer), row.target_id, row.sampler or "", place(row, own), row.name)
    )


def _rank(value):
    """What sorts values of any type: what is not known first, then numbers, then words."""
    value = show(value) if isinstance(value, (list, tuple, bool)) else value
    return value is not None, isinstance(value, str), 0 if value is None else value
