"""Data sets: inputs from a named distribution, labels from a teacher and a noise model; and the handwritten digits."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lambda_hat.config import Digits
from lambda_hat.targets import models

STREAMS = ("x", "noise", "teacher", "init", "training")
"""Random streams of a target's seed; a new one goes to the end, so that the others keep their draws."""


class Data(NamedTuple):
    """The pairs (x, y) and where they came from.

    Attributes:
        x: inputs `[n, d]`, float64; `[n, 0]` for analytic models.
        y: labels `[n, d_out]` float64, or class numbers `[n]` int64.
        teacher: the teacher's parameters, or None.
        teacher_model: the `models.Model` they belong to, or None.
        x_map: the linear map applied to the inputs if they were whitened, else None.
    """

    x: np.ndarray
    y: np.ndarray
    teacher: models.Params | None
    teacher_model: models.Model | None


def build(config, model_config, seed):
    """Draw the data set of a configuration.

    Arguments:
        config: `config.TeacherData` or `config.Digits`.
        model_config: the model's configuration, for dimensions and for the teacher where it is to be like the model.
        seed: the target's seed.
    """
    if isinstance(config, Digits):
        return _digits(config, seed)
    if not hasattr(model_config, "in_dim"):
        return Data(np.zeros((config.n_data, 0)), np.zeros((config.n_data, 0)), None, None)
    x = _inputs(config, model_config.in_dim, rng(seed, "x"))
    teacher, params = _teacher(config, model_config, key(seed, "teacher"))
    clean = np.asarray(teacher.apply(params, jnp.asarray(x)), float)
    return Data(x, clean + _noise(config, x, clean.shape, rng(seed, "noise")), params, teacher)


def rng(seed, stream):
    """NumPy generator of a named stream."""
    return np.random.default_rng([seed, STREAMS.index(stream)])


def key(seed, stream):
    """JAX key of a named stream."""
    return jax.random.fold_in(jax.random.key(seed), STREAMS.index(stream))


# --- inputs -----------------------------------------------------------------------------------------------------------


def _inputs(config, d, generator):
    x = config.x_scale * _INPUTS[config.x_dist](config, (config.n_data, d), generator)
    if config.x_whiten:
        values, vectors = np.linalg.eigh(x.T @ x / config.n_data)
        if values[0] <= 1e-10 * values[-1]:
            raise ValueError("inputs of less than full rank cannot be whitened")
        x = config.x_scale * x @ (vectors / np.sqrt(values)) @ vectors.T
    return x


def _gauss_aniso(config, shape, generator):
    d = shape[1]
    scales = np.geomspace(1, 1 / config.x_condition, d)
    scales /= np.sqrt(np.mean(scales**2))
    rotation, _ = np.linalg.qr(generator.standard_normal((d, d)))
    return generator.standard_normal(shape) * scales @ rotation.T


def _mixture(config, shape, generator):
    """Equal Gaussians of variance ¼ around centres of variance ¾ a coordinate."""
    centres = np.sqrt(0.75) * generator.standard_normal((config.x_components, shape[1]))
    which = generator.integers(config.x_components, size=shape[0])
    return centres[which] + 0.5 * generator.standard_normal(shape)


def _lowdim_manifold(config, shape, generator):
    """A smooth surface: x_j = √2 sin(a_j·z + φ_j) of z ~ N(0, I) in `x_manifold_dim` dimensions."""
    z = generator.standard_normal((shape[0], config.x_manifold_dim))
    directions = generator.standard_normal((config.x_manifold_dim, shape[1]))
    return np.sqrt(2) * np.sin(z @ directions + generator.uniform(0, 2 * np.pi, shape[1]))


