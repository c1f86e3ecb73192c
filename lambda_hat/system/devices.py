"""Where JAX computes, and all of its settings that numbers depend on: settled by us, whatever the surroundings say."""

import os
import warnings
from contextlib import ExitStack, contextmanager, suppress

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before JAX is loaded

import jax

from lambda_hat.system import machine
from lambda_hat.system.errors import UserError

PRNG = "threefry2x32"
"""How random numbers are made of a key: on all devices alike."""

SETTINGS = {
    "enable_x64": True,
    "default_prng_impl": PRNG,
    "threefry_partitionable": True,
    "default_matmul_precision": "highest",  # else a GPU multiplies float32 with 10 bits of mantissa
    "numpy_dtype_promotion": "standard",
    "numpy_rank_promotion": "allow",
    "debug_nans": False,  # what is not finite is looked for, and told of in our words
    "debug_infs": False,
    "disable_jit": False,
}
"""Of JAX, by the names of its context managers: each changes numbers, or stops a program that is right."""


def start(runtime):
    """Settle, for this process, the platform, the CPU devices, the compilation cache, and SETTINGS.

    Arguments:
        runtime: a `config.Runtime`. A second call in one process keeps the devices that the first has made.

    Raises:
        UserError: where there is no such device, with the setting or the variable that asks for it.
    """
    for name, value in SETTINGS.items():
        jax.config.update(f"jax_{name}", value)
    jax.config.update("jax_random_seed_offset", 0)
    if runtime.devices or "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with suppress(RuntimeError):  # made already
            jax.config.update("jax_num_cpu_devices", runtime.devices or machine.cores())
    if runtime.platform != "auto":
        jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda"}[runtime.platform])
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where jaxlib has no CUDA at all
        raise UserError(_no_device(runtime.platform)) from error
    if runtime.compilation_cache:  # all programs: many small ones take seconds together
        # an entry that another process is writing, or died over, is compiled anew
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
        jax.config.update("jax_compilation_cache_dir", os.path.abspath(runtime.compilation_cache))
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # whose path would be part of every key
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _no_device(platform):
    if platform == "gpu":
        return (
            "runtime.platform=gpu: JAX finds no GPU here; use runtime.platform=auto, install jax with CUDA, or, in a job of a "
            "cluster, ask for one with resources.run.gpus=1."
        )
    return (
        f"the environment variable JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')} asks for devices that JAX does not find "
        "here; unset it, or set runtime.platform=cpu."
    )


@contextmanager
def settings():
    """SETTINGS within this block and thread alone; the caller's are as they were afterwards."""
    with ExitStack() as stack:
        for name, value in SETTINGS.items():
            stack.enter_context(getattr(jax, name)(value))
        yield


def key(seed):
    """The JAX key of a seed, the same in all surroundings."""
    return jax.random.key(seed, impl=PRNG)
