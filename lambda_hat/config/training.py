"""Training: where w0 comes from."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lambda_hat.config.fields import setting
from lambda_hat.config.model import Analytic, Network
from lambda_hat.store import given

if TYPE_CHECKING:
    from lambda_hat.config.whole import Config


class Training:
    """What every way to find w0 says of itself.

    Attributes:
        kind: where w0 comes from.
        is_own: whether a user brings it, so that it is tried before work begins.
    """

    kind: str
    is_own = False

    def problems(self, whole: "Config") -> Iterator[str]:
        """Reasons why it cannot be run with the rest of the configuration, a sentence each."""
        return iter(())


def _polish_steps() -> Any:
    """A setting of every way to find w0 that can polish it, as the two below."""
    return setting("most quasi-Newton iterations of the polish", ge=0, le=10**6)


def _polish_localization(purpose: str) -> Any:
    """The setting; `purpose` says what γ is for."""
    return setting(f"localization γ {purpose}, that is of nβL_n + γ/2 |w − w0|² with β = 1/log n", gt=0, le=1e12)


def _polish_tolerance() -> Any:
    """The setting."""
    return setting(
        "the polish ends where 200 further iterations gain less than this share of p/2, in units of λ̂", gt=0, le=1
    )


@dataclass(frozen=True)
class Descent(Training):
    """Minibatch descent from a random initialisation, then a second-order polish on the full data."""

    kind: str = setting("where w0 comes from", choices=("descent",))
    optimizer: str = setting("first-order optimizer", choices=("adam", "sgd", "adamw"))
    learning_rate: float = setting("peak step size of the optimizer", gt=0, le=100)
    schedule: str = setting("learning rate over the steps", choices=("constant", "cosine", "warmup_cosine"))
    steps: int = setting("number of minibatch steps", ge=0, le=10**8)
    checkpoint: int | None = setting(
        "w0 is the weights after so many steps, unpolished; 0 = the initialisation, null = the end, polished, log20 (with -m) = "
        "0 and 19 steps from 1 on, evenly spaced in the logarithm",
        ge=0,
        le=10**8,
    )
    keep: list[int] | None = setting(
        "steps at which the trajectory keeps its weights besides, whoever trains it; null = those that the sweep asks for",
        ge=0,
        le=10**8,
        hashed=False,
    )
    batch_size: int | None = setting("pairs in a minibatch; null = 1024, or n if that is less", ge=1, le=10**8)
    momentum: float = setting("sgd: heavy-ball momentum", ge=0, lt=1)
    weight_decay: float = setting("adamw: decoupled weight decay", ge=0, le=10)
    polish_steps: int = _polish_steps()
    polish_localization: float = _polish_localization("at which w0 is to be a minimum")
    polish_tolerance: float = _polish_tolerance()
    dtype: str = setting("precision of the first-order steps; the polish is in float64", choices=("float32", "float64"))

    @property
    def length(self) -> int:
        """Steps to w0, or to where its polish begins."""
        return self.steps if self.checkpoint is None else self.checkpoint

    def moves(self) -> dict[str, Any]:
        """The settings that the weights after any number of steps depend on: what a trajectory is named after."""
        names = ["optimizer", "learning_rate", "schedule", "batch_size", "dtype"]
        names += {"sgd": ["momentum"], "adamw": ["weight_decay"]}.get(self.optimizer, [])
        names += [] if self.schedule == "constant" else ["steps"]
        return {name: getattr(self, name) for name in names}

    def problems(self, whole):
        n = whole.data.n_data
        if self.schedule != "constant" and self.length > self.steps:
            yield (
                f"training.checkpoint must be ≤ training.steps={self.steps}, the length of its {self.schedule} schedule; got "
                f"{self.checkpoint}: take an earlier one, or training.schedule=constant, which goes on."
            )
        if isinstance(whole.model, Network) and self.batch_size is not None and self.batch_size > n:
            yield f"training.batch_size must be ≤ data.n_data={n}; got {self.batch_size}."


@dataclass(frozen=True)
class FromTeacher(Training):
    """w0 is the teacher's own parameters (the minimum of L_n where there is no noise), polished if asked."""

    kind: str = setting("where w0 comes from", choices=("teacher",))
    polish_steps: int = _polish_steps()
    polish_localization: float = _polish_localization("at which w0 is to be a minimum")
    polish_tolerance: float = _polish_tolerance()

    def problems(self, whole):
        if not whole.data.has_teacher:
            yield (
                f"training=teacher needs data with a teacher; data={whole.data.kind} has none: use another training."
            )
        elif isinstance(whole.model, Network):
            widths, activation = whole.data.teacher_widths, whole.data.teacher_activation
            same = widths is None or list(widths) == list(getattr(whole.model, "widths", None) or [])
            if not same or activation not in (None, whole.model.activation):
                yield (
                    "training=teacher takes the teacher's parameters as the model's, so both need the same widths and "
                    "activation: set data.teacher_widths=null and data.teacher_activation=null, or use training=adam."
                )


@dataclass(frozen=True)
class Given(Training):
    """w0 is what a file holds, as it is; polished only if asked. What a local descent would gain is reported."""

    kind: str = setting("where w0 comes from", choices=("given",))
    path: str | None = setting(
        ".npz or .safetensors with an array for each parameter, by its name: layer0.weight; a torch state_dict's 0.weight",
        hashed=False,
    )
    polish_steps: int = _polish_steps()
    polish_localization: float = _polish_localization("of the local descent")
    polish_tolerance: float = _polish_tolerance()
    sha256: str | None = setting("hash of the file; null = as it is now")

    is_own = True

    def __post_init__(self):
        if self.path is not None:
            object.__setattr__(self, "path", os.path.abspath(self.path))
            if self.sha256 is None:
                object.__setattr__(self, "sha256", given.sha256(self.path, "training.path"))

    def weights(self):
        """The arrays of the file by name.

        Raises:
            ConfigError: where it holds none, or has changed since the configuration was made.
        """
        assert self.path is not None
        given.refuse_changed(self.path, "training.path", self.sha256)
        return given.named_arrays(self.path, "training.path")

    def problems(self, whole):
        if isinstance(whole.model, Analytic):
            yield f"training=given has no use with model={whole.model.kind}, whose w0 is its minimum; use training=adam."
