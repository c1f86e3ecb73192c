"""Every setting: its type, meaning, unit and sane range. The values live in conf/, one YAML for each.

A group (model, data, training, sampler) may come in several kinds; `kind` (for samplers `name`) says which class
below a configuration belongs to. No field has a default here.
"""

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from lambda_hat.system.errors import ConfigError

ACTIVATIONS = ("relu", "tanh", "gelu", "identity")
INITS = ("he", "xavier", "lecun", "orthogonal")


def setting(meaning, *, gt=None, ge=None, lt=None, le=None, choices=None, nonempty=False):
    """A dataclass field with its meaning and range; the range holds for every entry of a list, and null is always in it."""
    return field(metadata=dict(meaning=meaning, gt=gt, ge=ge, lt=lt, le=le, choices=choices, nonempty=nonempty))


# --- model: the parametric family, w ↦ f_w or directly w ↦ L(w) -------------------------------------------------------


@dataclass(frozen=True)
class MLP:
    """A fully connected network with `depth` hidden layers."""

    kind: str = setting("the family", choices=("mlp",))
    in_dim: int = setting("number of inputs", ge=1, le=100_000)
    out_dim: int = setting("number of outputs", ge=1, le=100_000)
    depth: int | None = setting("number of hidden layers; null = as many as widths has entries", ge=1, le=100)
    widths: list[int] | None = setting(
        "units of each hidden layer; null = equal widths inferred from target_params", ge=1, le=100_000, nonempty=True
    )
    target_params: int | None = setting(
        "number of parameters that inferred widths come closest to; read only where widths is null", ge=1, le=10**9
    )
    activation: str = setting("non-linearity of the hidden layers", choices=ACTIVATIONS)
    bias: bool = setting("whether layers have biases (drawn as zeros)")
    layernorm: bool = setting("whether pre-activations are normalised over units, with a learnt scale and shift")
    init: str = setting("distribution of the initial weights", choices=INITS)


@dataclass(frozen=True)
class DeepLinear:
    """A deep linear network: a product of matrices, identity activation, no bias."""

    kind: str = setting("the family", choices=("deep_linear",))
    in_dim: int = setting("number of inputs", ge=1, le=100_000)
    widths: list[int] = setting("units of each hidden layer", ge=1, le=100_000, nonempty=True)
    out_dim: int = setting("number of outputs", ge=1, le=100_000)
    init: str = setting("distribution of the initial weights", choices=INITS)


@dataclass(frozen=True)
class Quadratic:
    """L(w) = ½ Σ_i h_i w_i²: no data but n, no noise; the LLC is known in closed form at every (n, β, γ)."""

    kind: str = setting("the family", choices=("quadratic",))
    dim: int = setting("number of parameters", ge=1, le=10**7)
    curvature_min: float = setting("smallest curvature h; the others are spaced evenly in log h", ge=0, le=1e12)
    curvature_max: float = setting("largest curvature h", gt=0, le=1e12)
    curvatures: list[float] | None = setting("all curvatures, dim of them; null = spaced", ge=0, le=1e12, nonempty=True)


@dataclass(frozen=True)
class NormalCrossing:
    """L(w) = Π_i w_i^(2 k_i): no data but n, no noise; λ = min 1/(2 k_i)."""

    kind: str = setting("the family", choices=("normal_crossing",))
    powers: list[int] = setting("the exponents k_i, zeros allowed but not all", ge=0, le=100, nonempty=True)


@dataclass(frozen=True)
class Monomial:
    """L(w) = ½ Σ_i |w_i|^(p_i): no data but n, no noise; λ = Σ 1/p_i."""

    kind: str = setting("the family", choices=("monomial",))
    powers: list[float] = setting("the exponents p_i, one for each parameter", ge=2, le=100, nonempty=True)


ANALYTIC = (Quadratic, NormalCrossing, Monomial)
"""Models that are a function of w alone."""


# --- data: n pairs (x, y) ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TeacherData:
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


