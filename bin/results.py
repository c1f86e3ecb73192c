#!/usr/bin/env python
"""All runs as one tidy table, a line for each, and summaries by group.

python bin/results.py                                     # what varies, λ̂ and its error, status
python bin/results.py groupby=sampler,n_data              # a line for each group
python bin/results.py sampler=hmc status=ok -o hmc.csv    # all columns, to a file: .csv .parquet .json
python -c 'import lambda_hat.inspect.results as r; print(r.load("runs"))'    # a pandas DataFrame
"""

from lambda_hat.commands import results as summary

if __name__ == "__main__":
    summary.main(__doc__)
