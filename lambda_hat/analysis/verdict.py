"""The verdict on a run: ok, warn or bad, and every finding that led to it. Knows no truth and no sampler by name.

A finding concerns the sampler (its draws are not yet, or not quite, the posterior's), the length (they are, but too few), or w0
(the draws may be perfect: what λ̂ is measured from is not a minimum, or not where the chain is).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from lambda_hat.analysis.estimates import Chains, Draws, Estimate
from lambda_hat.analysis.summary import Cause, Finding, Verdict

RHAT, RHAT_BAD = 1.01, 1.1
"""Largest R-hat that passes (Vehtari et al., Bayesian Analysis 16:667, 2021), and the largest that is no more than a warning
(Gelman and Rubin, Statist. Sci. 7:457, 1992)."""

ESS, ESS_BAD = 400, 50
"""Smallest effective sample size that passes: below it neither R-hat nor the error bar can be believed (Vehtari et al. 2021, for
four chains); and the smallest that is no more than a warning."""

NARROW_ESS, NARROW_RHAT = 100, 1.05
"""The same where what is averaged scatters by less than a tenth of λ̂ (`Estimate.is_narrow`). Draws need then only tell chains that
disagree by much, and an error bar to 20 %, which the interval's degrees of freedom allow for. R-hat is about √(1 + 2·chains/ESS)
(Vats and Knudson, Statist. Sci. 36:518, 2021), which is 1.01 at 400 effective draws of four chains, and 1.04 at 100."""

SLOW_ESS, SLOW_RHAT = 100, 1.1
"""Smallest effective sample size of |w−w0|² and largest R-hat that pass. Its mean gets no error bar, so fewer draws will do than of
L_n; but chains that have not equilibrated along the set of minima, where L_n hardly changes, show it here alone: on a deep linear
network of rank 0 L_n had an ESS of 1197 and |w−w0|² of 14, and λ̂ was wrong. R-hat of split chains is about √(1 + 2·chains/ESS)
(Vats and Knudson, Statist. Sci. 36:518, 2021): 1.04 at 100 effective draws of four chains, with 1.1 one time in a hundred."""

FEWEST_DRAWS = 4
"""Draws of a chain below which ArviZ computes no diagnostic."""

FROZEN = 1e-6
"""Scatter of a chain's excess, over its level and the other chains' scatter, below which it does not move: rounding of a sum in
float32 is 1e-7 of it."""

ACCEPTANCE_BAD, ACCEPTANCE_LOW, ACCEPTANCE_HIGH = 0.1, 0.4, 0.99
"""Band of mean acceptance: HMC is at its best near 0.65-0.8 (Beskos et al., Bernoulli 19:1501, 2013). Conventions about it:
below 0.4 and above 0.99 the same gradients make better draws at another step, below 0.1 a chain stays where it is for ten draws."""

DIVERGENT, DIVERGENT_BAD = 0.005, 0.1
"""Shares of transitions that broke down. Each marks a place that the integrator cannot follow, whose share of the posterior the
draws then miss (Betancourt, arXiv 1701.02434, section 6.2): as much of λ̂ may be missing. 0.5 % is the standard error that is asked
for by default; 10 % is more than a warning."""

TREND_DRAWS, TREND_ERRORS = 40, 4.0
"""Draws of a chain from which a trend can be seen, and standard errors by which the last two quarters may differ: by chance in 6 of
100 000 runs."""

BELOW_DEPTH, BELOW, BELOW_BAD = 0.01, 0.01, 0.1
"""A draw counts as below L_n(w0) from this share of λ̂ on, which rounding does not reach; shares of such draws. At a minimum
there are none; conventions: from one in a hundred on they are no accident, at one in ten w0 is on a slope."""

FAR = 10.0
"""|w−w0|² over |w0|² from which the chain has left w0: it is then three times as far from w0 as w0 is from the origin, and nothing
of w0 is left in a draw. A convention: only a known λ has a stricter one (`analyse.LEFT`)."""

STEIN_ERRORS, STEIN_SHARE = 2.5, 0.03
"""The Stein identity's deviation less this many standard errors must stay below this share of p, and the predicted bias. A sound
run whose identity is known to 1 % is flagged by chance in one of 10 million, one known to 10 % in one of 200."""

BASELINE, BASELINE_BAD = 0.01, 0.2
"""What a descent from w0 gains, over λ̂, which is too small by as much: twice the standard error that is asked for by default, and a
share with which λ̂ says little about a minimum."""

GAUSSIAN_SHARE, GAUSSIAN_ERRORS, GAUSSIAN_BAD = 0.02, 4.0, 0.5
"""By how much of the Laplace value the draws of its Gaussian may miss it, beside these many standard errors: measured, 10 % on a
network whose posterior misses it by 32 %."""


class Evidence(NamedTuple):
    """What the verdict is reached from.

    Attributes:
        excess, distance2: draws `[chains, draws]`.
        finite: which draws are finite in all that was recorded of them `[chains, draws]`.
        estimate: of λ̂; convergence is judged on its `raw` chains.
        low: lower end of λ̂'s 95 % interval; None without one.
        predicted_bias: share by which the step is known to make the raw mean too large, and the Stein identity with it.
        bias_is_known: whether anything tells how biased the raw mean is (`samplers.base.Bias`).
        mcse_target: relative standard error that was asked for; None for as many draws as were asked for.
        p: number of parameters.
        w0_norm2: |w0|².
        baseline_gain: what a descent from w0 gains.
        training_step: of training that w0 is at on purpose; None where it is to be a minimum.
        acceptance: mean acceptance; nan for unadjusted samplers.
        warmup: draws of warm-up.
        shortened: whether the step was shortened on purpose, below what the target acceptance asks for.
        divergences: number of draws that broke down.
    """

    excess: Draws
    distance2: Draws
    finite: Bool[np.ndarray, "chains draws"]
    estimate: Estimate
    low: float | None
    predicted_bias: float
    bias_is_known: bool
    mcse_target: float | None
    p: int
    w0_norm2: float
    baseline_gain: float
    training_step: int | None
    acceptance: float
    warmup: int
    shortened: bool
    divergences: int

    @property
    def from_minimum(self) -> float:
        """λ̂, at a step of training measured from the minimum near w0: negative values and zero are no scale of an error."""
        return self.estimate.mean + (0.0 if self.training_step is None else self.baseline_gain)

    @property
    def is_finite(self) -> bool:
        """Whether all draws are."""
        return bool(np.all(self.finite))


Check = Callable[[Evidence], tuple[Verdict, str] | None]
"""A check: nothing, or a verdict and the reason."""

_CHECKS: dict[str, tuple[Cause, Check]] = {}


def _check(cause: Cause) -> Callable[[Check], Check]:
    """Have a check made of every run, under its name, in the order of the definitions."""

    def register(check: Check) -> Check:
        _CHECKS[check.__name__.strip("_")] = cause, check
        return check

    return register


def judge(evidence: Evidence) -> tuple[Finding, ...]:
    """What is wrong with a run, the worst first; nothing where it is ok."""
    made = []
    for name, (cause, check) in _CHECKS.items():
        outcome = check(evidence)
        if outcome is not None:
            made.append(Finding(check=name, concerns=cause, verdict=outcome[0], reason=outcome[1]))
    return worst_first(made)


def worst_first(findings: list[Finding]) -> tuple[Finding, ...]:
    """Findings with those that make a run bad before the others."""
    return tuple(sorted(findings, key=lambda finding: finding.verdict != "bad"))


def verdict(findings: tuple[Finding, ...]) -> Verdict:
    """The verdict that findings, the worst first, lead to."""
    return findings[0].verdict if findings else "ok"


def is_enough(estimate: Estimate, mcse_target: float | None, gain: float | None = None) -> bool:
    """Whether draws give λ̂ to this relative standard error, with an R-hat and an ESS of L_n and of |w−w0|² that pass.

    A fixed-width stopping rule (Glynn and Whitt, Ann. Appl. Probab. 2:180, 1992); False where there is no target.

    Arguments:
        gain: of a descent from w0, where λ̂ from the minimum near it is the scale of its error.
    """
    raw, (ess, rhat) = estimate.raw, least(estimate)
    return (
        mcse_target is not None
        and raw.ess >= ess
        and not raw.rhat > rhat
        and not _is_slow(estimate.distance2)
        and estimate.mcse <= mcse_target * abs(estimate.mean + (gain or 0.0))
    )


def least(estimate: Estimate) -> tuple[int, float]:
    """The smallest ESS and the largest R-hat that pass."""
    return (NARROW_ESS, NARROW_RHAT) if estimate.is_narrow else (ESS, RHAT)


def judge_laplace(
    laplace: float, drawn: Chains, baseline_gain: float, training_step: int | None = None
) -> tuple[Finding, ...]:
    """What is wrong with a Laplace value ½ tr R, given the `Chains` of the excess of its Gaussian's draws."""
    findings = []
    apart = drawn.mean / laplace - 1 if laplace > 0 else math.inf

    def add(check, concerns, verdict, reason):
        findings.append(Finding(check=check, concerns=concerns, verdict=verdict, reason=reason))

    if not abs(apart) < GAUSSIAN_BAD:
        add("gaussian", "sampler", "bad", "the posterior is not a Gaussian around w0: take another sampler")
    elif abs(apart) > GAUSSIAN_SHARE + GAUSSIAN_ERRORS * drawn.mcse / laplace:
        reason = f"draws of the Gaussian miss its λ̂ by {100 * apart:+.1f} %: the posterior is not quadratic"
        add("gaussian", "sampler", "warn", f"{reason}; take another sampler")
    outcome = _no_minimum(baseline_gain, laplace, training_step)
    if outcome is not None:
        add("baseline", "w0", *outcome)
    return worst_first(findings)