@dataclass(frozen=True)
class Digits:
    """The 1797 handwritten 8×8 digits that scikit-learn ships: 64 inputs in [0, 1], 10 classes."""

    kind: str = setting("where the pairs come from", choices=("digits",))
    n_data: int = setting("number of pairs n, a random subset", ge=2, le=1797)


# --- training: where w0 comes from ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Descent:
    """Minibatch descent from a random initialisation, then a second-order polish on the full data."""

    kind: str = setting("where w0 comes from", choices=("descent",))
    optimizer: str = setting("first-order optimizer", choices=("adam", "sgd", "adamw"))
    learning_rate: float = setting("peak step size of the optimizer", gt=0, le=100)
    schedule: str = setting("learning rate over the steps", choices=("constant", "cosine", "warmup_cosine"))
    steps: int = setting("number of minibatch steps", ge=0, le=10**8)
    batch_size: int | None = setting("pairs in a minibatch; null = 1024, or n if that is less", ge=1, le=10**8)
    momentum: float = setting("sgd: heavy-ball momentum", ge=0, lt=1)
    weight_decay: float = setting("adamw: decoupled weight decay", ge=0, le=10)
    polish_steps: int = setting("most quasi-Newton iterations of the polish", ge=0, le=10**6)
    polish_localization: float = setting(
        "localization γ at which w0 is to be a minimum, that is of nβL_n + γ/2 |w − w0|² with β = 1/log n",
        gt=0,
        le=1e12,
    )
    polish_tolerance: float = setting(
        "the polish ends where 200 further iterations gain less than this share of p/2, in units of λ̂", gt=0, le=1
    )
    dtype: str = setting("precision of the first-order steps; the polish is in float64", choices=("float32", "float64"))


@dataclass(frozen=True)
class FromTeacher:
    """w0 is the teacher's own parameters (the minimum of L_n where there is no noise), polished if asked."""

    kind: str = setting("where w0 comes from", choices=("teacher",))
    polish_steps: int = setting("most quasi-Newton iterations of the polish", ge=0, le=10**6)
    polish_localization: float = setting(
        "localization γ at which w0 is to be a minimum, that is of nβL_n + γ/2 |w − w0|² with β = 1/log n",
        gt=0,
        le=1e12,
    )
    polish_tolerance: float = setting(
        "the polish ends where 200 further iterations gain less than this share of p/2, in units of λ̂", gt=0, le=1
    )


# --- posterior: π(w) ∝ exp(−nβ L_n(w) − γ/2 |w − w0|²) ----------------------------------------------------------------


@dataclass(frozen=True)
class Posterior:
    """The tempered local posterior around w0 (Lau et al., arXiv 2308.12108)."""

    loss: str = setting(
        "what L_n is the mean of: nll (Gaussian with data.noise_scale, or cross-entropy), mse (squared error summed over "
        "outputs), student_t",
        choices=("nll", "mse", "student_t"),
    )
    student_t_df: float = setting("student_t: degrees of freedom; its scale is data.noise_scale", gt=0, le=1e6)
    beta: float | None = setting("inverse temperature β; null = 1/log n", gt=0, le=1e12)
    gamma: float = setting("localization strength γ", gt=0, le=1e12)
    prior_radius: float | None = setting("typical distance r from w0; sets γ = p/r² in place of gamma", gt=0, le=1e6)


# --- sampler ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawing:
    """What all ways to draw share."""

    name: str = setting("the algorithm")
    chains: int = setting("number of independent chains", ge=1, le=10_000)
    draws: int = setting("recorded draws of each chain, at most", ge=1, le=10**8)
    dtype: str = setting(
        "precision of data and gradients; positions and sums over data are in float64", choices=("float32", "float64")
    )
    seed: int = setting("seed of the sampler's random streams", ge=0, lt=2**63)
    save_params: bool = setting("whether trace.nc holds the parameters of every draw (chains × draws × p numbers)")


