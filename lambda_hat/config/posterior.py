"""The tempered local posterior exp(−nβ L_n(w) − γ/2 |w − w0|²), of all parameters or some, on the target's data or others."""

import difflib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from lambda_hat.config.data import Data, misfits
from lambda_hat.config.fields import setting
from lambda_hat.config.model import Analytic, Model, Network
from lambda_hat.store import given
from lambda_hat.system.errors import ConfigError

if TYPE_CHECKING:
    from lambda_hat.config.whole import Config

MOST_NAMES = 12
"""Parameters that a sentence lists."""


@dataclass(frozen=True)
class Posterior:
    """The tempered local posterior around w0 (Lau et al., arXiv 2308.12108; restricted: Wang et al., arXiv 2410.02984)."""

    loss: str = setting(
        "what L_n is the mean of: nll (Gaussian with data.noise_scale, or cross-entropy), mse (squared error summed over "
        "outputs), student_t",
        choices=("nll", "mse", "student_t"),
    )
    student_t_df: float = setting("student_t: degrees of freedom; its scale is data.noise_scale", gt=0, le=1e6)
    beta: float | None = setting("inverse temperature β; null = 1/log n, unless nbeta is given", gt=0, le=1e12)
    nbeta: float | None = setting("nβ itself, in place of beta; null = n times beta", gt=0, le=1e18)
    gamma: float = setting("localization strength γ", gt=0, le=1e12)
    prior_radius: float | None = setting("typical distance r from w0; sets γ = p/r² in place of gamma", gt=0, le=1e6)
    parameters: list[str] | None = setting(
        "which parameters move, by shell patterns of their names: [conv.*,head.w]; p counts these, the others stay at w0 "
        "(weight-restricted LLC); null = all",
        nonempty=True,
    )
    data: str | None = setting(
        "a file .npz with arrays X and Y, over which L_n is the mean in place of the target's data (data-restricted LLC); it "
        "says n; null = the target's",
        hashed=False,
    )
    data_sha256: str | None = setting("hash of that file; null = as it is now")

    def __post_init__(self):
        if self.parameters is not None:
            patterns = sorted({pattern.replace("/", ".") for pattern in self.parameters})
            object.__setattr__(self, "parameters", None if "*" in patterns else patterns)
        if self.data is not None:
            object.__setattr__(self, "data", os.path.abspath(self.data))
            if self.data_sha256 is None:
                object.__setattr__(self, "data_sha256", given.sha256(self.data, "posterior.data"))

    @property
    def restricts(self) -> bool:
        """Whether it is of less than all parameters, or of other data than the target's."""
        return self.parameters is not None or self.data is not None

    def inverse_temperature(self, n: int) -> float:
        """β at n pairs."""
        if self.nbeta is not None:
            return self.nbeta / n
        return 1 / math.log(n) if self.beta is None else self.beta

    def localization(self, p: int) -> float:
        """γ for p parameters."""
        return self.gamma if self.prior_radius is None else p / self.prior_radius**2

    def pairs(self, data: Data) -> int:
        """Number of pairs n that L_n is the mean over, where the target's data are `data`."""
        return data.n_data if self.data is None else self.facts().x_shape[0]

    def facts(self) -> given.Facts:
        """Shapes and ranges of what the file of `data` holds.

        Raises:
            ConfigError: where it holds no data set, or another one than the configuration was made for.
        """
        assert self.data is not None
        given.refuse_changed(self.data, "posterior.data", self.data_sha256)
        if not self.data.lower().endswith(".npz"):
            raise ConfigError(f"posterior.data={self.data} must be a file .npz with arrays X and Y.")
        return given.facts(self.data, None, None, "posterior.data")

    def moving(self, names: Iterable[str]) -> list[str]:
        """Which of the model's parameters move, in their order.

        Raises:
            ConfigError: for patterns that no name matches.
        """
        names = list(names)
        if self.parameters is None:
            return names
        plain = [name.replace("/", ".") for name in names]
        if idle := [p for p in self.parameters if not any(_matches(name, p) for name in plain)]:
            close = difflib.get_close_matches(idle[0], plain, 1)
            raise ConfigError(
                f"posterior.parameters: {', '.join(idle)} match{'es' * (len(idle) == 1)} no parameter; this model has "
                f"{_listed(plain)}.{f' Did you mean {close[0]}?' if close else ''}"
            )
        return [n for n, one in zip(names, plain, strict=True) if any(_matches(one, p) for p in self.parameters)]

    def p(self, model: Model) -> int | None:
        """Number of parameters that move; None where only the model itself tells.

        Raises:
            ConfigError: for patterns that no name matches.
        """
        arrays = model.arrays()
        return None if arrays is None else sum(arrays[name] for name in self.moving(arrays))

    def problems(self, whole: "Config") -> Iterator[str]:
        """Reasons why it cannot be run with the rest of the configuration, a sentence each."""
        if self.beta is not None and self.nbeta is not None:
            yield (
                f"posterior.beta={self.beta:g} and posterior.nbeta={self.nbeta:g} say the same thing twice: leave one of "
                "them null."
            )
        if self.data is None and self.data_sha256 is not None:
            yield "posterior.data_sha256 is the hash of posterior.data, which is not given; leave it out."
        if isinstance(whole.model, Analytic) and self.data is not None:
            yield f"posterior.data has no use with model={whole.model.kind}, which is itself the loss; leave it out."
        elif self.data is not None:
            facts = self.facts()
            if whole.data.classes and not facts.integer:
                yield f"posterior.data={self.data} must have class numbers for labels, as data={whole.data.kind}; got floats."
            elif isinstance(whole.model, Network):
                yield from misfits(f"posterior.data={self.data}", facts, whole.data.classes, whole.model)
        if self.parameters is not None and whole.model is not None and not any(whole.model.problems(whole)):
            try:
                self.p(whole.model)
            except ConfigError as error:
                yield str(error)


def _matches(name, pattern):
    return name == pattern or fnmatchcase(name, pattern)


def _listed(names):
    return ", ".join(names[:MOST_NAMES]) + (f", … ({len(names)} in all)" if len(names) > MOST_NAMES else "")
