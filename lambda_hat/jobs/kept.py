"""An estimate that a store keeps: the caller's arrays become files, and what follows is the command line's own way.

So the names are those that `model=custom model.source=… data=file data.path=… training=given training.path=…` has for files that
`numpy.savez` writes of the same arrays.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Num
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lambda_hat import config as configs
from lambda_hat import store
from lambda_hat.analysis import trace
from lambda_hat.analysis.estimation import Settings
from lambda_hat.analysis.summary import Summary
from lambda_hat.config import hydra_glue, messages
from lambda_hat.config.sizes import Sizes
from lambda_hat.jobs import memory, pipeline
from lambda_hat.system import devices, home
from lambda_hat.system.errors import ConfigError
from lambda_hat.targets import custom
from lambda_hat.targets import source as sources
from lambda_hat.targets.models import Params

ASIDE = 0.1
"""How far from w0 two networks are compared a second time, over the size of each array: many agree where all weights are zero."""


class Identity(NamedTuple):
    """Where an estimate is kept, and what its network is named after.

    Attributes:
        root: of the store.
        source: `net.py:make`.
        options: what `make` is given, by name.
    """

    root: str
    source: str
    options: dict[str, Any] | None


def identity(root: Any, source: Any, options: Any, unnamed: dict[str, Any]) -> Identity | None:
    """What `store`, `source` and `options` of an estimate say together; None where nothing is to be kept.

    Arguments:
        unnamed: arguments that no source stands for, by name; None where they are not given.

    Raises:
        ConfigError: where one lacks another, or there is what cannot be kept.
    """
    if root is None:
        for name, value in {"source": source, "options": options}.items():
            if value is not None:
                raise ConfigError(
                    f"{name} has a use only with store, the directory of results that are named after it; got {value!r:.60} "
                    "without: give store='runs' as well, or leave it out."
                )
        return None
    if not isinstance(root, str | os.PathLike) or not os.fspath(root):
        raise ConfigError(f"store must be the path of a directory, such as 'runs'; got {root!r:.60}.")
    if given := [name for name, value in unnamed.items() if value is not None]:
        raise ConfigError(
            f"store={str(root)!r} keeps networks that a source makes, whose loss has a name; got {' and '.join(given)}, a function "
            "that results could not be named after: leave store out."
        )
    if not isinstance(source, str):
        raise ConfigError(
            f"store={str(root)!r} names what it keeps after the source of the network, a file and the function in it that makes "
            f"it; got source={source!r:.60}: give source='net.py:make', or leave store out."
        )
    return Identity(os.path.expanduser(os.fspath(root)), source, options)


def keep(
    named: Identity,
    settings: Settings,
    sizes: Sizes,
    apply: Callable,
    params: Params,
    x: Num[Any, "n ..."],
    y: Num[Any, "n ..."],
    noise_scale: float | str | None,
) -> tuple[Summary, xr.DataTree, float | None]:
    """The run of a caller's network in a store, made where it is not there yet.

    Arguments:
        named: where, and after which source.
        settings: posterior and sampler.
        sizes: of the network.
        apply, params, x, y, noise_scale: as `lambda_hat.estimate` has found them fit.

    Returns:
        its summary, its trace, and σ of the labels.

    Raises:
        ConfigError: where the source makes another network than `apply`, or `params` are not its parameters.
        UserError: where the store cannot be written or is damaged, or the run does not fit into memory.
    """
    with tempfile.TemporaryDirectory(prefix="lambda_hat_") as directory:
        pairs, weights = Path(directory, "xy.npz"), Path(directory, "w.npz")
        store.write_arrays(pairs, {"X": _as_numpy(x), "Y": _as_numpy(y)})
        store.write_arrays(weights, {name: _as_numpy(leaf) for name, leaf in custom.named_leaves(params).items()})
        config = _config(named, settings, str(pairs), str(weights), noise_scale)
        _refuse_another(named.source, config, apply, params, x)
        job = pipeline.job("run", config)
        if not pipeline.is_done(job):
            memory.check(config, "run", sizes)
            with home.lent():
                pipeline.make(job)
        pipeline.tidy(job)
    pipeline.tell_result(job)
    path = job.directory / "trace.nc"
    store.check_hash(path)
    with trace.read(path) as tree:
        tree.load()
    meta = store.read_json(job.paths.target / "meta.json", "noise_scale")
    return Summary.read(job.directory), tree, meta["noise_scale"]


def _as_numpy(values):
    array = np.asarray(values)
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.kind != "f":  # bfloat16, which .npz files do not know
        return array.astype(np.float32)
    return array


def _config(named, settings, pairs, weights, noise_scale):
    """The configuration of the command line that names the same things."""
    words = (f"sampler={settings.sampler.name}", "model=custom", "data=file", "training=given")
    composed = hydra_glue.composed(*words)
    scale = noise_scale if noise_scale is None or isinstance(noise_scale, str) else float(noise_scale)
    values = {
        "model": {"source": named.source, "options": named.options},
        "data": {"path": pairs, "noise_scale": scale},
        "training": {"path": weights},
        "posterior": asdict(settings.posterior),
        "sampler": asdict(settings.sampler),
        "store": {"root": named.root},
        "runtime": {
            "figures": False,
            "progress": False,
        },  # both are for a terminal: matplotlib would be told to use no screen
        "logger": None,
    }
    try:
        for group, value in values.items():
            OmegaConf.update(composed, group, value, merge=True)
    except OmegaConfBaseException as error:
        raise ConfigError(messages.of(error)) from error
    return hydra_glue.to_config(composed)


def _refuse_another(source: str, config: configs.Config, apply: Callable, params: Params, x: Any) -> None:
    """See that a source makes the network of the caller: the same parameters, and the same outputs at w0 and beside it."""
    x, few = np.asarray(x), np.linspace(0, len(x) - 1, custom.CHECKED_EXAMPLES).astype(int)
    first, examples = (custom.check_arrays(part, part)[0] for part in (x[:2], x[few]))
    network = sources.OwnNetwork(config.model).on(first, config.seed)
    arrays = {name: np.asarray(leaf) for name, leaf in custom.named_leaves(params).items()}
    its_own = custom.fill_in(network.init(devices.key(config.seed)), arrays, f"params for source={source}")
    callers = custom.as_float64(params, "params")
    config.posterior.moving(custom.named_leaves(its_own))
    for where, by in (("at w0", 0.0), ("beside w0", ASIDE)):
        ours, theirs = (
            np.asarray(
                custom.call(
                    name, function, jax.tree.map(lambda leaf, by=by: _moved(leaf, by), w), jnp.asarray(examples)
                ),
                float,
            )
            for name, function, w in (("apply", apply, callers), (source, network.apply, its_own))
        )
        ours = ours[:, None] if ours.ndim == 1 else ours
        scale = max(np.max(np.abs(each), initial=1e-300, where=np.isfinite(each)) for each in (ours, theirs))
        if ours.shape != theirs.shape:
            difference = f"has outputs of shape {theirs.shape} for {len(examples)} examples, and apply has {ours.shape}"
        elif not np.allclose(ours, theirs, rtol=0, atol=custom.BATCH_TOLERANCE * scale, equal_nan=True):
            most = np.nanmax(np.abs(ours - theirs))
            difference = f"has other outputs than apply {where}: they differ by up to {most:.3g}, of {scale:.3g}"
        else:
            continue
        raise ConfigError(
            f"source={source} must make the network that apply computes, since the store runs the source; it {difference}. Name "
            "the source of this network, or take apply and params from what it makes."
        )


def _moved(leaf, by):
    """An array moved by this share of its size, the same for arrays of the same shape."""
    size = jnp.sqrt(jnp.mean(leaf**2))
    return leaf + by * jnp.where(size > 0, size, 1.0) * jnp.sin(1.0 + jnp.arange(leaf.size)).reshape(leaf.shape)