@dataclass(frozen=True)
class Laplace(Drawing):
    """λ̂ of the Gaussian of the curvature at w0, in closed form; its draws only tell how far to believe it."""

    name: str = setting("the algorithm", choices=("laplace",))


@dataclass(frozen=True)
class Sampling(Drawing):
    """What all samplers share."""

    mcse_target: float | None = setting(
        "Monte Carlo standard error, as a share of λ̂, at which drawing stops if R-hat ≤ 1.01 and ESS ≥ 400; null = make "
        "all draws",
        gt=0,
        lt=1,
    )
    warmup: int = setting(
        "draws discarded while the chain settles and tunes, each as long as a recorded one", ge=0, le=10**8
    )
    thin: int | None = setting(
        "transitions for each draw; null (sgld only) = chosen with the step size", ge=1, le=10**6
    )
    metric: str | None = setting(
        "coordinates in which the chain moves: whitened by the curvature nβH + γ, at w0 and then along the settled chains, "
        "or the plain ones; null = curvature where a trial finds the posterior near to quadratic and sgld has no diagonal "
        "preconditioner",
        choices=("curvature", "identity"),
    )


@dataclass(frozen=True)
class HMC(Sampling):
    """Hamiltonian Monte Carlo with jittered trajectories; exact but for the MCMC error."""

    name: str = setting("the algorithm", choices=("hmc",))
    step_size: float | None = setting("leapfrog step in the metric's coordinates; null = adapted", gt=0, le=1e6)
    trajectory_length: float | None = setting("mean integration time of a trajectory; null = tuned", gt=0, le=1e6)
    target_acceptance: float = setting("mean acceptance that the step size is adapted to", gt=0, lt=1)
    max_leapfrog_steps: int = setting("most leapfrog steps of one trajectory", ge=1, le=10**6)


@dataclass(frozen=True)
class MCLMC(Sampling):
    """Microcanonical Langevin Monte Carlo, unadjusted: its step size leaves a bias, kept small by `energy_variance`."""

    name: str = setting("the algorithm", choices=("mclmc",))
    step_size: float | None = setting("integrator step in the metric's coordinates; null = tuned", gt=0, le=1e6)
    decoherence_length: float | None = setting(
        "distance L over which the momentum is forgotten; null = tuned", gt=0, le=1e9
    )
    energy_variance: float = setting(
        "variance of the energy error per dimension that the step size is tuned to", gt=0, le=1
    )


@dataclass(frozen=True)
class SGLD(Sampling):
    """Stochastic gradient Langevin dynamics, ε/2 convention (Hitchcock & Hoogland, arXiv 2507.21449, App. D.3)."""

    name: str = setting("the algorithm", choices=("sgld",))
    step_size: float | None = setting("step ε in the metric's coordinates; null = from bias_target", gt=0, le=1e6)
    bias_target: float = setting("relative bias of λ̂ that a null step_size aims at", gt=0, lt=1)
    batch_size: int | None = setting(
        "pairs in a minibatch; null = whatever takes least time at the bias aimed at", ge=1, le=10**8
    )
    precond: str = setting("diagonal preconditioner", choices=("none", "rmsprop", "adam"))
    control_variate: bool | None = setting(
        "whether minibatch gradients are corrected by those of the same batch at w0; null = where it pays"
    )
    first_moment_decay: float = setting("adam: b1", ge=0, lt=1)
    second_moment_decay: float = setting("rmsprop, adam: b2", ge=0, lt=1)
    stabilizer: float | None = setting(
        "rmsprop, adam: the a of 1/(√v̂ + a), in units of the mean loss gradient; null = 4 times the root mean "
        "square of the loss gradient over parameters, chains and batches",
        gt=0,
        le=1e6,
    )


# --- everything -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Store:
    """Where artifacts land; never hashed."""

    root: str = setting("directory that holds targets/ and logs/", nonempty=True)
    target_id: str = setting("name of the target's directory")
    run_id: str = setting("name of the run's directory")
    target_dir: str = setting("path of the target")
    run_dir: str = setting("path of the run")
    log_dir: str = setting("where this command's log goes")


