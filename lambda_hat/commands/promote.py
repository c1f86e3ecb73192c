"""bin/promote.py: chosen figures and a table of one run for each sampler, copied to a place that keeps its name.

    <place>/manifest.json        which run each file is from, and the hashes of all
    <place>/table.md             λ̂ ± its error, status, by sampler
    <place>/<sampler>.png        `single`: one figure a sampler
    <place>/<sampler>_<figure>.png  README.md   `gallery`: several, and the Markdown that shows them

The place is made beside itself and takes its name in one step, so that nobody sees half of it.
"""

import os
import shutil
import uuid
from pathlib import Path

from lambda_hat import store
from lambda_hat.commands import status
from lambda_hat.inspect import tell
from lambda_hat.inspect.choose import varying
from lambda_hat.inspect.row import show
from lambda_hat.system.errors import StoreError, UserError

MANIFEST = "manifest.json"
MADE_BY = "lambda-hat-promote"

FIGURES = {"single": ["running_llc"], "gallery": ["running_llc", "trace", "rank"]}
"""What is promoted unless figures are named."""

DOC = """Copy the figures and the table of the newest or the best run of each sampler to a place that keeps its name.

    %(prog)s single runs --to docs/figures --figure running_llc
    %(prog)s gallery runs target=tgt_0ba2ae26b480 --to docs/gallery --figure running_llc --figure trace
"""


def main():
    """Entry point of bin/promote.py and of lambda-hat-promote."""
    parser = tell.parser(DOC)
    parser.add_argument("kind", choices=FIGURES, help="one figure a sampler; or several, with Markdown")
    tell.add_words(parser)
    parser.add_argument(
        "--to", required=True, metavar="DIR", help="the place; what was promoted there before is replaced"
    )
    parser.add_argument(
        "--figure", action="append", metavar="NAME", help="running_llc unless given; gallery: also trace and rank"
    )
    parser.add_argument(
        "--pick",
        choices=_PICKS,
        default="newest",
        help="which run of a sampler: the newest, or the one of least relative error",
    )
    parser.add_argument("--allow-bad", action="store_true", help="promote runs whose status is bad, too")
    tell.run(_act, parser)


def _act(arguments):
    root, rows = status.gather(arguments.words)
    figures = arguments.figure or FIGURES[arguments.kind]
    if arguments.kind == "single" and len(figures) > 1:
        raise UserError(f"single takes one --figure; got {', '.join(figures)}: use gallery for several.")
    chosen = choose(rows, root, arguments.pick, arguments.allow_bad)
    manifest = promote(chosen, figures, Path(arguments.to), arguments.kind, root)
    if arguments.json:
        tell.write_json(manifest)
        return
    lines = [[name, one["run"], one["status"]] for name, one in manifest["samplers"].items()]
    tell.write(tell.Table(["sampler", "from", "status"], lines, ("sampler", "from", "status")))
    tell.write(f"{len(manifest['files'])} files, and {MANIFEST}: {arguments.to}")


# --- which ------------------------------------------------------------------------------------------------------------


def _newest(row):
    return row.result["created_at"], row.name


def _best(row):
    """Least relative error among those of the best status; one without an error bar comes last."""
    mean, error = row.result["llc_mean"], row.result["llc_mcse"]
    rank = ("bad", "warn", "ok").index(row.verdict)
    return rank, -abs(error / mean) if mean and error else -float("inf"), row.name


_PICKS = {"newest": _newest, "best": _best}


def choose(rows, root, pick="newest", allow_bad=False):
    """One run for each sampler.

    Arguments:
        rows: `rows.Row`s to choose from.
        root: where they are from.
        pick: `newest` or `best`.
        allow_bad: whether a run whose status is bad may be taken.

    Raises:
        StoreError: where there is no finished run, or the chosen one is bad.
    """
    done = [row for row in rows if row.run_id and row.state == "done"]
    if not done:
        raise StoreError(f"{root}: no finished run there fits, so there is nothing to promote.")
    chosen = {}
    for sampler in dict.fromkeys(row.sampler for row in done):
        chosen[sampler] = max((row for row in done if row.sampler == sampler), key=_PICKS[pick])
    bad = [row for row in chosen.values() if row.verdict == "bad"]
    if bad and not allow_bad:
        said = "; ".join(f"{row.short} is bad ({'; '.join(row.notes)})" for row in bad)
        raise StoreError(
            f"{said}. Nothing was promoted; choose others with a filter such as status=ok, or add --allow-bad."
        )
    return chosen


# --- copying ----------------------------------------------------------------------------------------------------------


