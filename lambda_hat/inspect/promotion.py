"""Chosen figures and a table of one run for each sampler, copied to a place that keeps its name.

    <place>/manifest.json        which run each file is from, and the hashes of all
    <place>/table.md             λ̂ ± its error, status, by sampler
    <place>/<sampler>.png        `single`: one figure a sampler
    <place>/<sampler>_<figure>.png  README.md   `gallery`: several, and the Markdown that shows them

Only files that the manifest lists, and that are as they were written, are ever replaced or removed.
"""

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lambda_hat import store
from lambda_hat.inspect import formats
from lambda_hat.inspect.groups import VERDICTS, estimands, varying
from lambda_hat.inspect.records import Record, RunRecord
from lambda_hat.system.errors import StoreError

MANIFEST = "manifest.json"
MADE_BY = "lambda-hat-promote"

FIGURES = {"single": ["running_llc"], "gallery": ["running_llc", "trace", "rank"]}
"""What is promoted unless figures are named."""

# --- which ------------------------------------------------------------------------------------------------------------


def _newest(record):
    return record.result.created_at or 0.0, record.name


def _best(record):
    """The smallest relative error among those of the best status; one without an error bar comes last."""
    mean, error = record.result.llc_mean, record.result.llc_mcse
    return -VERDICTS.index(record.verdict), -abs(error / mean) if mean and error else -float("inf"), record.name


PICKS: dict[str, Callable[[RunRecord], tuple[Any, ...]]] = {"newest": _newest, "best": _best}


def choose(
    records: Sequence[Record], root: Path, pick: str = "newest", allow_bad: bool = False
) -> dict[str, RunRecord]:
    """One run for each sampler, of the target and the estimand of the first choice where the sampler has one.

    Arguments:
        root: where they are from.
        pick: `newest` or `best`.
        allow_bad: whether a run whose status is bad may be taken.

    Raises:
        StoreError: where there is no finished run, or the chosen one is bad.
    """
    done = [record for record in records if isinstance(record, RunRecord) and record.state == "done" and record.summary]
    if not done:
        raise StoreError(f"{root}: no finished run there matches, so there is nothing to promote.")
    estimand = estimands(done)
    kind = lambda record: (record.target_id, estimand[record.name])
    first, chosen = kind(max(done, key=PICKS[pick])), {}
    for sampler in dict.fromkeys(record.sampler for record in done):
        runs = [record for record in done if record.sampler == sampler]
        chosen[sampler] = max([run for run in runs if kind(run) == first] or runs, key=PICKS[pick])
    bad = [record for record in chosen.values() if record.verdict == "bad"]
    if bad and not allow_bad:
        reasons = "; ".join(f"{record.short} is bad ({'; '.join(record.notes)})" for record in bad)
        raise StoreError(
            f"{reasons}. Nothing was promoted; choose others with a filter such as status=ok, or add --allow-bad."
        )
    return chosen


# --- copying ----------------------------------------------------------------------------------------------------------


