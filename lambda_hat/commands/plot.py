"""bin/plot.py: λ̂, or any statistic, over the settings of a sweep, as a figure with its data."""

from pathlib import Path

from lambda_hat.commands import console
from lambda_hat.inspect import series
from lambda_hat.inspect.filters import select
from lambda_hat.inspect.scan import scan
from lambda_hat.system.errors import StoreError, UserError

DOC = """Draw λ̂, or any column of the results, over swept settings: a figure (SVG and PNG) and its data (CSV).

    %(prog)s x=posterior.gamma                              # λ̂ with its intervals; samplers have the colours
    %(prog)s x=n_data hue=model.widths col=sampler status=ok,warn
    %(prog)s x=posterior.gamma y=ess                        # another column
    %(prog)s x=posterior.gamma heat=posterior.nbeta         # a heat map over two settings
    %(prog)s --calibration sampler=hmc                      # λ̂, |w−w0|/|w0|, Stein identity, status over γ × nβ; plateaus
    %(prog)s x=seed -o seeds.pdf                            # .svg, .png or .pdf, with seeds.csv beside it

Runs that estimate different things (n, β, γ, loss, σ, settings of the target) are different series, never averaged. Bad runs are
crosses and are in no mean. Axes are logarithmic where values span more than a factor of 20.
"""

OPTIONS = ("x", "y", "hue", "col", "heat")
"""Words that are no filters."""


def main():
    """Entry point of bin/plot.py and of lambda-hat-plot."""
    parser = console.parser(DOC)
    console.add_words(parser, "; x= is the setting on the x axis; y=, hue=, col= and heat= are others")
    parser.add_argument("--calibration", action="store_true", help="the page over γ × nβ")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="where to draw it, FILE.svg, .png or .pdf; <root>/plots/… unless given"
    )
    console.run(_act, parser)


def _act(arguments):
    from lambda_hat.report import plots

    root, words = console.split(arguments)
    words, filters = console.options(words, OPTIONS)
    options = console.single(words)
    output = Path(arguments.output).expanduser() if arguments.output is not None else None
    if output is not None and output.suffix not in plots.SUFFIXES:
        raise UserError(f"-o {output}: a figure is written to a file that ends in {', '.join(plots.SUFFIXES)}.")
    if arguments.calibration and options:
        raise UserError(f"--calibration is over γ and nβ; leave {next(iter(options))}= out.")
    records = [record for record in select(scan(root), filters) if record.run_id]
    if not records:
        raise StoreError(f"{root}: no run there matches, so there is nothing to draw.")
    rows = series.rows_of(records, [value for name, value in options.items() if name != "y"])
    drawing = plots.calibration(rows) if arguments.calibration else plots.draw(rows, **{"x": None, **options})
    name = plots.file_name(options) if options else "calibration"
    files = [output] if output else [root / "plots" / f"{name}{suffix}" for suffix in (".svg", ".png")]
    files = plots.save(drawing, files)
    if arguments.json:
        console.write_json(
            {"files": [str(path) for path in files], "runs": len(drawing.rows), "notes": drawing.sentences}
        )
    else:
        console.write(f"{', '.join(map(str, files))}: {len(drawing.rows)} runs", *drawing.sentences)
