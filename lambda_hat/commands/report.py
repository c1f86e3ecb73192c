"""bin/report.py: a study as one HTML file."""

from lambda_hat.report import page

DOC = """A study as one HTML file, which opens from disk without a network, on a phone too.

    %(prog)s                                    # everything under runs/, to runs/report.html
    %(prog)s /data/runs data.n_data=500 -o report.html
    %(prog)s -m experiment=truth_smoke          # this sweep, and what of it is missing
"""


def main():
    """Entry point of bin/report.py and of lambda-hat-report."""
    page.main(DOC)