# --- the checks, in the order in which they are told ------------------------------------------------------------------


@_check("sampler")
def _not_finite(e: Evidence):
    broken = ~e.finite
    if np.any(broken):
        draw = int(np.argmax(np.any(broken, 0)))
        return "bad", (
            f"{np.sum(broken)} of {e.excess.size} draws are not finite, the first is draw {draw} of chain "
            f"{np.argmax(broken[:, draw])}, and no more were made: the step is too large"
        )


@_check("length")
def _too_few(e: Evidence):
    if e.excess.shape[1] < FEWEST_DRAWS:
        return "bad", f"{e.excess.shape[1]} draws a chain are too few for any diagnostic"


@_check("sampler")
def _frozen(e: Evidence):
    if not e.is_finite:
        return None
    spread = e.excess.std(1)
    stuck = int(np.sum(spread <= FROZEN * np.maximum(np.abs(e.excess.mean(1)), np.median(spread))))
    if stuck:
        return "bad", f"{stuck} of {len(spread)} chains do not move"


@_check("sampler")
def _no_warmup(e: Evidence):
    if e.warmup == 0:
        return "warn", "warm-up 0: nothing was adapted, and the first draws remember where the chains started"


@_check("sampler")
def _too_large(e: Evidence):
    if e.low is not None and e.low > e.p / 2:
        return "bad", (
            f"λ̂ {e.estimate.mean:.4g}, above {e.low:.4g} with 95 %, exceeds p/2 = {e.p / 2:.4g}, the most it can be"
        )


