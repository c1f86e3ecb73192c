"""What `hydra.launcher.*` may say: hydra-submitit-launcher's options under their names, and ours beside them.

hydra/launcher=local             in this process; hydra's own `basic` means the same
hydra/launcher=submitit_local    processes on this machine
hydra/launcher=submitit_slurm    jobs of a SLURM cluster
"""

import difflib
import re
from dataclasses import dataclass, field, fields
from typing import Any

from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf

from lambda_hat.config.fields import setting
from lambda_hat.config.overrides import key_of
from lambda_hat.config.whole import range_problems
from lambda_hat.system.errors import ConfigError

PLUGINS = "hydra_plugins.lambda_hat_launcher"


def option(default: Any, meaning: str, **limits) -> Any:
    """A `setting` with a default: where hydra-submitit-launcher has defaults in its dataclasses, so have ours."""
    metadata = setting(meaning, **limits).metadata
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Here:
    """In this process, one after the other."""

    _target_: str = option(f"{PLUGINS}.HereLauncher", "the plugin")
    jobs: int = option(1, "more than 1: as hydra/launcher=submitit_local", ge=1, le=1024)
    dry_run: bool = option(False, "say what would be done, and do nothing")


@dataclass
class Local(LocalQueueConf):
    """Processes on this machine, through submitit."""

    _target_: str = option(f"{PLUGINS}.LocalLauncher", "the plugin")
    jobs: int = option(1, "processes at a time, each with its share of the cores and GPUs", ge=1, le=1024)
    dry_run: bool = option(False, "say what would be done, and do nothing")
    submitit_folder: str | None = option(
        None, "where submitit keeps its files and logs; null = store.log_dir", nonempty=True
    )
    timeout_min: float | None = option(
        None, "minutes of each process; null = as long as it takes (stock: 60)", gt=0, le=1e6
    )
    cpus_per_task: int | None = option(None, "cores of each process; null = its share of the machine's", ge=1, le=4096)
    gpus_per_node: int | None = option(
        None, "GPUs that each run sees; null = what resources says, as far as there are any", ge=0, le=1024
    )
    tasks_per_node: int = option(1, "must be 1: a run is one process", ge=1)
    mem_gb: float | None = option(None, "not enforced on one machine", gt=0, le=1e5)
    nodes: int = option(1, "must be 1", ge=1)
    name: str = option("${hydra.job.name}", "what it is called", nonempty=True)
    stderr_to_stdout: bool = option(True, "one log for both (stock: false)")


@dataclass
class Slurm(SlurmQueueConf):
    """Jobs of a SLURM cluster, through submitit."""

    _target_: str = option(f"{PLUGINS}.SlurmLauncher", "the plugin")
    wait: bool = option(False, "stay until all is done, and exit with 1 if any failed; Ctrl-C leaves the jobs running")
    dry_run: bool = option(False, "print the plan, the batch scripts and the sbatch calls; submit and write nothing")
    poll_s: float = option(5.0, "wait=true: seconds between two looks at the queue", ge=0.2, le=3600)
    runs_per_job: int = option(1, "runs that share a job: one allocation, one process, in sequence", ge=1, le=10_000)
    cpu_partition: str | None = option(None, "partition of jobs that ask for no GPU; null = partition")
    python: str | None = option(None, "what starts Python in the job, such as a container's exec; null = this one")
    srun_args: list[str] = option(["--mpi=none"], "options of srun")
    snapshot: bool = option(False, "run a copy of the code that is made now, whatever happens to the source meanwhile")

    submitit_folder: str | None = option(
        None, "where submitit keeps its files and logs; null = store.log_dir", nonempty=True
    )
    timeout_min: float | None = option(
        None, "minutes of each job, which may be fewer than a run needs; null = resources (stock: 60)", gt=0, le=1e6
    )
    cpus_per_task: int | None = option(None, "cores of each job; null = resources", ge=1, le=4096)
    gpus_per_node: int | None = option(
        None, "GPUs of each run; null = resources. Targets: resources.target.gpus", ge=0, le=1024
    )
    tasks_per_node: int = option(1, "must be 1: a run is one process", ge=1)
    mem_gb: float | None = option(None, "GB of memory of each job; null = resources", gt=0, le=1e5)
    nodes: int = option(1, "must be 1: a run is one process", ge=1)
    name: str = option("${hydra.job.name}", "what jobs are called", nonempty=True)
    stderr_to_stdout: bool = option(True, "one log for both (stock: false)")

    partition: str | None = option(None, "partition; null = the cluster's default")
    qos: str | None = option(None, "quality of service")
    comment: str | None = option(None, "a comment")
    constraint: str | None = option(None, "features that nodes must have")
    exclude: str | None = option(None, "nodes that are not to be used")
    gres: str | None = option(None, "of runs' jobs, in place of gpus_per_node: gpu:a100:1", nonempty=True)
    cpus_per_gpu: int | None = option(None, "cores for each GPU, in place of cpus_per_task", ge=1, le=4096)
    gpus_per_task: int | None = option(None, "GPUs of runs' jobs, in place of gpus_per_node", ge=1, le=1024)
    mem_per_gpu: str | None = option(None, "memory for each GPU, in place of mem_gb", nonempty=True)
    mem_per_cpu: str | None = option(None, "memory for each core, in place of mem_gb", nonempty=True)
    account: str | None = option(None, "account that pays")
    signal_delay_s: int = option(
        60,
        "seconds before the time limit at which a job keeps what it has and is requeued (stock: 120)",
        ge=1,
        le=86_400,
    )
    max_num_timeout: int = option(
        20, "times that a job may be requeued because its time was up (stock: 0)", ge=0, le=10_000
    )
    additional_parameters: dict[str, Any] = option(
        {}, "further options of sbatch: {nice: 5, mail-user: me@example.org}"
    )
    array_parallelism: int = option(256, "jobs of an array that run at the same time", ge=1, le=10**6)
    setup: list[str] | None = option(None, "lines of shell before Python starts: [module load cuda/12.4]")


