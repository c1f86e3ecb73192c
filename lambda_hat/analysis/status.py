"""The verdict on a run: ok, warn or bad, with every reason in words and numbers."""

import math
from typing import NamedTuple

import numpy as np

WARN, BAD = "warn", "bad"

RHAT, ESS = 1.01, 400
"""The largest R-hat and the smallest effective sample size that pass."""


class Evidence(NamedTuple):
    """What the verdict is reached from.

    Attributes:
        excess, distance2: draws `[chains, draws]`.
        llc: `estimates.Chains` of the excess.
        low: lower end of λ̂'s 95 % interval.
        predicted_bias: share by which the step is known to make λ̂ too large, and the identity with it.
        stein: `estimates.Chains` of the Stein identity in its trace form, whose mean is p.
        p: number of parameters.
        w0_norm2: |w0|².
        baseline_gain: λ̂'s error from w0 not being a minimum.
        acceptance: mean acceptance, nan for unadjusted samplers.
        warmup: draws of warm-up.
        shortened: whether the step was shortened on purpose, below what the target acceptance asks for.
        divergences: number of draws that broke down.
    """

    excess: np.ndarray
    distance2: np.ndarray
    llc: object
    low: float
    predicted_bias: float
    stein: object
    p: int
    w0_norm2: float
    baseline_gain: float
    acceptance: float
    warmup: int
    shortened: bool
    divergences: int


def judge(evidence):
    """The verdict and its reasons, the worst first.

    Returns:
        `ok`, `warn` or `bad`, and a list of sentences.
    """
    found = [finding for check in _CHECKS if (finding := check(evidence)) is not None]
    found.sort(key=lambda finding: finding[0] != BAD)
    return (found[0][0] if found else "ok"), [reason for _, reason in found]


def is_enough(llc, mcse_target):
    """Whether draws, summarised in `estimates.Chains`, give λ̂ to this relative standard error, with an R-hat and an ESS that pass.

    A fixed-width stopping rule (Glynn and Whitt, Ann. Appl. Probab. 2:180, 1992); False where there is no target.
    """
    return (
        mcse_target is not None and llc.ess >= ESS and not llc.rhat > RHAT and llc.mcse <= mcse_target * abs(llc.mean)
    )


def judge_laplace(laplace, drawn, baseline_gain):
    """The verdict on a Laplace value ½ tr R, given the `estimates.Chains` of its Gaussian's draws, and the reasons."""
    found, apart = [], drawn.mean / laplace - 1 if laplace > 0 else np.inf
    if not abs(apart) < 0.5:
        found.append((BAD, "the posterior is not a Gaussian around w0: take another sampler"))
    elif abs(apart) > 0.02 + 4 * drawn.mcse / laplace:
        reason = f"draws of the Gaussian have {100 * apart:+.1f} % of its λ̂: the posterior is not quadratic; take another sampler"
        found.append((WARN, reason))
    share = baseline_gain / max(laplace, 1e-12)
    if share > 0.01:
        found.append((BAD if share > 0.2 else WARN, _no_minimum(baseline_gain, share)))
    found.sort(key=lambda finding: finding[0] != BAD)
    return (found[0][0] if found else "ok"), [reason for _, reason in found]


def _not_finite(e):
    broken = ~np.isfinite(e.excess)
    if np.any(broken):
        draw = int(np.argmax(np.any(broken, 0)))
        return BAD, (
            f"{np.sum(broken)} of {e.excess.size} draws are not finite, the first is draw {draw} of chain "
            f"{np.argmax(broken[:, draw])}, and no more were made: the step is too large"
        )


def _frozen(e):
    if not np.all(np.isfinite(e.excess)):
        return None
    spread = e.excess.std(1)
    stuck = int(np.sum(spread <= 1e-6 * max(1.0, float(np.median(spread)))))
    if stuck:
        return BAD, f"{stuck} of {len(spread)} chains do not move"


def _too_few(e):
    if e.excess.shape[1] < 4:
        return BAD, f"{e.excess.shape[1]} draws a chain are too few for any diagnostic"


