"""Runs of an earlier version of the estimator, recomputed from their traces and published under today's names.

A run whose trace does not hold enough stays as it is and is shown as old. Nothing is deleted: the old run goes to
<root>/replaced/. Each run is published by one rename, under a lease, so the same command resumes a migration that was killed.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lambda_hat import store
from lambda_hat.inspect.maintenance import reindex
from lambda_hat.inspect.records import Record, RunRecord
from lambda_hat.store import lease
from lambda_hat.system.errors import StoreError

log = logging.getLogger(__name__)


class Migration(NamedTuple):
    """What a migration did.

    Attributes:
        migrated: old directory → new one.
        left: old directory → why it stays old, a sentence.
    """

    migrated: dict[Path, Path]
    left: dict[Path, str]


def migrate(root: Path, records: Sequence[Record]) -> Migration:
    """Recompute the old runs among some records.

    Arguments:
        root: where they are from.

    Raises:
        OSError: where something cannot be written; what was migrated until then stays so.
    """
    done = Migration({}, {})
    for record in records:
        if record.state != "old":
            continue
        try:
            if not isinstance(record, RunRecord):
                raise StoreError(f"{record.short} is a target, which cannot be recomputed: build it again.")
            done.migrated[record.directory] = _migrate(root, record)
        except StoreError as error:
            done.left[record.directory] = str(error)
    if done.migrated:
        reindex(root, {directory.parent.name for directory in done.migrated})
    return done


def _migrate(root, record):
    """Publish a run under today's name, and put the old one aside; the new directory."""
    summary = record.summary
    digest = store.digest("run", [summary.sampler_config, summary.posterior_config])
    old, new = (store.Paths(root, record.target_id, run) for run in (record.run_id, f"run_{summary.sampler}_{digest}"))
    if new.run == old.run:
        raise StoreError(
            f"{record.short} has today's name and an earlier estimate, so there is no other name for a new one: rerun it with "
            "force=true."
        )
    if wrong := list(store.damages(record.directory)):
        raise StoreError(wrong[0])
    made = _recomputed(record, new.run_id)
    with lease.hold(new.work("run"), lambda: store.is_done(new.run), log.info) as held:
        if held is not None:
            with store.workspace(held.build) as hidden:
                _write(hidden, record, made)
                store.publish(hidden, new.run)
    if store.is_done(old.run):
        store.set_aside(old.run, old)
    return new.run


def _recomputed(record, run_id):
    from lambda_hat.analysis.analyse import recompute

    summary = recompute(record.summary, record.trace)
    estimand = summary.estimand
    if estimand.noise_scale is None and estimand.loss in ("nll", "student_t"):
        known = record.meta.noise_scale if record.meta else None
        known = record.settings.get("data.noise_scale") if known is None else known
        estimand = replace(estimand, noise_scale=known if isinstance(known, float) else None)
    return replace(
        summary,
        target_id=record.target_id,
        run_id=run_id,
        migrated_from=record.summary.migrated_from or record.run_id,
        estimand=estimand,
    )


def _write(hidden, record, summary):
    """All that the old run's directory held, with the new estimate and figures of it."""
    for path in record.directory.iterdir():
        if path.name not in (summary.FILE, store.SUMS) and not path.is_dir():
            with store.open_regular(path) as source, open(hidden / path.name, "wb") as copy:
                shutil.copyfileobj(source, copy)
    store.write_json(hidden / summary.FILE, summary.to_json())
    if (record.directory / "diagnostics").is_dir():
        import xarray as xr

        from lambda_hat.analysis import figures

        dims = {1: ("draw",), 2: ("chain", "draw")}
        arrays = {name: (dims[values.ndim], values) for name, values in record.trace.items() if values.ndim in dims}
        parts = {"posterior": xr.Dataset({"llc": arrays["llc"]})}
        shown = ("distance2", "stein_curvature", "gradient_evaluations", "energy")
        parts["sample_stats"] = xr.Dataset({name: arrays[name] for name in shown if name in arrays})
        (hidden / "diagnostics").mkdir()
        figures.write_all(hidden / "diagnostics", xr.DataTree.from_dict(parts), summary)