def promote(
    chosen: Mapping[str, RunRecord], figures: Sequence[str], place: Path, kind: str, root: Path
) -> dict[str, Any]:
    """Copy to a place; returns the manifest.

    Arguments:
        chosen: sampler → run.
        figures: names of figures, without `.png`.
        place: the directory to make; of one that this made before, its own files are replaced.
        kind: `single` or `gallery`.
        root: where the runs are from.

    Raises:
        StoreError: where a file is damaged, or the place holds something else.
    """
    place = Path(os.path.realpath(place))
    before = _promoted_before(place)
    for record in chosen.values():
        if wrong := list(store.damages(record.directory)):
            raise StoreError(f"{wrong[0]}; nothing was promoted: restore it, or rerun with force=true.")
    hidden = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}")
    try:
        hidden.mkdir(parents=True)
        sources = _copy_figures(hidden, chosen, figures, kind)
        table = _table(chosen)
        (hidden / "table.md").write_text(table, encoding="utf-8")
        if kind == "gallery":
            (hidden / "README.md").write_text(_gallery(chosen, figures, sources, table), encoding="utf-8")
        manifest = _manifest(hidden, chosen, sources, kind, root)
        store.write_json(hidden / MANIFEST, manifest)
        if os.path.lexists(place):
            _update(hidden, place, before)
        else:
            os.rename(hidden, place)
    except OSError as error:
        raise StoreError(
            f"{place} cannot be written ({error.strerror}: {error.filename}); choose another place."
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return manifest


def _promoted_before(place):
    """Hashes of the files that an earlier promotion made, by name."""
    if not os.path.lexists(place) or (place.is_dir() and not any(place.iterdir())):
        return {}
    try:
        manifest = store.read_object(place / MANIFEST, place)
    except StoreError:
        manifest = {}
    if manifest.get("made_by") != MADE_BY:
        raise StoreError(f"{place} is there, and was not made by {MADE_BY}: choose another place, or move it away.")
    files = manifest.get("files")
    files = files if isinstance(files, dict) else {}
    return {
        name: entry.get("sha256")
        for name, entry in files.items()
        if name == os.path.basename(name) and name not in ("", ".", "..", MANIFEST) and isinstance(entry, dict)
    }


def _is_as_promoted(path, sha256):
    return stat.S_ISREG(os.lstat(path).st_mode) and store.sha256(path, path.parent) == sha256


def _update(hidden, place, before):
    """Put the files in the place of those promoted before; other files stay, and on failure everything is as it was."""
    names = sorted(os.listdir(hidden), key=lambda name: name == MANIFEST)  # which comes last
    for name in names:
        path = place / name
        if name != MANIFEST and os.path.lexists(path) and not _is_as_promoted(path, before.get(name)):
            raise StoreError(
                f"{path} was not made by {MADE_BY}, or has been changed since: move it away; nothing was promoted."
            )
    kept = hidden.with_name(f"{hidden.name}.before")
    kept.mkdir()
    replaced = []
    try:
        for name in names:
            if os.path.lexists(place / name):
                os.link(place / name, kept / name, follow_symlinks=False)
            os.replace(hidden / name, place / name)
            replaced.append(name)
    except OSError:
        for name in replaced:
            os.replace(kept / name, place / name) if (kept / name).exists() else (place / name).unlink()
        raise
    finally:
        shutil.rmtree(kept, ignore_errors=True)
    for name in before.keys() - set(names):
        with contextlib.suppress(FileNotFoundError):
            if _is_as_promoted(place / name, before[name]):
                (place / name).unlink()


def _copy_figures(hidden, chosen, figures, kind):
    """Where each copied figure is from."""
    sources = {}
    for sampler, record in chosen.items():
        for figure in figures:
            path = record.directory / "diagnostics" / f"{figure}.png"
            if os.path.lexists(path):
                name = f"{sampler}.png" if kind == "single" else f"{sampler}_{figure}.png"
                with store.open_regular(path) as source, open(hidden / name, "wb") as copy:
                    shutil.copyfileobj(source, copy)
                sources[name] = f"{record.short}/diagnostics/{path.name}"
    for figure in figures:
        if not any(source.endswith(f"/{figure}.png") for source in sources.values()):
            known = sorted({path.stem for run in chosen.values() for path in run.directory.glob("diagnostics/*.png")})
            raise StoreError(f"{figure}: none of these runs has such a figure; they have {', '.join(known) or 'none'}.")
    return sources


def _manifest(hidden, chosen, sources, kind, root):
    files = {
        path.name: {"sha256": store.sha256(path, hidden), "from": sources.get(path.name)}
        for path in sorted(hidden.iterdir())
    }
    samplers = {
        sampler: {
            "run": record.short,
            "directory": os.path.abspath(record.directory),
            "analysis_sha256": store.sha256(record.directory / "analysis.json"),
            "status": record.verdict,
            **{
                name: getattr(record.summary, name)
                for name in ("llc_mean", "llc_mcse", "llc_interval95", "llc_raw", "created_at")
            },
        }
        for sampler, record in chosen.items()
    }
    made = {"made_by": MADE_BY, "kind": kind, "created_at": store.now(), "root": os.path.abspath(root)}
    return made | {"samplers": samplers, "files": files}


def _table(chosen):
    """The table as Markdown; a column for each setting in which the runs differ."""
    records = list(chosen.values())
    keys = [key for key in varying(records) if key != "sampler.name"]
    header = ["sampler", *keys, "λ̂ ± MCSE", "95 %", "ESS", "R-hat", "gradients", "status", "run"]
    lines = [
        [
            record.sampler,
            *(formats.setting(record.settings.get(key)) for key in keys),
            formats.estimate(record.summary.llc_mean, record.summary.llc_mcse),
            formats.interval(*record.summary.llc_interval95),
            formats.number(record.summary.ess, ".0f"),
            formats.number(record.summary.rhat, ".4f"),
            formats.number(record.summary.total_fges, ".0f"),
            record.verdict,
            f"`{record.short}`",
        ]
        for record in records
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines]) + "\n"


def _gallery(chosen, figures, sources, table):
    """Markdown that shows everything: paste it, or link to it."""
    parts = [table]
    for figure in figures:
        shown = [(s, f"{s}_{figure}.png") for s in chosen if f"{s}_{figure}.png" in sources]
        parts += [f"\n### {figure}\n", *(f"![{figure} of {sampler}]({name})" for sampler, name in shown)]
    return "\n".join(parts) + "\n"
