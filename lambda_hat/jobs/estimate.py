"""The front door in Python: λ̂ of a function of a pytree of parameters on arrays of data, without configuration files."""

import importlib.metadata
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Num

from lambda_hat import config as configs
from lambda_hat.analysis import estimation
from lambda_hat.analysis.summary import Summary
from lambda_hat.config import hydra_glue, messages
from lambda_hat.config.options import options as names_of
from lambda_hat.jobs import kept
from lambda_hat.system import devices, home, notebook
from lambda_hat.system.errors import ConfigError
from lambda_hat.targets import artifact, custom, restriction
from lambda_hat.targets.models import Params

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Estimate:
    """λ̂ and how far to believe it; shown as a table in a notebook.

    Attributes:
        summary: the whole record, as analysis.json of a run of the command line.
        trace: every recorded draw, as an `xarray.DataTree` with groups `posterior` (`llc`, `L`) and `sample_stats`.
        noise_scale: σ of real-valued labels; None where the loss has none.
    """

    summary: Summary
    trace: xr.DataTree
    noise_scale: float | None

    @property
    def llc(self) -> float | None:
        """λ̂, the best estimate."""
        return self.summary.llc_mean

    @property
    def mcse(self) -> float | None:
        """Monte Carlo standard error of λ̂."""
        return self.summary.llc_mcse

    @property
    def interval95(self) -> tuple[float | None, float | None]:
        """The interval that is meant to hold the exact posterior's λ̂ 95 times in 100."""
        return self.summary.llc_interval95

    @property
    def status(self) -> str:
        """`ok`, `warn` or `bad`."""
        return self.summary.status

    @property
    def reasons(self) -> list[str]:
        """Why the status is not ok, a sentence each."""
        return list(self.summary.status_reasons)

    @property
    def ess(self) -> float | None:
        """Effective sample size of the draws of L_n."""
        return self.summary.ess

    @property
    def rhat(self) -> float | None:
        """R-hat of the draws of L_n; 1.01 and less is converged."""
        return self.summary.rhat

    @property
    def gradients(self) -> float:
        """Work in full-data gradients over all chains, warm-up and curvature included."""
        return self.summary.total_fges

    @property
    def idata(self) -> Any:
        """The draws as the installed ArviZ takes them: `InferenceData` before version 1, a `DataTree` from there on."""
        if int(importlib.metadata.version("arviz").split(".")[0]) >= 1:
            return self.trace
        import arviz as az

        groups: dict[str, Any] = {name: group.to_dataset() for name, group in self.trace.children.items()}
        return az.InferenceData(**groups)

    def plot(self) -> Any:
        """A matplotlib figure: the chains' draws of nβ(L_n(w) − L_n(w0)), and the running λ̂ with its interval."""
        import matplotlib.pyplot as plt

        draws = self.trace["posterior"].to_dataset()["llc"].to_numpy()
        count = np.arange(1, draws.shape[1] + 1)
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
        for chain in draws:
            left.plot(count, chain, lw=0.5)
            right.plot(count, np.cumsum(chain) / count, lw=0.8)
        left.set(xlabel="draw", ylabel="nβ(L(w) − L(w0))")
        right.plot(count, np.cumsum(draws.mean(0)) / count, color="black", label="mean of the chains")
        if None not in self.interval95:
            right.axhspan(*self.interval95, color="black", alpha=0.1, label="95 % interval of λ̂")
        right.set(xlabel="draw", ylabel="running mean")
        right.legend(fontsize=8, frameon=False)
        figure.suptitle(repr(self), fontsize=10)
        return figure

    def __repr__(self):
        low, high = self.interval95
        return (
            f"Estimate(llc={_text(self.llc, '.5g')} ± {_text(self.mcse, '.2g')}, interval95=[{_text(low, '.5g')}, "
            f"{_text(high, '.5g')}], status={self.status!r})"
        )

    def _repr_html_(self):
        low, high = self.interval95
        rows = {
            "λ̂": f"{_text(self.llc, '.5g')} ± {_text(self.mcse, '.2g')}",
            "95 %": f"[{_text(low, '.5g')}, {_text(high, '.5g')}]",
            "status": "; ".join([self.status, *self.reasons]),
            "ESS": _text(self.ess, ".0f"),
            "R-hat": _text(self.rhat, ".4f"),
            "gradients": _text(self.gradients, ".0f"),
            **({"restricted": "; ".join(found)} if (found := self.summary.restrictions()) else {}),
            "estimand": self.summary.estimand.described(),
        }
        return notebook.table(rows, self.status)


