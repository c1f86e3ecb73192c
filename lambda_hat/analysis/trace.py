"""trace.nc: the recorded draws, as ArviZ reads them."""

import numpy as np
import xarray as xr


def dataset(draws, loss0, nbeta, warmup_gradients, attributes):
    """The trace as an `xarray.DataTree` with groups posterior (llc, L) and sample_stats.

    Arguments:
        draws: `samplers.loop.Draws`.
        loss0: L_n(w0).
        nbeta: nβ.
        warmup_gradients: full-data gradients spent before the first draw, all chains.
        attributes: of the whole trace; plain numbers and strings.
    """
    records, steps = draws.records, draws.steps
    chains, count = records.excess.shape
    coords = {"chain": np.arange(chains), "draw": np.arange(count)}

    def variable(values, units):
        return (("chain", "draw"), np.asarray(values, float), {"units": units})

    posterior = {
        "llc": variable(records.excess, "nβ(L_n(w) − L_n(w0)); its mean is the LLC"),
        "L": variable(loss0 + records.excess / nbeta, "mean loss"),
    }
    if draws.params is not None:
        posterior["w_minus_w0"] = (("chain", "draw", "parameter"), draws.params, {"units": "w − w0"})
    stats = {
        "distance2": variable(records.distance2, "|w − w0|²"),
        "stein": variable(records.stein, "(w−w0)·∇U, mean p"),
        "stein_curvature": variable(records.stein_curvature, "(w−w0)·A∇U, mean tr A"),
        "diverging": (("chain", "draw"), steps.diverging),
        "gradient_evaluations": variable(
            warmup_gradients / chains + np.cumsum(steps.gradients, 1),
            "full-data gradients of this chain so far, warm-up included",
        ),
        # not "seconds since …" in the units: CF conventions take that for a date
        "time": (("draw",), draws.seconds, {"units": "s", "long_name": "since the first draw began"}),
    }
    for name, values, units in (
        ("acceptance_rate", steps.acceptance, "probability"),
        ("energy", steps.energy, "−log π + kinetic energy"),
        ("energy_error2", steps.energy_error2, "squared energy change of a step"),
    ):
        if not np.all(np.isnan(values)):
            stats[name] = variable(values, units)
    groups = {"/": xr.Dataset(attrs=attributes)}
    groups["/posterior"] = xr.Dataset(posterior, coords)
    groups["/sample_stats"] = xr.Dataset(stats, coords)
    return xr.DataTree.from_dict(groups)


def write(path, tree):
    """Write the trace as netCDF 4."""
    tree.to_netcdf(path, engine="h5netcdf")


def read(path):
    """Read a trace back as an `xarray.DataTree`."""
    return xr.open_datatree(path, engine="h5netcdf")
