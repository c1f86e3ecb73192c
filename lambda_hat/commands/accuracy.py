"""bin/accuracy.py: how accurate the results under a root are, where λ is known."""

from lambda_hat.commands import console

DOC = """How accurate the results under a root are, where λ is known: a table, a summary by sampler, two figures.

    %(prog)s                # of runs/; the figures go to runs/accuracy/
    %(prog)s /data/runs sampler=hmc
"""


def main():
    """Entry point of bin/accuracy.py and of lambda-hat-accuracy."""
    parser = console.parser(DOC)
    console.add_words(parser)
    console.run(_act, parser)


def _act(arguments):
    from lambda_hat.inspect import accuracy

    root, filters = console.split(arguments)
    rows = accuracy.load(root, filters)
    if arguments.json:
        console.write_json([row._asdict() | {"directory": str(row.directory)} for row in rows])
        return
    figures = root / "accuracy"
    console.write(accuracy.table(rows), "", accuracy.summary(rows))
    accuracy.draw(rows, figures)
    console.write("", f"figures: {figures}")