def _text(value, pattern):
    return "–" if value is None else format(value, pattern)


def estimate(
    apply: Callable[[Params, Array], Array] | None = None,
    params: Params = None,
    x: Num[Any, "n ..."] | None = None,
    y: Num[Any, "n ..."] | None = None,
    loss: str | None = None,
    noise_scale: float | str | None = None,
    sampler: str = "hmc",
    gamma: float | None = None,
    beta: float | None = None,
    seed: int = 0,
    store: str | os.PathLike[str] | None = None,
    source: str | None = None,
    *,
    options: dict[str, Any] | None = None,
    log_likelihood: Callable[[Array, Array], Float[Array, " n"]] | None = None,
    potential: Callable[[Params], Float[Array, ""]] | None = None,
    n: int | None = None,
    **settings: Any,
) -> Estimate:
    """The local learning coefficient of a network at its weights w0 = `params`.

    λ̂ = nβ (E[L_n(w)] − L_n(w0)) under π(w) ∝ exp(−nβ L_n(w) − γ/2 |w − w0|²), L_n the mean loss over the n pairs (Lau et al.).
    w0 is taken as it is: where it is no minimum of L_n, λ̂ is too small by what a descent would gain, which `summary` reports as
    `baseline_gain` and the interval includes.

    Arguments:
        apply: the network: parameters and inputs `[n, …]` → outputs `[n, …]`, each example's from its own inputs alone.
        params: w0, a pytree of float arrays of any shapes; all of them are sampled, in float64 whatever they come in.
        x: inputs `[n, …]`; integers stay integers (tokens).
        y: labels: integers are classes (cross-entropy, summed over positions where an example has several), floats a regression.
        loss: what L_n is the mean of, for real-valued labels: `nll` (|outputs − y|²/2σ²), `mse` (|outputs − y|²) or `student_t`.
        noise_scale: σ of `nll` and `student_t`, in units of y. It sets the temperature and λ̂ depends on it, so there is no default:
            a number, or `"residual"` for σ² = the mean squared residual at w0, which the estimate's `noise_scale` records.
        sampler: `hmc`, `mclmc`, `sgld`, or `laplace` (the Gaussian approximation: instant, no error bar).
        gamma: localization γ, in units of 1/w². 100 keeps a trained network near w0; singular models whose λ is known take 1 or
            less.
        beta: inverse temperature β; None = 1/log n.
        seed: of the sampler.
        store: directory that the target and the run are kept in, as the command line keeps them: a call for a run that is there
            returns it, and one that was stopped goes on. None = nothing is written.
        source: what the network is named after in a store: a file or module and the function in it that makes the same network,
            `net.py:make` (see `model=custom`). The source is run, and must agree with `apply` and `params`. The names are hashes
            of the source's text, its options, x, y and params as `numpy.savez` writes them, and of the settings.
        options: what the source's function is given, by its own names: `{"width": 32}`.
        log_likelihood: outputs, y → log-likelihood of each example `[n]`, in place of `loss` and `noise_scale`.
        potential: parameters → L(w) itself, in place of apply, x and y; needs `n`.
        n: number of data that `potential` is the mean loss of.
        settings: settings of sampler and posterior by name, such as draws (1000), warmup (100), chains (4), mcse_target (0.005:
            drawing stops at this error relative to λ̂), prior_radius (r, for γ = p/r²), parameters (shell patterns of the names
            of those that move, ["conv.*", "head.w"]; the others stay at w0), data (a file .npz with arrays X and Y, .npy with
            data_labels_path, or .csv or .parquet with data_target, over whose pairs L_n is the mean in place of x and y; w0 need
            be no minimum there, and n sets β). What is not given has conf/'s value; None is null there (mcse_target=None: all
            draws are made).

    Returns:
        `Estimate`.

    Raises:
        ConfigError: for whatever cannot be run, in a sentence.
        UserError: with a store, for one that cannot be written or is damaged, and for what cannot fit into memory.

    Example:
        A regular model has λ = p/2, and a linear regression at γ → 0 is exactly that:

        >>> import numpy as np, lambda_hat
        >>> rng = np.random.default_rng(0)
        >>> x = rng.standard_normal((1000, 4))
        >>> y = x @ [1.0, -2.0, 0.5, 0.0] + 0.1 * rng.standard_normal(1000)
        >>> w0 = np.linalg.lstsq(x, y)[0]
        >>> est = lambda_hat.estimate(lambda w, x: x @ w, w0, x, y, noise_scale=0.1, gamma=1)
        >>> round(est.llc, 1), est.status
        (2.0, 'ok')

        With a store, the same call finds what the first has made:

        >>> from pathlib import Path
        >>> text = "import numpy\\ndef make(): return lambda key: numpy.zeros(4), lambda w, x: x @ w"
        >>> _ = Path("net.py").write_text(text)
        >>> named = {"noise_scale": 0.1, "gamma": 1, "store": "runs", "source": "net.py:make"}
        >>> first = lambda_hat.estimate(lambda w, x: x @ w, w0, x, y, **named)
        >>> again = lambda_hat.estimate(lambda w, x: x @ w, w0, x, y, **named)
        >>> round(again.llc, 1), again.summary == first.summary, len(lambda_hat.load_results("runs"))
        (2.0, True, 1)

    References:
        Lau, Furman, Wang, Murfet, Wei, "The Local Learning Coefficient", arXiv 2308.12108.
        Hitchcock, Hoogland, arXiv 2507.21449.
    """
    began = time.perf_counter()
    identity = kept.identity(store, source, options, {"potential": potential, "log_likelihood": log_likelihood})
    named = {name: value for name, value in {"gamma": gamma, "beta": beta, "loss": loss}.items() if value is not None}
    chosen = _settings(sampler, {"seed": seed} | named | settings)
    with home.lent():
        import arviz  # noqa: F401
    with devices.settings():
        if potential is not None:
            target = _of_potential(
                potential, params, n, {"apply": apply, "x": x, "y": y, "log_likelihood": log_likelihood}
            )
        else:
            target = _of_network(apply, params, x, y, chosen.posterior, noise_scale, log_likelihood)
        whole, target = target, restriction.seen_by(chosen.posterior, target)
        _check_fit(chosen, target)
        if identity is not None:
            assert apply is not None, "_of_network has refused that"
            return Estimate(*kept.keep(identity, chosen, whole.sizes, apply, params, x, y, noise_scale))
        curvature = artifact.curvature_at(target, chosen.posterior)
        made = estimation.estimate_llc(
            target,
            curvature,
            chosen,
            log=lambda line, frequent=False: log.info(line),
            report=lambda **_: None,
            identity={"target_id": "", "run_id": ""},
        )
    summary = replace(
        made.summary, walltime_sec=time.perf_counter() - began, timings_sec=made.seconds, created_at=time.time()
    )
    return Estimate(summary, made.trace, target.noise_scale)


