"""How much memory a job will take, told from its configuration and the sizes of its model, and how much there is. Knows no JAX."""

import os
import re
from pathlib import Path

from lambda_hat.config import SGLD, Descent, FileData, Laplace, sizes
from lambda_hat.config.sizes import DENSE_LIMIT, GROUP, SUMMED_FROM, TOP, Sizes
from lambda_hat.store.files import MAPPED_FROM
from lambda_hat.system import machine
from lambda_hat.system.errors import UserError

GIB = 2**30

PROCESS = 0.75 * GIB
"""Python, JAX, the compiler and the plots. Measured: 0.5 to 0.85 GiB."""

CHAIN_VECTORS = 16
"""Vectors of p numbers in float64 that a chain takes at most, in states, trajectories and calls that overlap."""

POLISH_VECTORS = 160
"""Vectors that L-BFGS takes with 30 corrections."""

MAPPED_PAIR = 48
"""Bytes of a pair that stays in its file: its number, its weight and a label, on the host and on a device."""


def check(config, stage, known=None):
    """Refuse a job that cannot fit.

    Arguments:
        known: as in `predict`.

    Raises:
        UserError: with what it is predicted to take, and what there is.
    """
    parts = predict(config, stage, known)
    wanted, (there, whose) = sum(parts.values()), available(config.runtime.memory_limit)
    if wanted > there:
        raise UserError(f"{_words(config, parts, known)}, and {whose} {there / GIB:.3g} GiB: {_advice(parts)}.")


def out_of_memory(error, config, stage, known=None):
    """The same words for an error that says that memory has run out; None for any other error."""
    if not isinstance(error, MemoryError) and not re.search("RESOURCE_EXHAUSTED|[Oo]ut of memory", str(error)):
        return None
    parts = predict(config, stage, known)
    there, whose = available(config.runtime.memory_limit)
    return UserError(
        f"Memory has run out. {_words(config, parts, known)}, and {whose} {there / GIB:.3g} GiB, which others use too: "
        f"{_advice(parts)}."
    )


def predict(config, stage, known=None):
    """Bytes by what they are for, peaks of phases that follow each other counted once.

    Arguments:
        config: the `config.Config`.
        stage: `target` or `run` (whose target may have to be built first).
        known: the model's `sizes.Sizes`, where its configuration does not tell them; without them it counts for nothing.
    """
    model = known or sizes.of(config.model) or Sizes({})
    p, n = sum(model.arrays.values()), config.data.n_data if model.squares else 1
    devices = config.runtime.devices or machine.cores()
    single = 4 if getattr(config.sampler, "dtype", "float32") == "float32" else 8
    is_mapped = _stays_in_file(config.data, n * model.pair)
    pairs = n * MAPPED_PAIR if is_mapped else 8 * n * (2 * model.pair + 2 * model.widest)
    training = pairs + 8 * p * POLISH_VECTORS
    if isinstance(config.training, Descent):
        training += 16 * max(config.training.steps, config.training.length)
    if stage == "target":
        return {"the process": PROCESS, "data and training": training}
    sampler, moving = config.sampler, config.posterior.moving(model.arrays) if model.arrays else []
    p = sum(model.arrays[name] for name in moving)
    data = n * (MAPPED_PAIR if is_mapped else model.pair * (8 + 2 * single * devices))
    chains = 8 * CHAIN_VECTORS * sampler.chains * p
    if isinstance(sampler, Laplace):
        chains = 4 * single * sampler.chains * sampler.draws * p
    elif isinstance(sampler, SGLD):
        chains += 4 * single * sampler.chains * min(n, sampler.batch_size or n // 2) * model.widest
    draws = 9 * 8 * 3 * sampler.chains * sampler.draws
    draws += 3 * 8 * sampler.chains * sampler.draws * p if sampler.save_params else 0
    if model.squares is not None and not isinstance(sampler, Laplace):
        draws += 3 * single * sampler.chains * min(sampler.draws, sizes.most_kept(sampler.chains, max(p, 1))) * p
    squares = None if model.squares is None else sum(model.squares.get(name, 0) for name in moving)
    return {
        "the process": PROCESS,
        "data and training": max(data, training),
        "the curvature": _curvature(p, squares, devices),
        "chains": chains,
        "draws": draws,
    }


def _stays_in_file(config, numbers):
    """Whether data of so many numbers, in single precision at least, are read by rows."""
    is_file = isinstance(config, FileData) and (config.path is None or config.path.endswith(".npy"))
    return is_file and 4 * numbers >= MAPPED_FROM


def _curvature(p, squares, devices):
    if p <= DENSE_LIMIT:
        return 8 * 10 * p**2
    if squares is None:
        return 8 * 4 * p * min(TOP, p // 4)
    if p > SUMMED_FROM:  # gradients of a sum on each device, and the sums of each of eight parts
        return 4 * p * (8 + 6 * devices) + (4 * 8 + 8 * 3) * squares
    return 4 * 4 * GROUP * p * devices + 8 * 3 * squares


def _words(config, parts, known):
    wanted = sum(parts.values()) / GIB
    if known is None and sizes.of(config.model) is None:
        return f"This job is predicted to take {wanted:.3g} GiB of memory and what the model needs, which only its source tells"
    most = max((name for name in parts if name != "the process"), key=parts.get)
    return f"This job is predicted to take {wanted:.3g} GiB of memory, {parts[most] / GIB:.3g} of them for {most}"


_ADVICE = {
    "data and training": "make data.n_data or the model smaller",
    "the curvature": "make the model smaller",
    "chains": "take fewer sampler.chains or a smaller model",
    "draws": "make fewer sampler.draws, or set sampler.save_params=false",
}


def _advice(parts):
    most = max(_ADVICE, key=lambda name: parts.get(name, 0))
    return f"{_ADVICE[most]}, raise runtime.memory_limit, or ask for more memory"


def available(limit):
    """Bytes that may be used, and who says so: as asked (in GiB), else the least of job, container and machine."""
    if limit is not None:
        return limit * GIB, "runtime.memory_limit is"
    found = [(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this machine has")]
    version1 = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")
    for path in (version1, *machine.control_group_files("memory.max")):
        try:
            found.append((int(path.read_text()), "this container has"))
        except (OSError, ValueError):  # none, or `max`
            continue
    per_node, per_cpu = (os.environ.get(f"SLURM_MEM_PER_{unit}", "") for unit in ("NODE", "CPU"))
    if per_node.isdigit() and int(per_node):
        found.append((int(per_node) * 2**20, "this SLURM job has"))
    elif per_cpu.isdigit() and int(per_cpu):
        cpus = os.environ.get("SLURM_CPUS_ON_NODE", "1")
        found.append((int(per_cpu) * 2**20 * (int(cpus) if cpus.isdigit() else 1), "this SLURM job has"))
    return min(found)