@_check("w0")
def _below_minimum(e: Evidence):
    if not e.is_finite:
        return None
    if _no_minimum(e.baseline_gain, e.from_minimum, e.training_step) and e.training_step is not None:
        return None  # which is told
    raw = e.estimate.raw
    below = float(np.mean(e.excess < -BELOW_DEPTH * max(abs(raw.mean), e.excess.std())))
    if below > BELOW or raw.mean < 0:
        return ("bad" if below > BELOW_BAD or raw.mean < 0 else "warn"), (
            f"{100 * below:.0f} % of draws lie below L_n(w0): w0 is not the minimum that λ̂ is measured from"
        )


@_check("sampler")
def _disagreement(e: Evidence):
    if e.excess.shape[0] == 1:
        return "warn", "one chain alone cannot show whether it has converged"
    rhat, most = e.estimate.raw.rhat, least(e.estimate)[1]
    if rhat > most:
        return ("bad" if rhat > RHAT_BAD else "warn"), f"R-hat {rhat:.3f} > {most}: chains disagree"


@_check("length")
def _few_effective(e: Evidence):
    ess, wanted = e.estimate.raw.ess, least(e.estimate)[0]
    if ess < wanted:
        return ("bad" if ess < ESS_BAD else "warn"), f"ESS {ess:.0f} < {wanted}: too few effective draws"


def _is_slow(distance2: Chains) -> bool:
    """Whether there are too few effective draws of |w−w0|² (or nobody can tell), or its chains disagree."""
    return not distance2.ess >= SLOW_ESS or distance2.rhat > SLOW_RHAT


@_check("sampler")
def _slow_distance(e: Evidence):
    distance2 = e.estimate.distance2
    if e.is_finite and e.excess.shape[1] >= FEWEST_DRAWS and _is_slow(distance2):
        rhat = "" if math.isnan(distance2.rhat) else f"R-hat {distance2.rhat:.3f} and "  # as it is for one chain
        return "warn", (
            f"|w−w0|² has {rhat}ESS {distance2.ess:.0f}: the chains have not "
            "equilibrated along the minima, where L_n hardly changes; draw longer, or raise posterior.gamma"
        )