# --- settings ---------------------------------------------------------------------------------------------------------


def _settings(sampler: str, given: dict[str, Any]) -> estimation.Settings:
    """conf/'s posterior and sampler with the settings that are given; None is null, as in conf/.

    Raises:
        ConfigError: for a sampler or a setting that does not exist, or a value that cannot be.
    """
    if sampler not in names_of("sampler"):
        raise ConfigError(messages.unknown_option("sampler", sampler, names_of("sampler")))
    defaults = _defaults(sampler)
    groups = {
        name: [f.name for f in fields(getattr(defaults, name)) if f.name != "name"] for name in ("posterior", "sampler")
    }
    for name in given:
        if not any(name in names for names in groups.values()):
            raise ConfigError(messages.unknown(name, [name for names in groups.values() for name in names]))
    for one, other, what in (("gamma", "prior_radius", "γ"), ("beta", "nbeta", "β")):
        if given.get(one) is not None and given.get(other) is not None:
            raise ConfigError(f"{one} and {other} both set {what}; give one of them.")
    made = {}
    for group, names in groups.items():
        chosen = {name: value for name, value in given.items() if name in names}
        made[group] = hydra_glue.group_from_plain(group, asdict(getattr(defaults, group)) | chosen)
    if problems := list(configs.range_problems(made)):
        raise ConfigError("\n".join(problems))
    return estimation.Settings(**made)


