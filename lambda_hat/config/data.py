"""Data sets: n pairs (x, y).

A kind of data is a subclass of `Data` here, what draws it (lambda_hat/targets/data.py), and a file in conf/data.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_hat.config.fields import setting
from lambda_hat.config.model import ACTIVATIONS, Network
from lambda_hat.store import given

if TYPE_CHECKING:
    from lambda_hat.config.whole import Config


class Data:
    """What every kind of data says of itself without drawing any.

    Attributes:
        kind: where the pairs come from.
        n_data: number of pairs n.
        sizes: numbers of inputs and outputs that the pairs have; None = as many as the model.
        classes: whether labels are class numbers.
        noise_scale: σ of real-valued labels, or `residual`; None where none is stated.
        has_teacher: whether labels come from a teacher network, whose parameters w0 can be.
        target: column of a table that is the labels; None where they are in no table.
        is_own: whether a user brings it, so that it is tried before work begins.
    """

    kind: str
    n_data: int
    target: str | None = None
    sizes: tuple[int, int] | None = None
    classes: bool = False
    noise_scale: float | int | str | None = None
    has_teacher: bool = False
    is_own = False

    def problems(self, whole: "Config") -> Iterator[str]:
        """Reasons why it cannot be run with the rest of the configuration, a sentence each."""
        if self.sizes is not None and isinstance(whole.model, Network):
            given = whole.model.in_dim, whole.model.out_dim
            if given != self.sizes:
                yield (
                    f"data={self.kind} needs model.in_dim={self.sizes[0]} and model.out_dim={self.sizes[1]}; got "
                    f"{given[0]} and {given[1]}."
                )
        if self.classes and whole.posterior.loss != "nll":
            yield (
                f"posterior.loss must be nll (cross-entropy) for data={self.kind}, whose labels are classes; got "
                f"{whole.posterior.loss}."
            )


@dataclass(frozen=True)
class TeacherData(Data):
    """Inputs drawn from `x_dist`, outputs from a teacher network of the model's kind, plus noise."""

    kind: str = setting("where the pairs come from", choices=("teacher",))
    n_data: int = setting("number of pairs n", ge=2, le=10**8)
    x_dist: str = setting(
        "distribution of the inputs",
        choices=("gauss_iso", "gauss_aniso", "uniform", "mixture", "lowdim_manifold", "heavy_tail"),
    )
    x_scale: float = setting("scale of the inputs: standard deviation; half-width of `uniform`", gt=0, le=1e6)
    x_condition: float = setting("gauss_aniso: largest over smallest standard deviation", ge=1, le=1e6)
    x_components: int = setting("mixture: number of Gaussians", ge=1, le=10_000)
    x_manifold_dim: int = setting("lowdim_manifold: its dimension", ge=1, le=10_000)
    x_df: float = setting("heavy_tail: Student-t degrees of freedom", gt=2, le=1e6)
    x_whiten: bool = setting("whether inputs are transformed linearly to Σ_i x_i x_iᵀ = n·x_scale²·I exactly")
    noise_model: str = setting(
        "distribution of the label noise", choices=("gauss", "hetero", "student_t", "outliers", "none")
    )
    noise_scale: float = setting(
        "standard deviation σ of the noise (student_t: its scale); also the σ of posterior.loss=nll", gt=0, le=1e6
    )
    noise_hetero: float = setting(
        "hetero: relative growth of the noise with |x|, rms kept at noise_scale", ge=0, le=1e3
    )
    noise_df: float = setting("student_t: degrees of freedom", gt=0, le=1e6)
    outlier_fraction: float = setting("outliers: share of labels that are outliers", ge=0, le=1)
    outlier_scale: float = setting("outliers: their standard deviation in units of noise_scale", ge=1, le=1e6)
    teacher_depth: int | None = setting("hidden layers of the teacher; null = the model's", ge=1, le=100)
    teacher_widths: list[int] | None = setting(
        "units of the teacher's hidden layers; null = the model's", ge=1, le=100_000, nonempty=True
    )
    teacher_activation: str | None = setting("non-linearity of the teacher; null = the model's", choices=ACTIVATIONS)
    teacher_rank: int | None = setting(
        "rank of the true map, of a linear teacher (0: of any, all its weights are then zero); null = layers drawn from the "
        "model's init",
        ge=0,
        le=100_000,
    )
    teacher_balanced: bool = setting(
        "with teacher_rank: whether all layers share the true map's axes, the most degenerate point above it; else layers "
        "are drawn from the model's init and one of them, drawn too, is cut to that rank"
    )
    teacher_singular_value: float = setting("singular values of each layer of a balanced teacher", gt=0, le=1e3)

    has_teacher = True

    def problems(self, whole):
        if not isinstance(whole.model, Network):
            return
        model, widths = whole.model, self.teacher_widths
        if widths is not None and self.teacher_depth not in (None, len(widths)):
            yield (
                f"data.teacher_depth={self.teacher_depth} but data.teacher_widths={list(widths)} has {len(widths)}: make "
                "them agree."
            )
        if widths is None and self.teacher_depth is not None:
            yield "data.teacher_depth needs data.teacher_widths; set both, or neither for a teacher like the model."
        if self.teacher_rank is not None:
            linear = (self.teacher_activation or model.activation) == "identity" and not model.layernorm
            if not linear and self.teacher_rank > 0:
                yield (
                    "data.teacher_rank > 0 needs a linear teacher: set data.teacher_activation=identity and "
                    "model.layernorm=false, or data.teacher_rank=null."
                )
            hidden: list[int] = widths or getattr(model, "widths", None) or []
            limit = min([model.in_dim, model.out_dim, *hidden])
            if self.teacher_rank > limit:
                yield f"data.teacher_rank must be ≤ {limit}, the smallest layer of the teacher; got {self.teacher_rank}."


