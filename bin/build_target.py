#!/usr/bin/env python
"""The command lambda-hat-build-target, run from a source tree: see lambda_hat/commands/build_target.py."""

from lambda_hat.commands.build_target import main

if __name__ == "__main__":
    main()
