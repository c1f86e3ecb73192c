#!/usr/bin/env python
"""The command lambda-hat-status, run from a source tree: see lambda_hat/commands/status.py."""

from lambda_hat.commands.status import main

if __name__ == "__main__":
    main()