@dataclass(frozen=True)
class Digits(Data):
    """The 1797 handwritten 8×8 digits that scikit-learn ships: 64 inputs in [0, 1], 10 classes."""

    kind: str = setting("where the pairs come from", choices=("digits",))
    n_data: int = setting("number of pairs n, a random subset", ge=2, le=1797)

    sizes = (64, 10)
    classes = True


@dataclass(frozen=True)
class SingleFeatures(Data):
    """Vectors in which one feature is on, its size uniform in (0, 1); labels are the inputs, for a network to give back."""

    kind: str = setting("where the pairs come from", choices=("features",))
    n_data: int = setting("number of vectors n", ge=2, le=10**8)
    features: int = setting("number of features", ge=1, le=10_000)
    noise_scale: float = setting("σ of the Gaussian that the error is measured by", gt=0, le=1e6)

    @property
    def sizes(self):
        return self.features, self.features


class Tokens(Data):
    """Inputs that are numbers of tokens, labels that are classes: for a network of one's own, which looks them up."""

    classes = True

    def problems(self, whole):
        if isinstance(whole.model, Network):
            yield (
                f"data={self.kind} has numbers of tokens for inputs, which model={whole.model.kind} would take for sizes; use "
                "model=custom, a network that looks them up."
            )
        else:
            yield from super().problems(whole)


@dataclass(frozen=True)
class ModularAddition(Tokens):
    """Pairs of numbers a, b below a modulus P, and their sum a + b mod P; pairs beyond n_data are held out."""

    kind: str = setting("where the pairs come from", choices=("modular",))
    modulus: int = setting("the modulus P: P² pairs, P classes", ge=2, le=1000)
    n_data: int = setting("number of pairs n, a random subset of the P²", ge=2, le=10**6)

    @property
    def sizes(self):
        return 2, self.modulus

    def problems(self, whole):
        yield from super().problems(whole)
        if self.n_data > self.modulus**2:
            yield f"data.n_data must be ≤ {self.modulus**2}, all pairs below data.modulus={self.modulus}; got {self.n_data}."


@dataclass(frozen=True)
class Sequences(Tokens):
    """Sequences of tokens whose second half repeats the first, a Markov chain; the label of each token is the next one."""

    kind: str = setting("where the pairs come from", choices=("sequence",))
    n_data: int = setting("number of sequences n", ge=2, le=10**8)
    vocabulary: int = setting("number of different tokens", ge=2, le=1000)
    half: int = setting("tokens of the first half; a sequence has twice as many", ge=1, le=1000)
    concentration: float = setting(
        "of the Dirichlet distribution that each token's probabilities of the next one are drawn from; small = nearly certain",
        gt=0,
        le=1e6,
    )
    noise: float = setting("chance that a label in the second half is a random token instead", ge=0, le=1)

    @property
    def sizes(self):
        return 2 * self.half - 1, self.vocabulary