@cache
def _defaults(sampler: str) -> estimation.Settings:
    composed = hydra_glue.to_config(hydra_glue.composed(f"sampler={sampler}"))
    return estimation.Settings(composed.posterior, composed.sampler)


def _check_fit(settings, target):
    """Refuse settings that do not fit each other, or this many data or parameters."""
    whole = SimpleNamespace(
        model=None,
        data=SimpleNamespace(n_data=target.meta["dims"]["n"], classes=False, target=None),
        posterior=settings.posterior,
        sampler=settings.sampler,
    )
    problems = [*settings.posterior.problems(whole), *settings.sampler.problems(whole)]
    if isinstance(settings.sampler, configs.MCLMC) and target.meta["dims"]["p"] == 1:
        problems.append(
            "sampler=mclmc needs at least 2 parameters (its momentum is a direction); use sampler=hmc for one."
        )
    if problems:
        raise ConfigError("\n".join(problems))


# --- targets ----------------------------------------------------------------------------------------------------------


def _of_network(apply, params, x, y, posterior, noise_scale, log_likelihood) -> artifact.Target:
    for name, value in {"apply": apply, "params": params, "x": x, "y": y}.items():
        if value is None:
            raise ConfigError(f"{name} is missing: give apply, params, x and y, or potential, params and n.")
    x, y = custom.check_arrays(x, y)
    network = custom.CustomNetwork(apply, lambda key: params)
    w0 = custom.as_float64(params, "params")
    shape = custom.check_network("apply", apply, w0, x)
    if log_likelihood is None:
        y = custom.fit_labels(y, shape if len(shape) > 1 else (*shape, 1))
        sigma = custom.noise_scale(noise_scale, posterior.loss, y, lambda: network.apply(w0, jnp.asarray(x)))
    else:
        if noise_scale is not None:
            raise ConfigError(
                "noise_scale has no use with log_likelihood, which says all of the likelihood; leave it out."
            )
        custom.check_log_likelihood(log_likelihood, custom.call("apply", apply, w0, x[:2]), y[:2])
        lone = len(shape) == 1
        network = custom.CustomNetwork(
            apply, network.start, lambda outputs, y: -log_likelihood(outputs[:, 0] if lone else outputs, y)
        )
        sigma = None
    return artifact.in_memory(network, w0, x, y, sigma)


def _of_potential(potential, params, n, others) -> artifact.Target:
    if unused := [name for name, value in others.items() if value is not None]:
        raise ConfigError(f"{', '.join(unused)} cannot be given with potential, which is L(w) itself; leave one out.")
    if n is None or n < 2:
        raise ConfigError(
            f"potential needs n ≥ 2, the number of data that it is the mean loss of (nβ is n/log n); got {n}."
        )
    model = custom.CustomPotential(potential, params)
    w0 = custom.as_float64(params, "params")
    custom.check_potential(potential, w0)
    empty = np.zeros((n, 0))
    return artifact.in_memory(model, w0, empty, empty, None)
