#!/usr/bin/env python
"""Sample the local posterior of a target, which is trained first where that is missing.

python bin/sample.py -m sampler=hmc,sgld,mclmc
"""

from lambda_hat.commands.main import main

if __name__ == "__main__":
    main("run")
