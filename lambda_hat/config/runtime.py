"""What changes no number and is never hashed: where results land, how the work is done, what a cluster is asked for."""

from dataclasses import dataclass

from lambda_hat.config.fields import setting


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
class Names:
    """What the catalog calls a target's model and data; never hashed."""

    model: str | None = setting("name of the model; null = the option that was chosen, or its kind")
    data: str | None = setting("name of the data; null = the option that was chosen, or its kind")


@dataclass(frozen=True)
class Runtime:
    """How the work is done, not what comes out; never hashed."""

    platform: str = setting("where JAX computes; auto = a GPU if there is one", choices=("auto", "cpu", "gpu"))
    devices: int | None = setting("CPU devices that chains may be spread over; null = one a core", ge=1, le=1024)
    compilation_cache: str | None = setting("directory that keeps compiled programs between commands; null = none")
    progress: bool = setting("whether a line is logged for each phase of the work")
    figures: bool = setting("whether a run's figures are drawn")
    checkpoint_minutes: float = setting("minutes between checkpoints; 0 = after each piece of work", ge=0, le=1e6)
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


class Logger:
    """An experiment logger, which is told how a run goes."""


@dataclass(frozen=True)
class TensorBoard(Logger):
    """Event files that TensorBoard shows."""

    name: str = setting("the logger", choices=("tensorboard",))
    directory: str = setting("where event files go, a directory for each run", nonempty=True)


@dataclass(frozen=True)
class WandB(Logger):
    """Weights & Biases."""

    name: str = setting("the logger", choices=("wandb",))
    project: str = setting("the project that runs go to", nonempty=True)
    entity: str | None = setting("the user or team; null = your own")
    mode: str = setting("whether runs are sent, or kept for `wandb sync`", choices=("online", "offline", "disabled"))
    directory: str = setting("where wandb keeps its files", nonempty=True)


@dataclass(frozen=True)
class MLflow(Logger):
    """MLflow's tracking."""

    name: str = setting("the logger", choices=("mlflow",))
    tracking_uri: str = setting("a server's address, or where a store of files or a database is", nonempty=True)
    experiment: str = setting("the experiment that runs go to", nonempty=True)
