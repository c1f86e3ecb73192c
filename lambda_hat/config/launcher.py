"""What `hydra.launcher.*` may say: types, meanings and ranges; the values are in conf/hydra/launcher."""

from dataclasses import dataclass, fields

from lambda_hat.config import range_problems, setting
from lambda_hat.system.errors import ConfigError


@dataclass(frozen=True)
class Local:
    """Runs on this machine."""

    jobs: int = setting("jobs at a time, each with its share of the cores; 1 = in this process", ge=1, le=1024)
    dry_run: bool = setting("say what would be done, and do nothing")


@dataclass(frozen=True)
class Slurm:
    """Jobs of a SLURM cluster."""

    _target_: str = setting("the plugin")
    dry_run: bool = setting("print the plan and what sbatch would be given; submit and write nothing")
    wait: bool = setting("stay until all is done, and exit with 1 if any failed; Ctrl-C leaves the jobs running")
    poll_s: float = setting("wait=true: seconds between two looks at the queue", ge=0.2, le=3600)
    runs_per_job: int = setting("runs that share a job: one allocation, one process, in sequence", ge=1, le=10_000)
    array_parallelism: int | None = setting("jobs of an array that run at the same time; null = all", ge=1, le=10**6)
    partition: str | None = setting("partition; null = the cluster's default")
    cpu_partition: str | None = setting("partition of jobs that ask for no GPU; null = partition")
    account: str | None = setting("account that pays")
    qos: str | None = setting("quality of service")
    constraint: str | None = setting("features that nodes must have")
    gres: str = setting("what a GPU is called here: gpu, or gpu:a100; resources.run.gpus says how many", nonempty=True)
    gpus: int | None = setting("GPUs of each run's job, in place of resources.run.gpus", ge=0, le=1024)
    cpus: int | None = setting("cores of each job, in place of its resources", ge=1, le=4096)
    mem_gb: float | None = setting("GiB of each job, in place of its resources", gt=0, le=1e5)
    timeout_min: float | None = setting("minutes of each job, in place of its resources", gt=0, le=1e6)
    signal_delay_s: int = setting(
        "seconds before the time limit at which a job keeps what it has and goes back to the queue", ge=1, le=86_400
    )
    max_requeues: int = setting("times that a job may go back to the queue because its time was up", ge=0, le=10_000)
    mail_user: str | None = setting("address that SLURM writes to")
    mail_type: str = setting("occasions on which it does", nonempty=True)
    setup: list[str] = setting("lines of shell before Python starts: modules, environment variables")
    run_with: str | None = setting("what Python is started with: srun and its options, or a container's exec")
    python: str | None = setting("interpreter in the job; null = this one")
    snapshot: bool = setting("run a copy of the code that is made now, whatever happens to the source meanwhile")
    additional: list[str] = setting("further options of sbatch, such as [--exclude=n7,--exclusive]; they win over ours")


def of(node):
    """The options of a composed `hydra.launcher`.

    Raises:
        ConfigError: for one that does not exist, is of the wrong type, or out of range.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from lambda_hat.config import messages

    known = {f.name for f in fields(Local)}
    others = {f.name for f in fields(Slurm)}
    try:
        if OmegaConf.get_type(node) is Slurm:
            if unknown := [key for key in node if key not in others]:
                raise ConfigError(messages.unknown(f"hydra.launcher.{unknown[0]}", sorted(others - {"_target_"})))
            options = OmegaConf.to_object(node)
        else:  # conf/local may set what only the other launcher has a use for
            if unknown := [key for key in node if key not in known | others]:
                raise ConfigError(messages.unknown(f"hydra.launcher.{unknown[0]}", sorted(known)))
            options = OmegaConf.to_object(
                OmegaConf.merge(OmegaConf.structured(Local), {k: node[k] for k in node if k in known})
            )
    except OmegaConfBaseException as error:
        text = messages.of(error)
        raise ConfigError(text if text.startswith("hydra.launcher.") else f"hydra.launcher.{text}") from error
    if found := list(range_problems({"hydra.launcher": options})):
        raise ConfigError("\n".join(found))
    return options


def run_all(stage, combinations, node):
    """Make what is missing of these combinations where `hydra.launcher` says; returns the exit code.

    Arguments:
        stage: `target` or `run`.
        combinations: pairs of a function that composes the configuration and the command line's overrides.
        node: the composed `hydra.launcher`.
    """
    options = of(node)
    if isinstance(options, Slurm):
        from lambda_hat.launch import submit

        return submit.run_all(stage, combinations, options)
    from lambda_hat.launch import local

    return local.run_all(stage, combinations, options)
