"""The tempered local posterior exp(−nβ L_n(w) − γ/2 |w − w0|²), of all parameters or some, on the target's data or others."""

import difflib
import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from lambda_hat.config.data import misfits
from lambda_hat.config.fields import setting
from lambda_hat.config.model import Analytic, Model, Network
from lambda_hat.store import given
from lambda_hat.store.given import listed
from lambda_hat.system.errors import ConfigError

if TYPE_CHECKING:
    from lambda_hat.config.whole import Config

FILES = {"data": "data_sha256", "data_labels_path": "data_labels_sha256"}
"""Settings that name a file, and those that have the hash of its contents."""


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
        "a file as data.path takes it, over whose pairs L_n is the mean in place of the target's (data-restricted LLC); it says "
        "n; null = the target's",
        hashed=False,
    )
    data_labels_path: str | None = setting("with data=x.npy: .npy with Y", hashed=False)
    data_target: str | None = setting(
        "column of a table in data that is the labels; null = data.target, where the target's data have one"
    )
    data_sha256: str | None = setting("hash of the file of data; null = as it is now")
    data_labels_sha256: str | None = setting("hash of the file of data_labels_path; null = as it is now")

    def __post_init__(self):
        if self.parameters is not None:
            patterns = sorted({pattern.replace("/", ".") for pattern in self.parameters})
            object.__setattr__(self, "parameters", None if "*" in patterns else patterns)
        for name, digest in FILES.items():
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, os.path.abspath(path))
                if getattr(self, digest) is None:
                    object.__setattr__(self, digest, given.sha256(getattr(self, name), f"posterior.{name}"))

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

    def pairs(self, data: Any) -> int:
        """Number of pairs n that L_n is the mean over.

        Arguments:
            data: the target's `Data`, or whatever has its `n_data` and `target`.
        """
        return data.n_data if self.data is None else self.facts(data.target).x_shape[0]

    def facts(self, target: str | None) -> given.Facts:
        """Shapes and ranges of what the file of `data` holds.

        Arguments:
            target: the column of labels of the target's own data; None where they are no table.

        Raises:
            ConfigError: where it holds no data set, or another one than the configuration was made for.
        """
        return given.facts(*self._file(target))

    def other_pairs(self, target: str | None) -> given.Pairs:
        """What the file of `data` holds; argument and errors as for `facts`."""
        return given.pairs(*self._file(target))

    def _file(self, target):
        assert self.data is not None
        for name, digest in FILES.items():
            if (path := getattr(self, name)) is not None:
                given.refuse_changed(path, f"posterior.{name}", getattr(self, digest))
        is_table = self.data.lower().endswith(given.TABLES)
        column = self.data_target if self.data_target is not None or not is_table else target
        return self.data, self.data_labels_path, column, "posterior.data"

    @property
    def other_data(self) -> str | None:
        """Which pairs L_n is over, by their contents; None for the target's."""
        parts = [self.data_labels_sha256, self.data_target]
        if not any(parts):
            return self.data_sha256
        return hashlib.sha256(repr([self.data_sha256, *parts]).encode()).hexdigest()

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
                f"{listed(plain)}.{f' Did you mean {close[0]}?' if close else ''}"
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
        for name, digest in FILES.items():
            if getattr(self, name) is None and getattr(self, digest) is not None:
                yield f"posterior.{digest} is the hash of posterior.{name}, which is not given; leave it out."
        for name in ("data_labels_path", "data_target"):
            if self.data is None and getattr(self, name) is not None:
                yield f"posterior.{name} says where the labels of posterior.data are, which is not given; leave it out."
        if isinstance(whole.model, Analytic) and self.data is not None:
            yield f"posterior.data has no use with model={whole.model.kind}, which is itself the loss; leave it out."
        elif self.data is not None:
            facts = self.facts(whole.data.target)
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
