"""bin/build_target.py: build targets alone, each a data set, a network and a minimum w0."""

from lambda_hat.commands import main as hydra_entry


def main():
    """Entry point of bin/build_target.py and of lambda-hat-build-target."""
    hydra_entry.main("target")


if __name__ == "__main__":
    main()
