#!/usr/bin/env python
"""The command lambda-hat-results, run from a source tree: see lambda_hat/commands/results.py."""

from lambda_hat.commands.results import main

if __name__ == "__main__":
    main()