@dataclass(frozen=True)
class Runtime:
    """How the work is done, not what comes out; never hashed."""

    platform: str = setting("where JAX computes; auto = a GPU if there is one", choices=("auto", "cpu", "gpu"))
    devices: int | None = setting("CPU devices that chains are spread over; null = one a core", ge=1, le=1024)
    compilation_cache: str | None = setting("directory that keeps compiled programs between commands; null = none")
    progress: bool = setting("whether a line is logged for each phase of the work")
    figures: bool = setting("whether a run's figures are drawn")
    checkpoint_minutes: float = setting(
        "minutes of work after which it is kept what to go on from; 0 = after each piece of work", ge=0, le=1e6
    )
    memory_limit: float | None = setting(
        "GiB that a run may take: one predicted to take more is refused; null = the job's allocation or the machine's",
        gt=0,
        le=1e6,
    )


@dataclass(unsafe_hash=True)  # frozen, it would stay read-only to Hydra, two levels down
class Request:
    """What one job asks a cluster for."""

    gpus: int = setting("GPUs", ge=0, le=1024)
    cpus: int = setting("CPU cores", ge=1, le=4096)
    mem_gb: float | None = setting("GiB of memory; null = the cluster's default", gt=0, le=1e5)
    timeout_min: float | None = setting("minutes; null = the partition's default", gt=0, le=1e6)


@dataclass(frozen=True)
class Resources:
    """What the jobs of a target and of a run ask for; never hashed."""

    target: Request = setting("for building the target")
    run: Request = setting("for a run; several in one job ask for the sum of their minutes")


# --- logger: an experiment logger that is told how a run goes; never hashed -------------------------------------------


@dataclass(frozen=True)
class TensorBoard:
    """Event files that TensorBoard shows."""

    name: str = setting("the logger", choices=("tensorboard",))
    directory: str = setting("where event files go, a directory for each run", nonempty=True)


@dataclass(frozen=True)
class WandB:
    """Weights & Biases."""

    name: str = setting("the logger", choices=("wandb",))
    project: str = setting("the project that runs go to", nonempty=True)
    entity: str | None = setting("the user or team; null = your own")
    mode: str = setting("whether runs are sent, or kept for `wandb sync`", choices=("online", "offline", "disabled"))
    directory: str = setting("where wandb keeps its files", nonempty=True)


@dataclass(frozen=True)
class MLflow:
    """MLflow's tracking."""

    name: str = setting("the logger", choices=("mlflow",))
    tracking_uri: str = setting("a server's address, or where a store of files or a database is", nonempty=True)
    experiment: str = setting("the experiment that runs go to", nonempty=True)


@dataclass(frozen=True)
class Config:
    """One target and one sampler on it."""

    model: Any = setting("the parametric family")
    data: Any = setting("the data set")
    training: Any = setting("where w0 comes from")
    posterior: Any = setting("the tempered local posterior")
    sampler: Any = setting("the sampling algorithm")
    seed: int = setting("seed of the target: data, teacher, initialisation and training", ge=0, lt=2**63)
    target: str | None = setting("id of an existing target to sample, in place of model, data, training and seed")
    force: bool = setting("redo what exists; what is replaced is moved to <root>/replaced/")
    strict: bool = setting("exit with an error where a result's status is bad")
    store: Store = setting("where artifacts land")
    runtime: Runtime = setting("how the work is done")
    resources: Resources = setting("what a cluster is asked for")
    logger: Any = setting("an experiment logger that is told how a run goes; null = none; never hashed")


KINDS = {
    "model": {
        "mlp": MLP,
        "deep_linear": DeepLinear,
        "quadratic": Quadratic,
        "normal_crossing": NormalCrossing,
        "monomial": Monomial,
    },
    "data": {"teacher": TeacherData, "digits": Digits},
    "training": {"descent": Descent, "teacher": FromTeacher},
    "posterior": {"posterior": Posterior},
    "sampler": {"hmc": HMC, "mclmc": MCLMC, "sgld": SGLD, "laplace": Laplace},
    "logger": {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow},
}
"""Which class a group's `kind` (sampler and logger: `name`) stands for."""

