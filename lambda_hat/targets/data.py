"""Data sets: inputs from a named distribution, labels from a teacher and a noise model; the handwritten digits; tokens; files.

Each is a subclass of `Source`; `_SOURCES` says which configuration is drawn by which.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Num
from threadpoolctl import threadpool_limits

from lambda_hat.config import Digits, FileData, ModularAddition, Sequences, SingleFeatures, TeacherData
from lambda_hat.store import given
from lambda_hat.system import devices
from lambda_hat.system.errors import ConfigError
from lambda_hat.targets import models

STREAMS = ("x", "noise", "teacher", "init", "training", "held out")
"""Random streams of a target's seed; a new one goes to the end, so that the others keep their draws."""


MOST_HELD_OUT = 10_000
"""Most pairs of a teacher that are drawn besides, for the loss on pairs that are not trained on."""


class Data(NamedTuple):
    """The pairs (x, y), and the teacher that the labels came from.

    Attributes:
        x: inputs `[n, …]`, float64 or integer; `[n, 0]` for analytic models.
        y: labels `[n, …]` float64, or class numbers `[n, …]` int64.
        teacher: the teacher's parameters, or None.
        teacher_model: the `models.Model` they belong to, or None.
        table: what inputs and labels are called in the table that they are from, or None.
    """

    x: Num[np.ndarray, "n ..."]
    y: Num[np.ndarray, "n ..."]
    teacher: models.Params | None = None
    teacher_model: models.Model | None = None
    table: given.Table | None = None


class Source(ABC):
    """Where pairs come from.

    Attributes:
        config: its configuration.
    """

    config: Any

    @property
    @abstractmethod
    def noise_scale(self) -> float | None:
        """σ of real-valued labels as the likelihood takes it; None for class numbers, and where only w0 tells, or nobody."""

    @abstractmethod
    def draw(self, model: models.Network, seed: int) -> Data:
        """The pairs for a network.

        Raises:
            ConfigError: where they do not fit the model.
        """

    def held_out(self, model: models.Network, seed: int) -> Data | None:
        """Pairs of the same origin that are not among those; None where there are none."""
        return None


def source(config: Any) -> Source:
    """The `Source` that a data configuration describes."""
    return _SOURCES[type(config)](config)


@threadpool_limits.wrap(limits=1, user_api="blas")  # sums in an order that the number of cores has no part in
def build(config: Any, model: models.Model, seed: int) -> Data:
    """Draw the data set of a configuration; a loss of the weights alone has no use for more than the number of pairs.

    Arguments:
        config: the data configuration.
        model: for dimensions, and for the teacher where it is to be like the model.
        seed: the target's seed.
    """
    if isinstance(model, models.Potential):
        return Data(np.zeros((config.n_data, 0)), np.zeros((config.n_data, 0)))
    assert isinstance(model, models.Network)
    return source(config).draw(model, seed)


@threadpool_limits.wrap(limits=1, user_api="blas")
def held_out(config: Any, model: models.Model, seed: int) -> Data | None:
    """Pairs of the same origin as `build`'s that are not among them; None where there are none.

    A teacher's and sequences are drawn anew, of all others they are those that `n_data` leaves.
    """
    return source(config).held_out(model, seed) if isinstance(model, models.Network) else None


@dataclass(frozen=True)
class Teacher(Source):
    """Labels from a teacher network, with noise."""

    config: TeacherData

    @property
    def noise_scale(self):
        return self.config.noise_scale

    def draw(self, model, seed):
        if model.in_dim is None:
            raise ConfigError(
                f"data={self.config.kind} draws inputs for a model that states in_dim, and this one does not: give it "
                "in_dim, or take data=file."
            )
        x = _inputs(self.config, model.in_dim, rng(seed, "x"))
        return _labelled(self.config, x, model, seed, rng(seed, "noise"))

    def held_out(self, model, seed):
        if self.config.x_dist not in _PLAIN or self.config.x_whiten:  # what their shape is drawn from comes first
            return None
        config, generator = replace(self.config, n_data=min(self.config.n_data, MOST_HELD_OUT)), rng(seed, "held out")
        return _labelled(config, _inputs(config, model.in_dim, generator), model, seed, generator)


def _labelled(config, x, model, seed, generator):
    """Inputs with the teacher's outputs and noise for labels."""
    teacher, params = model.teacher(config, key(seed, "teacher"))
    clean = devices.to_host(teacher.apply(params, jnp.asarray(x))).astype(float)
    return Data(x, clean + _noise(config, x, clean.shape, generator), params, teacher)


