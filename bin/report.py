#!/usr/bin/env python
"""A study as one HTML file, which opens from disk without a network, on a telephone too.

python bin/report.py                                    # everything under runs/, to runs/report.html
python bin/report.py /data/runs data.n_data=500 -o report.html
python bin/report.py -m experiment=truth_smoke          # this sweep; says what of it is missing
"""

from lambda_hat.report import page as report

if __name__ == "__main__":
    report.main(__doc__)
