"""A target as a directory: built, written, and read back. data.npz, params.npz and meta.json; arrays only, never pickles."""

import os
import platform
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lambda_hat import store
from lambda_hat.config import FromTeacher
from lambda_hat.store import provenance
from lambda_hat.system import devices
from lambda_hat.targets import curvature as curvatures
from lambda_hat.targets import data as datasets
from lambda_hat.targets import losses, models, training

MOST_LOSSES = 16
"""Losses that are kept with what was compiled for them, in one process."""

MOVED = 0.01
"""Share of |w0| by which a polish may move the parameters without a word."""

_LOSSES = {}


class Target(NamedTuple):
    """A trained network, or an analytic model, with its data.

    Attributes:
        model: `models.Model`.
        params: the minimum w0, as the model's parameters.
        x, y: the data set.
        noise_scale: σ of the labels as the likelihood takes it; None for class labels.
        meta: what meta.json says.
    """

    model: models.Model
    params: models.Params
    x: np.ndarray
    y: np.ndarray
    noise_scale: float | None
    meta: dict

    @property
    def w0(self):
        """Flat parameters `[p]`, float64."""
        return np.asarray(ravel_pytree(self.params)[0], float)

    @property
    def widest(self):
        """Numbers that the widest layer holds for one example, inputs included."""
        return self.model.widest(self.params, self.x)

    def loss_name(self, posterior):
        """What L_n is under a posterior's configuration: analytic, cross-entropy, nll, mse, …"""
        if self.model.potential is not None:
            return "analytic"
        return "cross-entropy" if np.issubdtype(self.y.dtype, np.integer) else posterior.loss

    def noise_scale_in(self, posterior):
        """σ where L_n under a posterior's configuration depends on it; else None."""
        return self.noise_scale if self.loss_name(posterior) in ("nll", "student_t") else None

    def rows(self, dtype):
        """The data cut into chunks, in a precision."""
        parts = devices.parts(6 * len(self.x) * len(self.w0)) if self.x.size else 1
        return losses.to_rows(self.x, self.y, self.widest, dtype, parts)

    def loss(self, posterior):
        """The loss that a posterior configuration names: the same one for all targets that differ in numbers only.

        So that what was compiled for one serves the others.
        """
        classes = bool(np.issubdtype(self.y.dtype, np.integer))
        structure = str((jax.tree.structure(self.params), [leaf.shape for leaf in jax.tree.leaves(self.params)]))
        likelihood = classes, posterior.loss, self.noise_scale, posterior.student_t_df
        key = (self.model.key, structure, *likelihood)
        if key not in _LOSSES:
            if len(_LOSSES) == MOST_LOSSES:
                _LOSSES.clear()
                jax.clear_caches()
            _LOSSES[key] = losses.build(
                self.model,
                self.params,
                self.y,
                loss=posterior.loss,
                noise_scale=self.noise_scale,
                student_t_df=posterior.student_t_df,
            )
        return _LOSSES[key]


def build(config, log, journal=None):
    """Draw the data and find w0.

    Arguments:
        config: the whole `config.Config`; posterior and sampler are not looked at.
        log: called with a line for each phase.
        journal: the `Journal` that training goes on from; None = nothing is kept.

    Raises:
        BrokeDown: where training does.
    """
    model = models.build(config.model)
    data = datasets.build(config.data, model, config.seed)
    start = model.init(datasets.key(config.seed, "init"))
    at_teacher = isinstance(config.training, FromTeacher)
    if at_teacher and data.teacher is not None:
        start = data.teacher
    noise_scale = datasets.source(config.data).noise_scale
    target = Target(model, start, data.x, data.y, noise_scale, {})
    flat, unravel = ravel_pytree(start)
    loss = losses.build(model, start, data.y, loss="nll", noise_scale=noise_scale, student_t_df=4.0)
    log(f"target: {flat.size} parameters, {len(data.x)} pairs; {config.training.kind} …")
    minimum = training.train(
        config.training, loss, target.rows, len(data.x), flat, datasets.key(config.seed, "training"), journal
    )
    if minimum.metrics["steps"] and minimum.metrics["polish_distance"] > MOVED * minimum.metrics["w0_norm"]:
        log(
            "target: the polish moved w by {polish_distance:.3g} to |w0| = {w0_norm:.3g}, L_n from {L0_before_polish:.4g} to "
            "{L0:.4g}; training.polish_steps=0 keeps where the optimizer ended".format(**minimum.metrics)
        )
    params = unravel(jnp.asarray(minimum.w0))
    truth = model.truth(config.data, config.training, start if at_teacher else params)
    meta = {
        "target_id": None,
        "created_at": store.created_at(),
        "code_sha": provenance.code_sha(),
        "jax_enable_x64": bool(jax.config.jax_enable_x64),
        "pkg_versions": provenance.versions(),
        "seed": config.seed,
        "model": config.names.model or config.model.kind,
        "data": config.names.data or config.data.kind,
        "model_cfg": config.model,
        "data_cfg": config.data,
        "training_cfg": config.training,
        "widths": list(model.widths),
        "noise_scale": noise_scale,
        "dims": {"n": len(data.x), "d": data.x.shape[1], "p": int(flat.size)},
        "metrics": minimum.metrics,
        "truth": None
        if truth is None
        else {
            "lambda": float(truth.learning_coefficient),
            "multiplicity": truth.multiplicity,
            "source": truth.source,
            "local": truth.local,
            "least": None if truth.least is None else float(truth.least),
        },
        "hostname": platform.node(),
    }
    return target._replace(params=params, meta=meta)