HASHED = ("model", "data", "training", "posterior", "sampler")


# --- checks -----------------------------------------------------------------------------------------------------------


def problems(config):
    """All reasons why `config` cannot be run, a sentence each, naming the key; empty if there are none."""
    return list(range_problems({f.name: getattr(config, f.name) for f in fields(config)})) or list(_clashes(config))


def check(config):
    """Refuse a configuration that cannot be run.

    Raises:
        ConfigError: with one sentence a line, each naming its key.
    """
    if found := problems(config):
        raise ConfigError("\n".join(found))


def range_problems(settings):
    """Values that are out of range, whatever the others are: a sentence each.

    Arguments:
        settings: any of `Config`'s fields by name.
    """
    own = {f.name: f for f in fields(Config)}
    for name, value in settings.items():
        if is_dataclass(value):
            for f in fields(value):
                yield from _range_problems(f"{name}.{f.name}", getattr(value, f.name), f)
        else:
            yield from _range_problems(name, value, own[name])


def _range_problems(key, value, f):
    if is_dataclass(value):
        for inner in fields(value):
            yield from _range_problems(f"{key}.{inner.name}", getattr(value, inner.name), inner)
        return
    if f.metadata["nonempty"] and value is not None and not value:
        yield f"{key} must not be empty ({f.metadata['meaning']})."
    entries = value if isinstance(value, (list, tuple)) else [value]
    if any(entry is not None and not _in_range(entry, f.metadata) for entry in entries):
        yield _out_of_range(key, value, f)


def _in_range(value, limits):
    if limits["choices"] is not None:
        return value in limits["choices"]
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (
        (limits["gt"] is None or value > limits["gt"])
        and (limits["ge"] is None or value >= limits["ge"])
        and (limits["lt"] is None or value < limits["lt"])
        and (limits["le"] is None or value <= limits["le"])
    )


