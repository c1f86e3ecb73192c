"""bin/accuracy.py: how accurate the results under a root are, where λ is known."""

from lambda_hat.inspect import tell

DOC = """How accurate the results under a root are, where λ is known: a table, a summary by sampler, two figures.

    %(prog)s                # of runs/; the figures go to runs/accuracy/
    %(prog)s /data/runs
"""


def main():
    """Entry point of bin/accuracy.py and of lambda-hat-accuracy."""
    parser = tell.parser(DOC)
    parser.add_argument("root", nargs="?", default=tell.RUNS, help="where to look (runs unless given)")
    tell.run(_act, parser)


def _act(arguments):
    from pathlib import Path

    from lambda_hat.analysis import accuracy

    root = Path(arguments.root)
    rows = accuracy.load(root)
    if arguments.json:
        tell.write_json([row._asdict() | {"directory": str(row.directory)} for row in rows])
        return
    figures = root / "accuracy"
    tell.write(accuracy.table(rows), "", accuracy.summary(rows))
    accuracy.draw(rows, figures)
    tell.write("", f"figures: {figures}")
