#!/usr/bin/env python
"""The command lambda-hat-report, run from a source tree: see lambda_hat/commands/report.py."""

from lambda_hat.commands.report import main

if __name__ == "__main__":
    main()