@dataclass(frozen=True)
class HandwrittenDigits(Source):
    """Scikit-learn's digits."""

    config: Digits

    @property
    def noise_scale(self):
        return None

    def draw(self, model, seed):
        return self._part(seed, slice(self.config.n_data))

    def held_out(self, model, seed):
        rest = self._part(seed, slice(self.config.n_data, None))
        return rest if len(rest.x) else None

    def _part(self, seed, part):
        from sklearn.datasets import load_digits

        x, y = map(np.asarray, load_digits(return_X_y=True))
        subset = rng(seed, "x").permutation(len(x))[part]
        return Data(x[subset] / 16.0, y[subset].astype(np.int64))


@dataclass(frozen=True)
class SumsModuloP(Source):
    """All pairs below a modulus in random order, with their sums."""

    config: ModularAddition

    @property
    def noise_scale(self):
        return None

    def draw(self, model, seed):
        return self._part(seed, slice(self.config.n_data))

    def held_out(self, model, seed):
        rest = self._part(seed, slice(self.config.n_data, None))
        return rest if len(rest.x) else None

    def _part(self, seed, part):
        modulus = self.config.modulus
        x = np.stack(np.divmod(rng(seed, "x").permutation(modulus**2)[part], modulus), 1)
        return Data(x, x.sum(1) % modulus)


@dataclass(frozen=True)
class OneFeatureOn(Source):
    """Vectors with one feature on, each feature in as many of them as any other but for one."""

    config: SingleFeatures

    @property
    def noise_scale(self):
        return self.config.noise_scale

    def draw(self, model, seed):
        generator, config = rng(seed, "x"), self.config
        x = np.zeros((config.n_data, config.features))
        which = generator.permutation(np.arange(config.n_data) % config.features)
        x[np.arange(config.n_data), which] = generator.random(config.n_data)
        return Data(x, x.copy())


@dataclass(frozen=True)
class RepeatedSequences(Source):
    """Markov chains of tokens, repeated once."""

    config: Sequences

    @property
    def noise_scale(self):
        return None

    def draw(self, model, seed):
        return self._some(self.config.n_data, seed, rng(seed, "x"))

    def held_out(self, model, seed):
        """Drawn anew: some may be like one of those, as they are in the distribution that both are from."""
        return self._some(min(self.config.n_data, MOST_HELD_OUT), seed, rng(seed, "held out"))

    def _some(self, n, seed, generator):
        tokens, half = self.config.vocabulary, self.config.half
        concentration = np.full(tokens, self.config.concentration)
        following = rng(seed, "teacher").dirichlet(concentration, tokens).cumsum(1)
        chain = generator.integers(tokens, size=(n, 1))
        while chain.shape[1] < half:
            after = (generator.random((n, 1)) > following[chain[:, -1], :-1]).sum(1, keepdims=True)
            chain = np.concatenate([chain, after], 1)
        x = np.concatenate([chain, chain], 1)
        y = x[:, 1:].copy()
        wrong = generator.random((n, half)) < self.config.noise
        y[:, half - 1 :][wrong] = generator.integers(tokens, size=(n, half))[wrong]
        return Data(x[:, :-1], y)


@dataclass(frozen=True)
class FromFile(Source):
    """Pairs that a file holds."""

    config: FileData

    @property
    def noise_scale(self):
        return None if self.config.noise_scale == "residual" else self.config.noise_scale

    def draw(self, model, seed):
        return self._part(seed, slice(self.config.n_data))

    def held_out(self, model, seed):
        rest = self._part(seed, slice(self.config.n_data, None))
        return rest if len(rest.x) else None

    def _part(self, seed, part):
        assert self.config.path is not None and self.config.n_data is not None
        self.config.facts()  # refuses a file that has changed
        x, y, table = given.pairs(self.config.path, self.config.labels_path, self.config.target)
        if self.config.n_data < len(x):
            subset = rng(seed, "x").permutation(len(x))[part]
            x, y = given.widened(x[subset]), given.widened(y[subset])
        elif part.start is not None:  # all pairs are trained on
            x, y = x[:0], y[:0]
        return Data(x, y if self.config.classes else y.astype(np.float64), table=table)


_SOURCES = {
    TeacherData: Teacher,
    Digits: HandwrittenDigits,
    ModularAddition: SumsModuloP,
    Sequences: RepeatedSequences,
    SingleFeatures: OneFeatureOn,
    FileData: FromFile,
}
"""What draws the data of each configuration."""


def rng(seed, stream):
    """NumPy generator of a named stream."""
    return np.random.default_rng([seed, STREAMS.index(stream)])


def key(seed, stream):
    """JAX key of a named stream."""
    return jax.random.fold_in(devices.key(seed), STREAMS.index(stream))


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


_PLAIN = ("gauss_iso", "uniform", "heavy_tail")
"""Distributions that draw nothing but the inputs themselves."""


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
