#!/usr/bin/env python
"""The command lambda-hat-store, run from a source tree: see lambda_hat/commands/store.py."""

from lambda_hat.commands.store import main

if __name__ == "__main__":
    main()