@dataclass(frozen=True)
class FileData(Data):
    """Pairs from a file: named after what is in it, wherever it lies.

    What a path names is looked at when the configuration is made, and `sha256`, `n_data` and `labels` filled in; a
    configuration that has them already keeps them, and the file must still be the same when it is read.
    """

    kind: str = setting("where the pairs come from", choices=("file",))
    path: str | None = setting(
        ".npz with arrays X and Y, .npy with X (of 256 MiB and more it is read by rows, and need not fit into memory), or .csv or "
        ".parquet with columns of numbers",
        hashed=False,
    )
    labels_path: str | None = setting("with path=x.npy: .npy with Y", hashed=False)
    target: str | None = setting("column of a table that is the labels; all others are inputs")
    labels: str | None = setting(
        "classes (cross-entropy) or real (regression); null = integers and words are classes",
        choices=("classes", "real"),
    )
    noise_scale: float | int | str | None = setting(
        "σ of real-valued labels, which sets the temperature and so λ̂: a number, or residual for σ² = mean squared residual "
        "at w0; null where posterior.loss needs none"
    )
    n_data: int | None = setting("number of pairs n, a random subset; null = all, in their order", ge=2, le=10**9)
    sha256: str | None = setting("hash of the file; null = as it is now")
    labels_sha256: str | None = setting("hash of the file of labels; null = as it is now")

    is_own = True

    def __post_init__(self):
        for name in ("path", "labels_path"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, os.path.abspath(path))
        if isinstance(self.noise_scale, int) and not isinstance(self.noise_scale, bool):
            object.__setattr__(self, "noise_scale", float(self.noise_scale))
        if self.path is not None and self.sha256 is None:
            facts = self.facts()
            of_file = {
                "sha256": facts.sha256[0],
                "labels_sha256": facts.sha256[1],
                "n_data": facts.x_shape[0] if self.n_data is None else self.n_data,
                "labels": self.labels or ("classes" if facts.integer else "real"),
            }
            for name, value in of_file.items():
                object.__setattr__(self, name, value)

    def facts(self) -> given.Facts:
        """Shapes and ranges of what the file holds.

        Raises:
            ConfigError: where it holds no data set, or another one than the configuration was made for.
        """
        assert self.path is not None
        if self.sha256 is not None:
            given.refuse_changed(self.path, "data.path", self.sha256)
        if self.labels_path is not None and self.labels_sha256 is not None:
            given.refuse_changed(self.labels_path, "data.labels_path", self.labels_sha256)
        return given.facts(self.path, self.labels_path, self.target)

    @property
    def classes(self):
        return self.labels == "classes"

    def problems(self, whole):
        facts = None if self.path is None else self.facts()
        if facts is not None and self.classes and not facts.integer:
            yield f"data.labels=classes needs integers, and the labels of data.path={self.path} are floats."
            return
        if isinstance(self.noise_scale, str) and self.noise_scale != "residual":
            yield f"data.noise_scale must be a positive number or residual; got {self.noise_scale}."
        elif isinstance(self.noise_scale, float) and not 0 < self.noise_scale <= 1e6:
            yield f"data.noise_scale must be > 0 and ≤ 1e+06; got {self.noise_scale}."
        elif self.classes and self.noise_scale is not None:
            yield f"data.noise_scale has no use with labels that are classes; leave it null. Got {self.noise_scale}."
        elif not self.classes and self.noise_scale is None and whole.posterior.loss != "mse":
            yield (
                "data.noise_scale is missing: real-valued labels need σ, which sets the temperature and so λ̂. Give a number, or "
                "residual for σ² = the mean squared residual at w0; or take posterior.loss=mse."
            )
        if self.classes and whole.posterior.loss != "nll":
            yield (
                "posterior.loss must be nll (cross-entropy) where labels are classes; got "
                f"{whole.posterior.loss}. Set data.labels=real for a regression."
            )
        if facts is not None:
            yield from self._problems_of_shape(whole, facts)

    def _problems_of_shape(self, whole, facts):
        n = facts.x_shape[0]
        if self.n_data is not None and self.n_data > n:
            yield f"data.n_data must be ≤ {n}, the pairs that data.path={self.path} holds; got {self.n_data}."
        if self.classes and facts.least < 0:
            yield f"data.path={self.path}: class numbers must be ≥ 0; got {facts.least:g}."
        if isinstance(whole.model, Network):
            yield from misfits(f"data.path={self.path}", facts, self.classes, whole.model)


def misfits(named: str, facts: given.Facts, classes: bool, model: Network) -> Iterator[str]:
    """Why the pairs of a file do not fit a fully connected network, a sentence each.

    Arguments:
        named: the setting that names the file, and the file.
        facts: of the file.
        classes: whether its labels are class numbers.
        model: the network.
    """
    inputs, outputs = facts.x_shape[1:], facts.y_shape[1:] or (1,)
    if inputs != (model.in_dim,):
        wanted = f"model.in_dim={inputs[0]}" if len(inputs) == 1 else "one number for each input, or model=custom"
        yield f"{named} has inputs of shape {inputs} and needs {wanted}; got model.in_dim={model.in_dim}."
    if not classes and outputs != (model.out_dim,):
        yield f"{named} has labels of shape {outputs} and needs as many outputs; got model.out_dim={model.out_dim}."
    if classes and outputs != (1,):
        yield f"{named} has class numbers of shape {outputs} for each input, which needs model=custom."
    elif classes and facts.largest >= model.out_dim:
        yield (
            f"{named} has class numbers up to {facts.largest:g} and needs model.out_dim ≥ {facts.largest + 1:g}; got "
            f"{model.out_dim}."
        )