def _out_of_range(key, value, f):
    limits = f.metadata
    if limits["choices"] is not None:
        expected = "one of " + ", ".join(limits["choices"])
    else:
        signs = (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
        bounds = [f"{sign} {_short(limits[name])}" for name, sign in signs if limits[name] is not None]
        expected = " and ".join(bounds) or "a finite number"
    return f"{key} must be {expected}; got {value!r} ({limits['meaning']})."


def _short(number):
    return str(number) if abs(number) < 10_000 else f"{number:.4g}"


def _clashes(config):
    """Settings that are fine alone and cannot be together."""
    model, data, training, posterior, sampler = (getattr(config, group) for group in HASHED)
    analytic = isinstance(model, ANALYTIC)

    if isinstance(model, MLP):
        if model.widths is not None and model.depth not in (None, len(model.widths)):
            yield (
                f"model.depth={model.depth} but model.widths={list(model.widths)} has {len(model.widths)}: make them "
                "agree, or set model.depth=null (or model.widths=null to infer them from model.target_params)."
            )
        if model.widths is None and (model.depth is None or model.target_params is None):
            yield "model.widths=null needs both model.depth and model.target_params, to infer the widths from; set them."
    if isinstance(model, Quadratic):
        if model.curvatures is not None and len(model.curvatures) != model.dim:
            yield f"model.curvatures must have model.dim={model.dim} entries; got {len(model.curvatures)}."
        if model.curvatures is not None and not any(model.curvatures):
            yield "model.curvatures must not all be zero: L would not depend on w; give at least one positive curvature."
        if model.curvatures is None and model.curvature_min > model.curvature_max:
            yield (
                f"model.curvature_min={model.curvature_min} must not exceed model.curvature_max={model.curvature_max}."
            )
        if model.curvatures is None and model.curvature_min == 0:
            yield "model.curvature_min must be > 0 (curvatures are spaced in log h); for zeros list model.curvatures."
    if isinstance(model, NormalCrossing) and not any(model.powers):
        yield f"model.powers must not all be zero: L would not depend on w; got {list(model.powers)}."

    if analytic:
        if isinstance(data, Digits):
            yield f"model={model.kind} is a function of w alone and has no use for data=digits; use data=small."
        if posterior.loss != "nll":
            yield f"posterior.loss must be nll for model={model.kind}, which is itself the loss; got {posterior.loss}."
    if isinstance(data, Digits):
        if not analytic and (model.in_dim != 64 or model.out_dim != 10):
            yield f"data=digits needs model.in_dim=64 and model.out_dim=10; got {model.in_dim} and {model.out_dim}."
        if posterior.loss != "nll":
            yield f"posterior.loss must be nll (cross-entropy) for data=digits; got {posterior.loss}."
        if isinstance(training, FromTeacher):
            yield "training=teacher needs data with a teacher; data=digits has none: use another training."
    elif not analytic:
        yield from _teacher_clashes(model, data, training)

    if isinstance(training, Descent) and not analytic:
        if training.batch_size is not None and training.batch_size > data.n_data:
            yield f"training.batch_size must be ≤ data.n_data={data.n_data}; got {training.batch_size}."
    if isinstance(sampler, (HMC, MCLMC)) and sampler.thin is None:
        yield f"sampler.thin must be a number for sampler={sampler.name}; got null."
    if isinstance(sampler, SGLD):
        if sampler.batch_size is not None and sampler.batch_size > data.n_data:
            yield f"sampler.batch_size must be ≤ data.n_data={data.n_data}; got {sampler.batch_size}."
        if sampler.precond != "none" and sampler.metric == "curvature":
            yield (
                f"sampler.precond={sampler.precond} is defined in the plain coordinates and sampler.metric=curvature is "
                "a preconditioner too: set sampler.metric=identity, or sampler.precond=none."
            )
    if isinstance(sampler, MCLMC) and _dimension(model) == 1:
        yield "sampler=mclmc needs at least 2 parameters (its momentum is a direction); use sampler=hmc for one."


def _teacher_clashes(model, data, training):
    widths = data.teacher_widths
    if widths is not None and data.teacher_depth not in (None, len(widths)):
        yield f"data.teacher_depth={data.teacher_depth} but data.teacher_widths={list(widths)} has {len(widths)}: make them agree."
    if widths is None and data.teacher_depth is not None:
        yield "data.teacher_depth needs data.teacher_widths; set both, or neither for a teacher like the model."
    activation = data.teacher_activation or getattr(model, "activation", "identity")
    linear = activation == "identity" and not getattr(model, "layernorm", False)
    if data.teacher_rank is not None:
        if not linear and data.teacher_rank > 0:
            yield (
                "data.teacher_rank > 0 needs a linear teacher: set data.teacher_activation=identity and model.layernorm=false, "
                "or data.teacher_rank=null."
            )
        limit = min([model.in_dim, model.out_dim, *(widths or getattr(model, "widths", None) or [])])
        if data.teacher_rank > limit:
            yield f"data.teacher_rank must be ≤ {limit}, the smallest layer of the teacher; got {data.teacher_rank}."
    if isinstance(training, FromTeacher):
        same = widths is None or list(widths) == list(getattr(model, "widths", None) or [])
        if not same or data.teacher_activation not in (None, getattr(model, "activation", "identity")):
            yield (
                "training=teacher takes the teacher's parameters as the model's, so both need the same widths and "
                "activation: set data.teacher_widths=null and data.teacher_activation=null, or use training=adam."
            )


def _dimension(model):
    """Number of parameters where it can be told at once, else None."""
    if isinstance(model, Quadratic):
        return model.dim
    if isinstance(model, (NormalCrossing, Monomial)):
        return len(model.powers)
    return None
