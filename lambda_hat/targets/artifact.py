"""A target as a directory: built, written, and read back. data.npz, params.npz and meta.json; arrays only, never pickles."""

import hashlib
import math
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lambda_hat import store
from lambda_hat.config import Custom, Descent, FromTeacher, Given
from lambda_hat.config.sizes import Sizes
from lambda_hat.store import files, provenance
from lambda_hat.system import devices
from lambda_hat.targets import curvature as curvatures
from lambda_hat.targets import custom, losses, models, source, training
from lambda_hat.targets import data as datasets
from lambda_hat.targets import trajectory as trajectories

MOST_LOSSES = 16
"""Losses that are kept with what was compiled for them, in one process."""

MOVED = 0.01
"""Share of |w0| by which a polish may move the parameters without a word."""

SOURCE, BUFFERS = "source.py", "buffers.npz"
"""Files of a target whose model is a user's own: a copy of its source, and the arrays in it that are no parameters."""

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
    def training_step(self):
        """The step of training that w0 is at, unpolished; None for its end, and where there was none."""
        return (self.meta.get("training_cfg") or {}).get("checkpoint")

    @property
    def widest(self):
        """Numbers that the widest layer holds for one example, inputs included."""
        return self.model.widest(self.params, self.x)

    @property
    def sizes(self):
        """The `sizes.Sizes` that memory is told from."""
        leaves = custom.named_leaves(self.params)
        arrays = {name: int(leaf.size) for name, leaf in leaves.items()}
        if self.model.potential is not None:
            return Sizes(arrays)
        squares = {name: curvatures.squares(leaf) for name, leaf in leaves.items()}
        return Sizes(arrays, squares, (self.x.size + self.y.size) // len(self.x), self.widest)

    def loss_name(self, posterior):
        """What L_n is under a posterior's configuration: analytic, cross-entropy, nll, mse, …"""
        if self.model.potential is not None:
            return "analytic"
        return "cross-entropy" if np.issubdtype(self.y.dtype, np.integer) else posterior.loss

    def noise_scale_in(self, posterior):
        """σ where L_n under a posterior's configuration depends on it; else None."""
        return self.noise_scale if self.loss_name(posterior) in ("nll", "student_t") else None

    def rows(self, dtype, chains=1):
        """The data cut into chunks, in a precision, for so many chains."""
        p = len(self.w0)
        parts = devices.parts(6 * len(self.x) * p) if self.x.size else 1
        return losses.to_rows(self.x, self.y, self.widest, dtype, parts, p, chains)

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


def _model(config):
    return source.OwnNetwork(config) if isinstance(config, Custom) else models.build(config)


def prepare(config):
    """Everything that a target is made of, but w0, which is where the search for it begins; tried out where it is a user's own.

    Returns:
        the `Target`, whose `meta` says no more than the table that the pairs are from, where they are.

    Raises:
        ConfigError: where model, data and weights do not fit each other.
    """
    model = _model(config.model)
    data = datasets.build(config.data, model, config.seed)
    model = model.on(data.x, config.seed)
    start, y = model.init(datasets.key(config.seed, "init")), data.y
    if isinstance(config.training, FromTeacher) and data.teacher is not None:
        start = data.teacher
    if isinstance(config.training, Given):
        weights, where = config.training.weights(), f"training.path={config.training.path}"
        if isinstance(model, source.OwnNetwork):
            buffers = {name: weights.pop(name) for name in model.buffers() if name in weights}
            model = model.with_buffers(buffers, where)
        start = custom.fill_in(start, weights, where)
    if isinstance(model, models.Network) and any(part.is_own for part in (config.model, config.data, config.training)):
        name = (isinstance(config.model, Custom) and config.model.callable) or config.model.kind
        y = custom.fit_labels(y, custom.check_network(name, model.apply, start, data.x))
    meta = {} if data.table is None else {"table": data.table._asdict()}
    return Target(model, start, data.x, y, datasets.source(config.data).noise_scale, meta)


def build(config, log, journal=None, kept=None, check=lambda sizes: None):
    """Draw the data and find w0.

    Arguments:
        config: the whole `config.Config`; posterior and sampler are not looked at.
        log: called with a line for each phase.
        journal: the `Journal` that training goes on from; None = nothing is kept.
        kept: the `store.trajectory.Trajectory` that the steps of training are kept in; None = they are not.
        check: called with the target's sizes before the search for w0, where its configuration does not tell them.

    Raises:
        ConfigError: where model, data and weights do not fit each other.
        BrokeDown: where training does.
    """
    target = prepare(config)
    told = None if config.model.arrays() is not None else target.sizes
    if told is not None:
        check(told)
    trajectory = None if kept is None else _along(config, target, kept)
    start = target.params
    log(f"target: {target.w0.size} parameters, {len(target.x)} pairs; {config.training.kind} …")
    target, metrics = _search(config, target, journal, trajectory)
    truth = target.model.truth(
        config.data, config.training, start if isinstance(config.training, FromTeacher) else target.params
    )
    if metrics["steps"] and metrics["polish_distance"] > MOVED * metrics["w0_norm"]:
        log(
            "target: the polish moved w by {polish_distance:.3g} to |w0| = {w0_norm:.3g}, L_n from {L0_before_polish:.4g} to "
            "{L0:.4g}; training.polish_steps=0 keeps where the optimizer ended".format(**metrics)
        )
    meta = target.meta | {
        "target_id": None,
        "created_at": store.created_at(),
        "code_sha": provenance.code_sha(),
        "jax_enable_x64": bool(jax.config.values["jax_enable_x64"]),
        "pkg_versions": provenance.versions() | source.versions(),
        "seed": config.seed,
        "model": config.names.model or config.model.kind,
        "data": config.names.data or config.data.kind,
        "model_cfg": config.model,
        "data_cfg": config.data,
        "training_cfg": store.plain(config.training),
        "widths": list(target.model.widths),
        "noise_scale": target.noise_scale,
        "dims": {"n": len(target.x), "d": math.prod(target.x.shape[1:]), "p": target.w0.size},
        "sizes": told and told._asdict(),
        "metrics": metrics,
        "trajectory": trajectory and trajectory.point and trajectory.point._asdict(),
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
    return target._replace(meta=meta)


def _along(config, target, kept):
    """The trajectory that weights are taken from, with the held-out pairs that its losses are of too."""
    more = datasets.held_out(config.data, target.model, config.seed)
    if more is None:
        return trajectories.Kept(kept)
    y = more.y.reshape(len(more.y), *target.y.shape[1:])
    return trajectories.Kept(kept, losses.to_rows(more.x, y, target.widest, np.float64))


def _search(config, target, journal, trajectory=None):
    """The target at the minimum that is found from its parameters, and how good a minimum that is.

    Where σ is the residuals', it is taken after the first-order steps, which do not depend on it, and again after the polish.
    """
    search, found = config.training, {}
    if isinstance(search, Descent) and search.checkpoint is not None:
        search = replace(search, polish_steps=0)
    stages = [search]
    if config.data.noise_scale == "residual":
        there = {"steps": 0, "checkpoint": None} if isinstance(search, Descent) else {}
        first = [replace(search, polish_steps=0)] if there else []
        second = [replace(search, **there)] if search.polish_steps else []
        stages = [*first, *second, replace(search, polish_steps=0, **there)]
    for number, stage in enumerate(stages):
        descends = isinstance(stage, Descent) and (stage.steps or stage.checkpoint is not None)
        if config.data.noise_scale == "residual" and (number or not descends):
            target = target._replace(noise_scale=_residual_scale(target))
        key = datasets.key(config.seed, "training")
        loss = _likelihood(target)
        along = None if number else trajectory
        minimum = training.train(stage, loss, target.rows, len(target.x), target.w0, key, journal, along)
        target = target._replace(params=ravel_pytree(target.params)[1](jnp.asarray(minimum.w0)))
        done = {name: max(found.get(name, 0), minimum.metrics[name]) for name in ("steps", "polish_iterations")}
        found = minimum.metrics | done
    return target, found


def _likelihood(target):
    """The loss of class labels, of a Gaussian, or where its σ is not known the squared error."""
    real = not np.issubdtype(target.y.dtype, np.integer) and target.model.potential is None
    name = "mse" if real and target.noise_scale is None else "nll"
    return losses.build(
        target.model, target.params, target.y, loss=name, noise_scale=target.noise_scale, student_t_df=4.0
    )


def _residual_scale(target):
    """σ of labels whose variance is the mean squared residual at w0."""
    error = losses.value(
        _likelihood(target._replace(noise_scale=None)), target.rows(np.float64), jnp.asarray(target.w0)
    )
    return custom.residual_scale(float(error) / math.prod(target.y.shape[1:]))


def write(directory, target, target_id):
    """Write a target's files into a directory that is not published yet."""
    directory = Path(directory)
    np.savez(directory / "data.npz", X=target.x, Y=target.y)
    leaves = {name: np.asarray(leaf) for name, leaf in custom.named_leaves(target.params).items()}
    store.write_arrays(directory / "params.npz", leaves)
    if isinstance(target.model, source.OwnNetwork):
        (directory / SOURCE).write_text(source.text(target.model.config), encoding="utf-8")
        store.write_arrays(directory / BUFFERS, target.model.buffers())
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
    data = store.read_arrays(directory / "data.npz", mapped_from=files.MAPPED_FROM)
    leaves = store.read_arrays(directory / "params.npz")
    model = _model(model_config).on(data["X"], meta["seed"])
    if isinstance(model, source.OwnNetwork):
        store.check_hash(directory / BUFFERS)
        model = model.with_buffers(store.read_arrays(directory / BUFFERS), str(directory / BUFFERS))
    like = jax.eval_shape(model.init, devices.key(0))
    found = [jnp.asarray(leaves[name]) for name in custom.named_leaves(like)]
    params = jax.tree.unflatten(jax.tree.structure(like), found)
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
        target: as the posterior sees it (`restriction.seen_by`).
        scratch: a directory on the same file system, made where it is not there, for what is then given its name in one step.

    Raises:
        StoreError: where the file is there and damaged, or another target's.
    """
    name = posterior.loss + (f"_{posterior.student_t_df:g}" if posterior.loss == "student_t" else "")
    if view := {key: target.meta[key] for key in ("parameters", "other_data") if key in target.meta}:
        name += f"_{hashlib.sha256(repr(view).encode()).hexdigest()[:12]}"
    if curvatures.gauss_newton_gradients(target.loss(posterior), target.rows(np.float64), len(target.w0)):
        name += "_gn"  # an earlier version kept the Hessian under the name without
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
