#!/usr/bin/env python
"""The command lambda-hat-sample, run from a source tree: see lambda_hat/commands/sample.py."""

from lambda_hat.commands.sample import main

if __name__ == "__main__":
    main()
