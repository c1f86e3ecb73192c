"""Which records a filter keeps: keys in full or in short, and the values that they may have."""

import difflib
from collections.abc import Iterable, Sequence

from lambda_hat.inspect.formats import setting
from lambda_hat.inspect.records import STATES, Record
from lambda_hat.system.errors import StoreError, UserError

Filter = tuple[str, Sequence[str]]
"""A key and the values that it may have, as text."""

KINDS = {"model": "model.kind", "data": "data.kind", "training": "training.kind", "sampler": "sampler.name"}
"""The setting that says which others a group has."""

ALIASES = {"target": "target_id", "run": "run_id", **KINDS, "target_seed": "seed"}
"""Short names of settings, as filters and columns take them."""

IDS = {"target_id": "tgt_", "run_id": "run_"}
"""Keys whose values may be given by their beginning, and what every such value begins with."""

STATUSES = (*STATES, "ok", "warn", "bad")


def setting_names(records: Iterable[Record]) -> dict[str, None]:
    """Every setting that any of these records has, in their order."""
    kinds = dict.fromkeys(tuple(record.settings) for record in records)  # few, of however many records
    return dict.fromkeys(key for names in kinds for key in names)


def resolve(key: str, known: Iterable[str]) -> str:
    """The full name of a setting that is given in short: `n_data` for `data.n_data`, `model` for `model.kind`.

    Raises:
        StoreError: where there is none, or there are several.
    """
    known = list(known)
    if key in ("status", *IDS) or key in known:
        return key
    if key in ALIASES:
        return ALIASES[key]
    matches = [name for name in known if name.rpartition(".")[2] == key]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise StoreError(f"{key} may mean {' or '.join(sorted(matches))}: write one of them in full.")
    close = difflib.get_close_matches(
        key, [*known, *(name.rpartition(".")[2] for name in known), *ALIASES, "status"], 1
    )
    hint = f" Did you mean {close[0]}?" if close else ""
    raise StoreError(
        f"{key}: no run here has such a setting; filter by status, target, sampler or a setting such as data.n_data.{hint}"
    )


def select(records: Sequence[Record], filters: Iterable[Filter]) -> list[Record]:
    """The records that match every filter.

    Raises:
        StoreError: for a key that no record has.
        UserError: for a value that is empty, or that every record would match.
    """
    known = setting_names(records)
    chosen = [(_checked(key, values), values) for key, values in filters]
    chosen = [(resolve(key, known), values) for key, values in chosen] if records else []
    return [record for record in records if all(_matches(record, key, values) for key, values in chosen)]


def _checked(key, values):
    if not values or not all(value.strip() for value in values):
        raise UserError(
            f"{key}= has no value; give one, such as {key}=…, or leave the filter out: an empty value matches nothing."
        )
    full = ALIASES.get(key, key)
    if full == "status" and (unknown := [value for value in values if value not in STATUSES]):
        raise UserError(f"status={unknown[0]}: there is no such status; expected one of {', '.join(STATUSES)}.")
    if full in IDS and (vague := [value for value in values if not _name(value).removeprefix(IDS[full])]):
        raise UserError(f"{key}={vague[0]} would match everything; give more of the name, such as {IDS[full]}0….")
    return key


def _name(value):
    """The last part of what may be a path."""
    return value.rstrip("/").rpartition("/")[2]


def _matches(record, key, values):
    actual = record.values(key)
    if key in IDS:
        return any(str(each or "").startswith(_name(value)) for each in actual for value in values)
    return any(_equal(each, value) for each in actual for value in values)


def _equal(value, text):
    if value is not None and setting(value) == text.replace(" ", ""):
        return True
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return value is None and text == "null"