_INPUTS = {
    "gauss_iso": lambda config, shape, generator: generator.standard_normal(shape),
    "gauss_aniso": _gauss_aniso,
    "uniform": lambda config, shape, generator: generator.uniform(-1, 1, shape),
    "mixture": _mixture,
    "lowdim_manifold": _lowdim_manifold,
    "heavy_tail": lambda config, shape, generator: (
        generator.standard_t(config.x_df, shape) * np.sqrt((config.x_df - 2) / config.x_df)
    ),
}


# --- labels -----------------------------------------------------------------------------------------------------------


def _noise(config, x, shape, generator):
    return config.noise_scale * _NOISES[config.noise_model](config, x, shape, generator)


def _hetero(config, x, shape, generator):
    size = np.linalg.norm(x, axis=1, keepdims=True)
    scale = 1 + config.noise_hetero * size / np.sqrt(np.mean(size**2))
    return scale / np.sqrt(np.mean(scale**2)) * generator.standard_normal(shape)


def _outliers(config, x, shape, generator):
    outlier = generator.random((shape[0], 1)) < config.outlier_fraction
    return np.where(outlier, config.outlier_scale, 1.0) * generator.standard_normal(shape)


_NOISES = {
    "gauss": lambda config, x, shape, generator: generator.standard_normal(shape),
    "hetero": _hetero,
    "student_t": lambda config, x, shape, generator: generator.standard_t(config.noise_df, shape),
    "outliers": _outliers,
    "none": lambda config, x, shape, generator: np.zeros(shape),
}


def _teacher(config, model_config, teacher_key):
    """The teacher and its parameters: like the model but for what the data's configuration says."""
    widths = tuple(config.teacher_widths) if config.teacher_widths else models.build(model_config).widths
    activation = config.teacher_activation or getattr(model_config, "activation", "identity")
    teacher = models.network(
        model_config.in_dim,
        widths,
        model_config.out_dim,
        activation=activation,
        bias=getattr(model_config, "bias", False),
        layernorm=getattr(model_config, "layernorm", False),
        init=model_config.init,
    )
    params = teacher.init(teacher_key)
    if config.teacher_rank is not None:
        weights = [params[f"layer{i}"]["weight"] for i in range(len(widths) + 1)]
        if config.teacher_balanced:
            sizes = (model_config.in_dim, *widths, model_config.out_dim)
            weights = balanced_layers(sizes, config.teacher_rank, config.teacher_singular_value, teacher_key)
        else:
            weights = cut_layers(weights, config.teacher_rank, teacher_key)
        for i, weight in enumerate(weights):
            params[f"layer{i}"]["weight"] = weight
    return teacher, params


def balanced_layers(sizes, rank, singular_value, key):
    """Weights of a deep linear network at the balanced point: the deepest singularity above a map of this rank.

    Layer i is Q_i diag(σ, …, σ, 0, …, 0) Q_{i+1}ᵀ with orthogonal Q, so that the same `rank` axes pass through all
    layers and local λ equals the global one (Aoyagi's formula).
    """
    frames = [
        jnp.linalg.qr(jax.random.normal(jax.random.fold_in(key, i), (size, size), jnp.float64))[0][:, :rank]
        for i, size in enumerate(sizes)
    ]
    return [singular_value * left @ right.T for left, right in itertools.pairwise(frames)]


def cut_layers(weights, rank, key):
    """Weights of which one, drawn at random, keeps its `rank` largest singular values only.

    After the random networks of Furman & Lau (arXiv 2402.03698): a point above a map of this rank that is often less
    degenerate than the deepest one.
    """
    which = int(jax.random.randint(jax.random.fold_in(key, 0x637574), (), 0, len(weights)))
    left, values, right = jnp.linalg.svd(weights[which], full_matrices=False)
    cut = left[:, :rank] * values[:rank] @ right[:rank]
    return [cut if i == which else weight for i, weight in enumerate(weights)]


def _digits(config, seed):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    subset = rng(seed, "x").permutation(len(bunch.data))[: config.n_data]
    return Data(bunch.data[subset] / 16.0, bunch.target[subset].astype(np.int64), None, None)
