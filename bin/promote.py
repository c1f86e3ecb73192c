#!/usr/bin/env python
"""The command lambda-hat-promote, run from a source tree: see lambda_hat/commands/promote.py."""

from lambda_hat.commands.promote import main

if __name__ == "__main__":
    main()