def _no_warmup(e):
    if e.warmup == 0:
        return WARN, "warm-up 0: nothing was adapted, and the first draws remember where the chains started"


def _disagreement(e):
    if e.excess.shape[0] == 1:
        return WARN, "one chain alone cannot show whether it has converged"
    if e.llc.rhat > RHAT:
        return (BAD if e.llc.rhat > 1.1 else WARN), f"R-hat {e.llc.rhat:.3f} > {RHAT}: chains disagree"


def _few_effective(e):
    if e.llc.ess < ESS:
        return (BAD if e.llc.ess < 50 else WARN), f"ESS {e.llc.ess:.0f} < {ESS}: too few effective draws"


def _acceptance(e):
    if math.isnan(e.acceptance):
        return None
    if e.acceptance < 0.4:
        return (BAD if e.acceptance < 0.1 else WARN), f"acceptance {e.acceptance:.2f}: the step is too large"
    if e.acceptance > 0.99 and not e.shortened:
        return WARN, f"acceptance {e.acceptance:.3f}: the step is far too small"


def _divergences(e):
    share = e.divergences / e.excess.size
    if share > 0.005:
        return (BAD if share > 0.1 else WARN), f"{e.divergences} of {e.excess.size} transitions diverged"


def _trend(e):
    """Means of the third and the last quarter, chain by chain, must agree within their errors."""
    if e.excess.shape[1] < 40 or not np.all(np.isfinite(e.excess)) or not e.llc.ess > 0:
        return None
    quarters = np.array_split(e.excess[:, e.excess.shape[1] // 2 :], 2, axis=1)
    change = float(quarters[1].mean() - quarters[0].mean())
    error = e.llc.std * math.sqrt(2 * 4 / e.llc.ess)
    if abs(change) > 4 * error:
        return WARN, f"λ̂ still moves by {change:+.3g} within the last half ({abs(change) / error:.1f} standard errors)"


def _below_minimum(e):
    below = float(np.mean(e.excess < -0.01 * max(1.0, abs(e.llc.mean)))) if np.all(np.isfinite(e.excess)) else 0.0
    if below > 0.01 or e.llc.mean < 0:
        return (BAD if below > 0.1 or e.llc.mean < 0 else WARN), (
            f"{100 * below:.0f} % of draws lie below L_n(w0): w0 is not the minimum that λ̂ is measured from"
        )


def _too_large(e):
    if e.low > e.p / 2:
        return BAD, f"λ̂ {e.llc.mean:.4g}, above {e.low:.4g} with 95 %, exceeds p/2 = {e.p / 2:.4g}, the most it can be"


def _far_away(e):
    if e.w0_norm2 > 0 and np.all(np.isfinite(e.distance2)) and e.distance2.mean() > 10 * e.w0_norm2:
        return (
            WARN,
            f"|w−w0|² {e.distance2.mean():.3g} is more than ten times |w0|² {e.w0_norm2:.3g}: the chain has left w0; raise "
            "posterior.gamma",
        )


def _stein(e):
    if not e.stein.mcse > 0:
        return None
    deviation = e.stein.mean - e.p
    size, relative = deviation / e.stein.mcse, deviation / e.p
    if abs(size) > 4 and not -0.03 < relative < 0.03 + e.predicted_bias:
        return WARN, (
            f"Stein identity off by {100 * relative:+.1f} % ({size:+.1f} standard errors): the draws "
            "are not from the posterior yet, or the discretisation is coarse"
        )


def _baseline(e):
    share = e.baseline_gain / max(e.llc.mean, 1e-12) if np.isfinite(e.llc.mean) else 0.0
    if share > 0.01:
        return (BAD if share > 0.2 else WARN), _no_minimum(e.baseline_gain, share)


def _no_minimum(gain, share):
    return f"w0 is not a minimum: a local descent gains {gain:.3g}, {100 * share:.1f} % of λ̂; train or polish longer"


_CHECKS = (
    _not_finite,
    _too_few,
    _frozen,
    _no_warmup,
    _too_large,
    _below_minimum,
    _disagreement,
    _few_effective,
    _divergences,
    _acceptance,
    _far_away,
    _baseline,
    _trend,
    _stein,
)
