"""Which directories are packages: those under lambda_hat/, conf/ as `lambda_hat.conf`, and Hydra's plugins.

Everything else about the package is in pyproject.toml.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["lambda_hat", "lambda_hat.*"]), "lambda_hat.conf", "hydra_plugins"],
    package_dir={"lambda_hat.conf": "conf", "hydra_plugins": "slurm/hydra_plugins"},
    package_data={"lambda_hat": ["py.typed"], "lambda_hat.conf": ["**/*.yaml"], "lambda_hat.report": ["*.html"]},
    exclude_package_data={"lambda_hat.conf": ["local/*"]},
)
