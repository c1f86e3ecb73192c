#!/usr/bin/env python
"""What is there: every run's status, λ̂ ± its error, and what is to be said about it.

python bin/status.py                                    # everything under runs/
python bin/status.py /data/runs sampler=hmc status=bad,failed data.n_data=500
python bin/status.py -m sampler=hmc,sgld seed=1,2,3     # this sweep, and what of it is missing
python bin/status.py --diff run_hmc_3c7d73da run_hmc_f047d87a
"""

from lambda_hat.commands import status

if __name__ == "__main__":
    status.main(__doc__)