def write(directory, target, target_id):
    """Write a target's files into a directory that is not published yet."""
    directory = Path(directory)
    np.savez(directory / "data.npz", X=target.x, Y=target.y)
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(target.params)
    }
    np.savez(directory / "params.npz", **leaves)
    meta = target.meta | {
        "target_id": target_id,
        "hashes": {name: store.sha256(directory / name) for name in ("data.npz", "params.npz")},
    }
    store.write_json(directory / "meta.json", store.plain(meta))


def read(directory, model_config, data_config):
    """Read a published target.

    Raises:
        StoreError: where a file is missing, damaged or another target's.
    """
    directory = Path(directory)
    meta = store.read_json(directory / "meta.json", "target_id", "hashes")
    store.check_maker(directory / "meta.json", "target_id", meta["target_id"], directory.name)
    for name in ("data.npz", "params.npz"):
        store.check_hash(directory / name)
        store.check_maker(
            directory / name, "hash in meta.json", meta["hashes"].get(name), store.hashes(directory)[name]
        )
    data, leaves = store.read_arrays(directory / "data.npz"), store.read_arrays(directory / "params.npz")
    model = models.build(model_config)
    shapes = jax.eval_shape(model.init, devices.key(0))
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(leaves[jax.tree_util.keystr(path, simple=True, separator=".")]), shapes
    )
    noise_scale = meta.get("noise_scale", datasets.source(data_config).noise_scale)
    return Target(model, params, data["X"], data["Y"], noise_scale, meta)


def in_memory(model, params, x, y, noise_scale):
    """The `Target` of a model at parameters that are w0 as they are, of which nothing is written."""
    p = sum(leaf.size for leaf in jax.tree.leaves(params))
    meta = {"target_id": "", "dims": {"n": len(x), "p": p}, "truth": None}
    return Target(model, params, x, y, noise_scale, meta)


def curvature_at(target, posterior):
    """The curvature of the posterior's loss at w0, as whoever reads it from a file has it."""
    dtype = np.float64 if len(target.w0) <= curvatures.DENSE_LIMIT else np.float32
    arrays = curvatures.at(target.loss(posterior), target.rows(dtype), target.w0, seed=0).to_arrays()
    if "eigenvectors" in arrays:  # they whiten, and need no more
        arrays["eigenvectors"] = arrays["eigenvectors"].astype(np.float32)
    return curvatures.from_arrays(arrays)


def curvature(directory, target, posterior, scratch):
    """The curvature of the posterior's loss at w0: computed once, kept with the target, whose id and hashes it names.

    A file that names none, of an earlier version, could be any target's: the curvature is then computed anew.

    Arguments:
        scratch: a directory on the same file system, made where it is not there, for what is then given its name in one step.

    Raises:
        StoreError: where the file is there and damaged, or another target's.
    """
    name = posterior.loss + (f"_{posterior.student_t_df:g}" if posterior.loss == "student_t" else "")
    path, hidden = Path(directory) / f"curvature_{name}.npz", Path(scratch) / "curvature.npz"
    made_from = {"target_id": target.meta["target_id"], "loss": name, **target.meta["hashes"]}
    if os.path.lexists(path):
        arrays = store.read_sealed_arrays(path)
        if (maker := store.take_maker(path, arrays)) is not None:
            for what, expected in made_from.items():
                store.check_maker(path, what, maker.get(what), expected)
            return curvatures.from_arrays(arrays)
    made = curvature_at(target, posterior)
    hidden.parent.mkdir(exist_ok=True)
    with open(hidden, "wb") as file:
        store.write_sealed_arrays(file, made.to_arrays(), made_from)
        file.flush()
        os.fsync(file.fileno())
    os.replace(hidden, path)
    return made
