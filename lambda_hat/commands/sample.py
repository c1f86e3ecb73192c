"""bin/sample.py: sample the local posterior of a target, which is trained first where that is missing."""

from lambda_hat.commands import main as hydra_entry


def main():
    """Entry point of bin/sample.py and of lambda-hat-sample."""
    hydra_entry.main("run")


if __name__ == "__main__":
    main()
