"""bin/report.py: a study as one HTML file."""

from pathlib import Path

from lambda_hat.commands import console
from lambda_hat.inspect import formats, overview
from lambda_hat.inspect.table import replace_file
from lambda_hat.system.errors import StoreError

DOC = """A study as one HTML file, which opens from disk without a network, on a phone too.

    %(prog)s                                    # everything under runs/, to runs/report.html
    %(prog)s /data/runs data.n_data=500 -o report.html
    %(prog)s x=posterior.gamma col=model.widths # with a figure over what was swept: x=, y=, hue=, col=, heat= as plot has them
    %(prog)s -m experiment=truth_smoke          # this sweep, and what of it is missing
"""


def main():
    """Entry point of bin/report.py and of lambda-hat-report."""
    parser = console.parser(DOC)
    console.add_words(parser)
    console.add_sweep(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write it; <root>/report.html unless given")
    parser.add_argument(
        "--figures",
        metavar="FOLDER",
        help="also write its figures there as SVG and PNG, each with its data as CSV",
    )
    console.run(_act, parser)


def _act(arguments):
    from lambda_hat.report import image, page, plots, svg, sweeps

    of_figure = [word for word in arguments.words if word.partition("=")[0] in sweeps.OPTIONS]
    arguments.words = [word for word in arguments.words if word not in of_figure]
    options = console.single(console.options(console.filters(of_figure), sweeps.OPTIONS)[0]) if of_figure else {}
    root, records = console.gather(arguments)
    if not records:
        raise StoreError(f"{root}: nothing there matches, so there is nothing to report.")
    path = Path(arguments.output).expanduser() if arguments.output else root / "report.html"
    folder = Path(arguments.figures).expanduser() if arguments.figures else None
    figures = list(sweeps.figures(records, options, page.samplers_of(records)))
    if folder:
        for figure in figures:
            plots.save(figure.drawing(), [folder / f"{figure.name}{suffix}" for suffix in (".svg", ".png")])
    kept: dict[str, svg.Plot] = {}
    text = page.page(records, root, path, figures, kept.__setitem__)
    if folder:
        image.save(kept, folder)
    replace_file(path, lambda hidden: hidden.write_text(text, encoding="utf-8"))
    size = path.stat().st_size
    if arguments.json:
        console.write_json({"report": path, "bytes": size, "runs": len(records)})
    else:
        console.write(f"{path}: {overview.counted(records)}, {formats.size(size)}")
