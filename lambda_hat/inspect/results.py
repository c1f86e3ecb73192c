"""All runs under a root as one tidy table: a line for each, with its result, its error bar, its status and what it varies in.

frame = lambda_hat.inspect.results.load("runs")            # a pandas DataFrame
"""

from lambda_hat.inspect import choose
from lambda_hat.inspect import rows as looking
from lambda_hat.inspect.row import show


def load(root, **filters):
    """A pandas DataFrame with a row for each run under a root, finished or not.

    Arguments:
        root: the directory that holds targets/.
        filters: what to keep, by short names: `sampler="hmc"`, `status=["warn", "bad"]`, `n_data=500`.

    Returns:
        the columns of COLUMNS, and one for every setting that varies, under its full name (`sampler.draws`).

    Raises:
        StoreError: where there is no such directory, or no such setting.
    """
    import pandas as pd

    chosen = [(key, values if isinstance(values, (list, tuple)) else [values]) for key, values in filters.items()]
    chosen = [(key, [show(value) for value in values]) for key, values in chosen]
    header, lines = table(choose.select(looking.scan(root), chosen))
    return pd.DataFrame(lines, columns=header)


def _result(*path):
    """A number or word at a path into analysis.json."""

    def found(row):
        value = row.result
        for key in path:
            value = value[key] if isinstance(value, (dict, list)) and value else None
        return value

    return found


def _meta(*path):
    def found(row):
        value = row.meta
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    return found


def _setting(key):
    return lambda row: row.settings.get(key)


COLUMNS = {
    "target_id": lambda row: row.target_id,
    "model": _setting("model.kind"),
    "n_data": _setting("data.n_data"),
    "target_params": _meta("dims", "p"),
    "L0": _meta("metrics", "L0"),
    "seed": _setting("seed"),
    "sampler": lambda row: row.sampler,
    "sampler_seed": _setting("sampler.seed"),
    "llc_mean": _result("llc_mean"),
    "llc_std": _result("llc_std"),
    "llc_mcse": _result("llc_mcse"),
    "llc_low95": _result("llc_interval95", 0),
    "llc_high95": _result("llc_interval95", 1),
    "ess": _result("ess"),
    "rhat": _result("rhat"),
    "status": lambda row: row.word,
    "status_reasons": lambda row: "; ".join(row.notes),
    "truth": _meta("truth", "lambda"),
    "truth_finite": _result("truth", "finite"),
    "n": _result("n"),
    "beta": _result("beta"),
    "gamma": _result("gamma"),
    "loss": _result("loss"),
    "total_fges": _result("total_fges"),
    "walltime_sec": _result("walltime_sec"),
    "created_at": _result("created_at"),
    "run_id": lambda row: row.run_id,
    "directory": lambda row: str(row.directory),
}
"""Column → what it holds of a `Row`; None where that is not known.

`llc_std` is the standard deviation of the draws, `llc_mcse` the Monte Carlo standard error of their mean, `truth` the known λ,
`truth_finite` the exact posterior's λ̂ at this (n, β, γ), `total_fges` the full-data gradients spent.
"""

OWN = {"model.kind", "data.n_data", "seed", "sampler.name", "sampler.seed"}
"""Settings that have a column in any case."""


def table(rows):
    """Header and lines of the tidy table of these `Row`s; targets that have no run are left out."""
    rows = [row for row in rows if row.run_id]
    keys = [key for key in choose.varying(rows) if key not in OWN]
    lines = [
        [*(column(row) for column in COLUMNS.values()), *(_plain(row.settings.get(key)) for key in keys)]
        for row in rows
    ]
    return [*COLUMNS, *keys], lines


def _plain(value):
    return show(value) if isinstance(value, (list, tuple)) else value
