"""Where JAX computes, and all of its settings that numbers depend on: settled by us, whatever the surroundings say."""

import os
import warnings
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before JAX is loaded

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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

GPU_BYTES = 2**34
"""A GPU's memory where JAX does not tell."""

_IS_LENT = ContextVar("is_lent", default=False)
"""Whether JAX is a caller's, who has it back as it was."""


def start(runtime):
    """Settle, for this process, the platform, the CPU devices, the compilation cache, and SETTINGS; within `settings`, nothing.

    Arguments:
        runtime: a `config.Runtime`. A second call in one process keeps the devices that the first has made.

    Raises:
        UserError: where there is no such device, with the setting or the variable that asks for it.
    """
    if _IS_LENT.get():
        return
    for name, value in SETTINGS.items():
        jax.config.update(f"jax_{name}", value)
    jax.config.update("jax_random_seed_offset", 0)
    # else memory that runs out in a program on its way shows where its result is read, and XLA aborts the process there
    jax.config.update("jax_cpu_enable_async_dispatch", False)
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
        directory = os.path.abspath(runtime.compilation_cache)
        if (
            jax.config.values["jax_compilation_cache_dir"] != directory
        ):  # what was compiled before has settled that there is none
            compilation_cache.reset_cache()
        jax.config.update("jax_compilation_cache_dir", directory)
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
    """SETTINGS within this block and thread alone; the caller's are as they were afterwards, as are devices and caches."""
    with ExitStack() as stack:
        for name, value in SETTINGS.items():
            stack.enter_context(getattr(jax, name)(value))
        stack.callback(_IS_LENT.reset, _IS_LENT.set(True))
        yield


def key(seed):
    """The JAX key of a seed, the same in all surroundings."""
    return jax.random.key(seed, impl=PRNG)


# --- the layout of a run ----------------------------------------------------------------------------------------------

AXIS = "devices"

ALL_AT_ONCE = 1e6
"""Operations of a gradient up to which a CPU takes all chains at once, on one device: its time goes to starting operations, which
chains share, and other devices would only wait for one another. Measured on one core, CPU time of a gradient:
4.9 µs all at once and 7.2 one by one at 1e5 operations, 266 and 193 µs at 5e6."""

PARTS = 8
"""Sums over parts of large data, whatever the number of devices that make them."""

WHOLE = 1e8
"""Operations of a gradient up to which data are summed in one piece: devices that share one wait for one another each time.
Measured with two devices on two cores: 1.2 times as fast at 1.2e9 operations, 0.26 times at 5e6."""


@dataclass(frozen=True)
class Layout:
    """Where the work of a run is done. Every program takes its devices from here, and puts its arguments there itself.

    A program is spread along one axis: chains, parts of the data, blocks of vectors. The devices that divide it evenly each take
    their share one after the other, the same shapes in the same order on any number of devices, so that results are equal bit
    for bit; sums go over the whole axis on each device.

    Attributes:
        devices: those that may be used.
        one_by_one: whether a device takes its share one after the other; else all at once.
    """

    devices: tuple[jax.Device, ...]  # pyright: ignore[reportInvalidTypeForm]  jaxlib, which has the class, has no stubs
    one_by_one: bool

    def program(self, function, length, split, joined):
        """`function`, compiled, on as many devices as divide an axis evenly.

        Arguments:
            length: of the axis.
            split: for each argument, whether its leading axis is the one that is spread (else every device gets it all).
            joined: for each result, whether the devices' parts are concatenated along the leading axis (else they are equal).
        """
        mesh = self._mesh(length)

        def spec(spread):
            return PartitionSpec(AXIS) if spread else PartitionSpec()

        compiled = jax.jit(
            jax.shard_map(
                function,
                mesh=mesh,
                in_specs=tuple(spec(spread) for spread in split),
                out_specs=jax.tree.map(spec, joined),
                check_vma=False,
            )
        )
        return lambda *arguments: compiled(
            *(self.place(argument, length, spread) for argument, spread in zip(arguments, split, strict=True))
        )

    def place(self, tree, length, spread):
        """The arrays of a tree where a program along an axis of this length wants them."""
        sharding = NamedSharding(self._mesh(length), PartitionSpec(AXIS) if spread else PartitionSpec())
        return jax.device_put(tree, sharding)

    def over(self, function):
        """`function` of one (chain, block, …)'s leaves as a function of a device's share of them."""
        if self.one_by_one:
            return lambda *leaves: one_by_one(lambda one: function(*one), leaves)
        return jax.vmap(function)

    def used(self, length):
        """The devices that an axis of this length is spread over."""
        return self.devices[: max(k for k in range(1, len(self.devices) + 1) if length % k == 0)]

    def _mesh(self, length):
        return Mesh(np.array(self.used(length)), (AXIS,))


