#!/usr/bin/env python
"""The command lambda-hat-accuracy, run from a source tree: see lambda_hat/commands/accuracy.py."""

from lambda_hat.commands.accuracy import main

if __name__ == "__main__":
    main()
