#!/usr/bin/env python
"""Copy the figures and the table of the newest or the best run of each sampler to a place that keeps its name.

python bin/promote.py single --to docs/figures --figure running_llc
python bin/promote.py gallery target=tgt_0ba2ae26b480 --to docs/gallery --pick best
"""

from lambda_hat.commands import promote

if __name__ == "__main__":
    promote.main(__doc__)
