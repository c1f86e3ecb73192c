"""Settles, once and before JAX is imported, where and in which precision JAX computes."""

import os
import sys
import warnings

from lambda_hat.system.errors import UserError


def start(runtime):
    """Import JAX with the platform, the CPU devices and the compilation cache of the configuration; float64 is always on.

    Arguments:
        runtime: a `config.Runtime`. A second call in one process keeps what the first has settled.
    """
    if "jax" not in sys.modules:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        flag = f"--xla_force_host_platform_device_count={runtime.devices or cores}"
        if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    jax.config.update("jax_enable_x64", True)
    if runtime.platform != "auto":
        jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda"}[runtime.platform])
        try:
            jax.devices()
        except (RuntimeError, AssertionError) as error:  # the latter where jaxlib has no CUDA at all
            raise UserError(
                f"runtime.platform={runtime.platform}: JAX finds no such device here; use runtime.platform=auto, or install "
                "jax with CUDA."
            ) from error
    if runtime.compilation_cache:  # all programs: many small ones take seconds together
        # an entry that another process is writing, or died over, is compiled anew
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
        jax.config.update("jax_compilation_cache_dir", os.path.abspath(runtime.compilation_cache))
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # whose path would be part of every key
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
