"""bin/promote.py: copies chosen figures and a table to a place that keeps its name."""

from pathlib import Path

from lambda_hat.commands import console
from lambda_hat.inspect import promotion
from lambda_hat.inspect.filters import select
from lambda_hat.inspect.scan import scan
from lambda_hat.system.errors import UserError

DOC = """Copy the figures and the table of the newest or the best run of each sampler to a place that keeps its name.

    %(prog)s single runs --to docs/figures --figure running_llc
    %(prog)s gallery runs target=tgt_0ba2ae26b480 --to docs/gallery --figure running_llc --figure trace
"""


def main():
    """Entry point of bin/promote.py and of lambda-hat-promote."""
    parser = console.parser(DOC)
    parser.add_argument("kind", choices=promotion.FIGURES, help="one figure a sampler; or several, with Markdown")
    console.add_words(parser)
    parser.add_argument(
        "--to",
        required=True,
        metavar="DIR",
        help="the place; replaces what was promoted there before, and nothing else",
    )
    parser.add_argument(
        "--figure", action="append", metavar="NAME", help="running_llc unless given; gallery: also trace and rank"
    )
    parser.add_argument(
        "--pick",
        choices=promotion.PICKS,
        default="newest",
        help="which run of a sampler: the newest, or the one with the smallest relative error",
    )
    parser.add_argument("--allow-bad", action="store_true", help="also promote runs whose status is bad")
    console.run(_act, parser)


def _act(arguments):
    root, filters = console.split(arguments)
    figures = arguments.figure or promotion.FIGURES[arguments.kind]
    if arguments.kind == "single" and len(figures) > 1:
        raise UserError(f"single takes one --figure; got {', '.join(figures)}: use gallery for several.")
    if wrong := [name for name in figures if not name or "/" in name]:
        raise UserError(f"--figure {wrong[0]}: give a figure's name, such as running_llc.")
    if not arguments.to.strip():
        raise UserError("--to is empty: name the directory to copy to.")
    chosen = promotion.choose(select(scan(root), filters), root, arguments.pick, arguments.allow_bad)
    manifest = promotion.promote(chosen, figures, Path(arguments.to).expanduser(), arguments.kind, root)
    if arguments.json:
        console.write_json(manifest)
        return
    lines = [[name, entry["run"], entry["status"]] for name, entry in manifest["samplers"].items()]
    console.write(console.Table(["sampler", "from", "status"], lines, ("sampler", "from", "status")))
    console.write(f"{len(manifest['files'])} files, and {promotion.MANIFEST}: {arguments.to}")
