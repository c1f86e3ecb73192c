#!/usr/bin/env python
"""Build targets alone: data, network and minimum.

python bin/build_target.py -m seed=1,2,3
"""

from lambda_hat.commands.main import main

if __name__ == "__main__":
    main("target")
