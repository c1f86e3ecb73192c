"""The tempered local posterior π(w) ∝ exp(−nβ L_n(w) − γ/2 |w − w0|²)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_hat.config.fields import setting

if TYPE_CHECKING:
    from lambda_hat.config.whole import Config


@dataclass(frozen=True)
class Posterior:
    """The tempered local posterior around w0 (Lau et al., arXiv 2308.12108)."""

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

    def inverse_temperature(self, n: int) -> float:
        """β at n pairs."""
        if self.nbeta is not None:
            return self.nbeta / n
        return 1 / math.log(n) if self.beta is None else self.beta

    def localization(self, p: int) -> float:
        """γ for p parameters."""
        return self.gamma if self.prior_radius is None else p / self.prior_radius**2

    def problems(self, whole: "Config") -> Iterator[str]:
        """Reasons why it cannot be run with the rest of the configuration, a sentence each."""
        if self.beta is not None and self.nbeta is not None:
            yield (
                f"posterior.beta={self.beta:g} and posterior.nbeta={self.nbeta:g} say the same thing twice: leave one of "
                "them null."
            )