def layout(operations):
    """The `Layout` of work whose gradient, of one chain over the full data, takes this many operations.

    A GPU wants all chains at once, each GPU its share. CPU devices are as many as cores (or as were asked for): more would take
    turns.
    """
    chosen = _chosen()
    if not on_cpu():
        return Layout(tuple(chosen), False)
    if operations <= ALL_AT_ONCE:
        return Layout(tuple(chosen[:1]), False)
    asked = jax.config.values["jax_num_cpu_devices"]
    return Layout(tuple(chosen[: asked if asked > 0 else machine.cores()]), True)


def named(used):
    """Devices as a record names them: `2 × cpu`."""
    return f"{len(used)} × {used[0].device_kind}"


def on_cpu():
    """Whether the work is done on a CPU."""
    return _chosen()[0].platform == "cpu"


def to_host(array):
    """A NumPy array of a JAX array, waited for: where memory ran out on the way to it, XLA aborts a process that reads it."""
    return np.asarray(jax.block_until_ready(array))


def memory(unknown):
    """Bytes that JAX may take of the device's memory; `unknown` where it does not tell."""
    return (_chosen()[0].memory_stats() or {}).get("bytes_limit", unknown)


def _chosen():
    """The devices here, or the one that a caller of `lambda_hat.estimate` has chosen."""
    chosen = jax.config.values["jax_default_device"]
    return [chosen] if isinstance(chosen, jax.Device) else jax.local_devices()


def parts(operations):
    """Into how many parts data are cut whose sums are made apart, where a gradient takes this many operations."""
    return PARTS if on_cpu() and operations > WHOLE else 1


def gather(tree):
    """Within a program: the shares of all devices, in order, along the leading axis."""
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, AXIS, tiled=True), tree)


def total(function, shares):
    """Within a program: the sum of a function over the axis that is spread, in an order that devices have no part in.

    Arguments:
        shares: a tree whose leaves' leading axis is this device's share of the axis.
    """
    return jax.tree.map(lambda leaf: jnp.sum(leaf, 0), gather(one_by_one(function, shares)))


def one_by_one(function, shares):
    """`jax.lax.map`, in a loop that the compiler does not know the length of: of one turn it would make other, fused, code. For the
    same reason it may not fuse what is taken from the arrays, or put there, with the function."""
    length = jax.tree.leaves(shares)[0].shape[0]
    if length == 1:  # an array of two rows is not simplified away either; the second is never looked at
        shares = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), shares)
    turns = jnp.minimum(length, length + jax.lax.axis_index(AXIS))  # which is `length`
    item = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), shares)
    blank = jax.tree.map(
        lambda leaf: jnp.zeros((max(2, length), *leaf.shape), leaf.dtype), jax.eval_shape(function, item)
    )

    def turn(i, made):
        item = jax.lax.optimization_barrier(jax.tree.map(lambda leaf: leaf[i], shares))
        new = jax.lax.optimization_barrier(function(item))
        return jax.tree.map(lambda all_, one: all_.at[i].set(one), made, new)

    made = jax.lax.fori_loop(0, turns, turn, blank)
    return jax.tree.map(lambda leaf: leaf[:length], made)