@_check("length")
def _error_missed(e: Evidence):
    error, mean = e.estimate.mcse, abs(e.from_minimum)
    if e.mcse_target is not None and error > e.mcse_target * mean:
        share = f"{100 * error / mean:.2g} % of λ̂" if error < mean else f"{error:.2g}, more than λ̂ itself"
        return "warn", (
            f"the standard error is {share}, where {100 * e.mcse_target:g} % was asked for: raise sampler.draws"
        )


@_check("sampler")
def _divergences(e: Evidence):
    share = e.divergences / e.excess.size
    if share > DIVERGENT:
        return ("bad" if share > DIVERGENT_BAD else "warn"), (
            f"{e.divergences} of {e.excess.size} transitions diverged"
        )


@_check("sampler")
def _acceptance(e: Evidence):
    if math.isnan(e.acceptance):
        return None
    if e.acceptance < ACCEPTANCE_LOW:
        return ("bad" if e.acceptance < ACCEPTANCE_BAD else "warn"), (
            f"acceptance {e.acceptance:.2f}: the step is too large"
        )
    if e.acceptance > ACCEPTANCE_HIGH and not e.shortened:
        return "warn", f"acceptance {e.acceptance:.3f}: the step is far too small"


@_check("w0")
def _far_away(e: Evidence):
    distance2 = float(e.distance2.mean())
    if e.w0_norm2 > 0 and distance2 > FAR * e.w0_norm2:
        return "warn", (
            f"|w−w0|² {distance2:.3g} is more than ten times |w0|² {e.w0_norm2:.3g}: the chain has left w0; raise posterior.gamma"
        )


@_check("w0")
def _baseline(e: Evidence):
    return _no_minimum(e.baseline_gain, e.from_minimum, e.training_step)


def _no_minimum(gain: float, llc: float, training_step: int | None = None) -> tuple[Verdict, str] | None:
    """What is wrong with a w0 from which a descent gains this much, if anything.

    A step of training need not be a minimum; λ̂ may then be negative, and neither is the sampler's fault.
    """
    if not (np.isfinite(llc) and gain > BASELINE * max(llc, 0.0)) or gain == 0:
        return None
    if training_step is not None:
        return "warn", f"w0 is no minimum, but step {training_step} of training: a local descent gains {gain:.3g}"
    if llc <= 0:
        return (
            "bad",
            f"w0 is not a minimum: a Newton step gains {gain:.3g}, and λ̂ is not positive; train or polish longer",
        )
    return ("bad" if gain > BASELINE_BAD * llc else "warn"), (
        f"w0 is not a minimum: a Newton step gains {gain:.3g}, {100 * gain / llc:.3g} % of λ̂; train or polish longer"
    )


@_check("sampler")
def _trend(e: Evidence):
    """Means of the third and the last quarter must agree within their errors."""
    raw = e.estimate.raw
    if e.excess.shape[1] < TREND_DRAWS or not e.is_finite or not raw.ess > 0:
        return None
    third, last = np.array_split(e.excess[:, e.excess.shape[1] // 2 :], 2, axis=1)
    change = float(last.mean() - third.mean())
    error = raw.std * math.sqrt(2 * 4 / raw.ess)
    if abs(change) > TREND_ERRORS * error:
        return "warn", (
            f"λ̂ still moves by {change:+.3g} within the last half ({abs(change) / error:.1f} standard errors)"
        )


@_check("sampler")
def _unknown_bias(e: Evidence):
    """Measured: on crossings the mean of preconditioned SGLD is 5 to 30 % too large, at a Stein identity that is kept."""
    if not e.bias_is_known and not e.estimate.uses_stein:
        return "warn", (
            "the preconditioner follows the gradient, which biases λ̂ by an amount that nothing measures on this posterior; "
            "use sampler.precond=none, or sampler=hmc"
        )


@_check("sampler")
def _stein(e: Evidence):
    stein = e.estimate.stein
    if not stein.mcse > 0:
        return None
    off, error = stein.mean / e.p - 1, stein.mcse / e.p
    if abs(off) - STEIN_ERRORS * error > STEIN_SHARE + (e.predicted_bias if off > 0 else 0.0):
        return "warn", (
            f"Stein identity off by {100 * off:+.1f} % ({off / error:+.1f} standard errors): the draws are not from the "
            "posterior yet, or the step is coarse"
        )
