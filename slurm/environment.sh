# Sets up a shell, or a job (hydra.launcher.setup: ["source slurm/environment.sh"]), to run lambda_hat on a cluster's GPUs.
# The first time it makes the virtual environment, which has to happen where the internet can be reached: source it on a login node.
#   MODULES="python/3.12" VENV=$SCRATCH/lambda_hat_venv source slurm/environment.sh
MODULES=${MODULES:-}                                  # of your cluster; CUDA itself comes with jax[cuda12]
VENV=${VENV:-$HOME/.venvs/lambda_hat}

if [ -n "$MODULES" ]; then module load $MODULES; fi
if [ ! -e "$VENV/bin/activate" ]; then
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    python3 -m venv "$VENV" && "$VENV/bin/pip" install -e "$here" "jax[cuda12]" || rm -rf "$VENV"
fi
. "$VENV/bin/activate"
