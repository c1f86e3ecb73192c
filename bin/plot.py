#!/usr/bin/env python
"""The command lambda-hat-plot, run from a source tree: see lambda_hat/commands/plot.py."""

from lambda_hat.commands.plot import main

if __name__ == "__main__":
    main()