KINDS = {"local": Here, "basic": Here, "submitit_local": Local, "submitit_slurm": Slurm}
"""The options of `hydra/launcher`; any other, a YAML of the user's, is told by its `_target_`."""

_STOCK = "hydra_plugins.hydra_submitit_launcher.submitit_launcher"
_BY_TARGET = {
    f"{PLUGINS}.LocalLauncher": Local,
    f"{_STOCK}.LocalLauncher": Local,
    f"{PLUGINS}.SlurmLauncher": Slurm,
    f"{_STOCK}.SlurmLauncher": Slurm,
}

KNOWN = {f.name for cls in KINDS.values() for f in fields(cls)}


def register():
    """Store our options under the stock names, and Hydra's `basic` as `local`.

    Hydra executes plugins when it looks for them and so stores the stock ones: it is made to look before.
    """
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    Plugins.instance()
    for name, cls in KINDS.items():
        if name != "local":  # which is conf/hydra/launcher/local.yaml
            node = OmegaConf.structured(cls)
            OmegaConf.set_struct(node, False)  # conf/local/user.yaml may hold the options of another launcher
            if cls is Slurm:
                OmegaConf.set_struct(node.additional_parameters, False)
            ConfigStore.instance().store(group="hydra/launcher", name=name, node=node, provider="lambda_hat")


def of(hydra):
    """The options of `hydra.launcher` in a composed `hydra`: a `Here`, a `Local` or a `Slurm`.

    What the command line names must be an option of the launcher that was chosen; files may hold those of others.

    Raises:
        ConfigError: for one that does not exist, is of the wrong type, or out of range.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from lambda_hat.config import messages

    node, words = hydra.launcher, hydra.overrides.hydra
    cls = KINDS.get(hydra.runtime.choices["hydra/launcher"]) or _BY_TARGET.get(node.get("_target_"), Here)
    own = [f.name for f in fields(cls) if not f.name.startswith("_")]
    typed = {
        key_of(word).removeprefix("hydra.launcher.").partition(".")[0] for word in words if "hydra.launcher." in word
    }
    for key in [*sorted(typed), *node]:
        if key not in own and (key in typed or key not in KNOWN):
            close = difflib.get_close_matches(key, own, 1)
            near = f" Did you mean hydra.launcher.{close[0]}?" if close else ""
            raise ConfigError(
                f"hydra.launcher.{key}: there is no such setting; expected one of {', '.join(own)}.{near}"
            )
    try:
        given = {key: node[key] for key in node if key in own}
        options = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), given))
    except OmegaConfBaseException as error:
        text = messages.of(error)
        raise ConfigError(text if text.startswith("hydra.launcher.") else f"hydra.launcher.{text}") from error
    if found := [*range_problems({"hydra.launcher": options}), *_problems(options)]:
        raise ConfigError("\n".join(found))
    return options


def _problems(options):
    """What submitit or SLURM would take, and do something else with."""
    for key in ("nodes", "tasks_per_node"):
        if getattr(options, key, 1) != 1:
            yield f"hydra.launcher.{key} must be 1: each run is one process; sweep over more runs instead."
    if isinstance(options, Slurm) and options.gres is not None and re.fullmatch(r"[\w-]*(:[\w.-]+)?:0", options.gres):
        yield f"hydra.launcher.gres={options.gres} asks for nothing; write gres=gpu:1, or leave it out."
