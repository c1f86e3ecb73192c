"""Local Learning Coefficients of small neural networks. Importing this costs nothing: no JAX, no plotting."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambda_hat.inspect.records import open_run, open_target
    from lambda_hat.inspect.table import load_results
    from lambda_hat.jobs.estimate import estimate
    from lambda_hat.report.plots import plot

__version__ = "0.1.0"

_HOMES = {
    "estimate": ("lambda_hat.jobs.estimate", "estimate"),
    "load_results": ("lambda_hat.inspect.table", "load_results"),
    "open_run": ("lambda_hat.inspect.records", "open_run"),
    "open_target": ("lambda_hat.inspect.records", "open_target"),
    "plot": ("lambda_hat.report.plots", "plot"),
}
"""Where the public names live; a module is imported when its name is first used."""

__all__ = ["__version__", "estimate", "load_results", "open_run", "open_target", "plot"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