def promote(chosen, figures, place, kind, root):
    """Copy to a place; returns the manifest.

    Arguments:
        chosen: sampler → `rows.Row`.
        figures: names of figures, without `.png`.
        place: the directory to make; one that this made before is replaced.
        kind: `single` or `gallery`.
        root: where the runs are from.

    Raises:
        StoreError: where a file is damaged, or the place is something else.
    """
    if os.path.lexists(place) and not _is_ours(place):
        raise StoreError(f"{place} is there, and was not made by {MADE_BY}: choose another place, or move it away.")
    for row in chosen.values():
        if wrong := list(store.damages(row.directory)):
            raise StoreError(f"{wrong[0]}; nothing was promoted: restore it, or rerun with force=true.")
    hidden = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}")
    try:
        hidden.mkdir(parents=True)
        sources = {}
        for sampler, row in chosen.items():
            for figure in figures:
                path = row.directory / "diagnostics" / f"{figure}.png"
                if path.is_file():
                    name = f"{sampler}.png" if kind == "single" else f"{sampler}_{figure}.png"
                    shutil.copyfile(path, hidden / name)
                    sources[name] = f"{row.short}/diagnostics/{path.name}"
        _check_figures(figures, sources, chosen)
        table = _table(chosen)
        (hidden / "table.md").write_text(table, encoding="utf-8")
        if kind == "gallery":
            (hidden / "README.md").write_text(_gallery(chosen, figures, sources, table), encoding="utf-8")
        manifest = _manifest(hidden, chosen, sources, kind, root)
        store.write_json(hidden / MANIFEST, manifest)
        _put(hidden, place)
    except OSError as error:
        raise StoreError(
            f"{place} cannot be written ({error.strerror}: {error.filename}); choose another place."
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return manifest


def _is_ours(place):
    empty = place.is_dir() and not any(place.iterdir())
    return empty or store.read_note(place / MANIFEST).get("made_by") == MADE_BY


def _check_figures(figures, sources, chosen):
    for figure in figures:
        if not any(source.endswith(f"/{figure}.png") for source in sources.values()):
            known = sorted({path.stem for row in chosen.values() for path in row.directory.glob("diagnostics/*.png")})
            raise StoreError(f"{figure}: none of these runs has such a figure; they have {', '.join(known) or 'none'}.")


def _put(hidden, place):
    """Give the finished directory its name; what had it goes away only then."""
    old = place.with_name(f".{place.name}.old.{uuid.uuid4().hex[:8]}")
    if place.exists():
        os.rename(place, old)
    try:
        os.rename(hidden, place)
    except OSError:
        if old.exists():
            os.rename(old, place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _manifest(hidden, chosen, sources, kind, root):
    files = {
        path.name: {"sha256": store.sha256(path), "from": sources.get(path.name)} for path in sorted(hidden.iterdir())
    }
    samplers = {
        sampler: {
            "run": row.short,
            "directory": os.path.abspath(row.directory),
            "analysis_sha256": store.sha256(row.directory / "analysis.json"),
            "status": row.verdict,
            "llc_mean": row.result["llc_mean"],
            "llc_mcse": row.result["llc_mcse"],
            "created_at": row.result["created_at"],
        }
        for sampler, row in chosen.items()
    }
    made = {"made_by": MADE_BY, "kind": kind, "created_at": store.now(), "root": os.path.abspath(root)}
    return made | {"samplers": samplers, "files": files}


def _table(chosen):
    """The table as Markdown."""
    rows = list(chosen.values())
    keys = [key for key in varying(rows) if key != "sampler.name"]
    header = ["sampler", *keys, "λ̂ ± MCSE", "95 %", "ESS", "R-hat", "gradients", "status", "run"]
    lines = [
        [
            row.sampler,
            *(show(row.settings.get(key)) for key in keys),
            tell.estimate(row.result["llc_mean"], row.result["llc_mcse"]),
            tell.interval(*row.result["llc_interval95"]),
            tell.number(row.result["ess"], ".0f"),
            tell.number(row.result["rhat"], ".4f"),
            tell.number(row.result["total_fges"], ".0f"),
            row.verdict,
            f"`{row.short}`",
        ]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines]) + "\n"


def _gallery(chosen, figures, sources, table):
    """Markdown that shows everything: paste it, or link to it."""
    parts = [table]
    for figure in figures:
        shown = [(s, f"{s}_{figure}.png") for s in chosen if f"{s}_{figure}.png" in sources]
        parts += [f"\n### {figure}\n", *(f"![{figure} of {sampler}]({name})" for sampler, name in shown)]
    return "\n".join(parts) + "\n"
