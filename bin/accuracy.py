#!/usr/bin/env python
"""How right the results under a root are, where λ is known: a table, a summary by sampler, two figures.

python bin/accuracy.py [root]        root: runs unless given; figures go to <root>/accuracy/
"""

import sys
from pathlib import Path

from lambda_hat.analysis import accuracy
from lambda_hat.system.errors import UserError

if __name__ == "__main__":
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    root = Path(sys.argv[1] if len(sys.argv) == 2 else "runs")
    try:
        rows = accuracy.load(root)
        print(accuracy.table(rows), "\n\n", accuracy.summary(rows), sep="")
        accuracy.draw(rows, root / "accuracy")
        print(f"\nfigures: {root / 'accuracy'}")
    except UserError as error:
        sys.exit(str(error))
    except BrokenPipeError:  # the reader has seen enough
        sys.exit(0)
