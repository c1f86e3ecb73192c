"""Data sets: n pairs (x, y).

A kind of data is a subclass of `Data` here, what draws it (lambda_hat/targets/data.py), and a file in conf/data.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_hat.config.fields import setting
from lambda_hat.config.model import ACTIVATIONS, Network

if TYPE_CHECKING:
    from lambda_hat.config.whole import Config


class Data:
    """What every kind of data says of itself without drawing any.

    Attributes:
        kind: where the pairs come from.
        n_data: number of pairs n.
        sizes: numbers of inputs and outputs that the pairs have; None = as many as the model.
        classes: whether labels are class numbers.
        has_teacher: whether labels come from a teacher network, whose parameters w0 can be.
    """

    kind: str
    n_data: int
    sizes: tuple[int, int] | None = None
    classes: bool = False
    has_teacher: bool = False

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
