"""Spreading work over the CPU devices that lambda_hat.system.backend set up; on one device everything is a plain call."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"


def mesh(parts):
    """A mesh of the most devices that divide `parts` evenly."""
    devices = jax.local_devices()
    count = max(k for k in range(1, len(devices) + 1) if parts % k == 0)
    return Mesh(np.array(devices[:count]), (AXIS,))


def shard(function, mesh, split, joined):
    """`function` run on every device of the mesh.

    Arguments:
        split: for each argument, whether its leading axis is spread over the devices (else every device gets it all).
        joined: for each result, whether the devices' parts are concatenated along the leading axis (else they are equal).
    """

    def spec(spread):
        return PartitionSpec(AXIS) if spread else PartitionSpec()

    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(spec(s) for s in split),
        out_specs=jax.tree.map(spec, joined),
        check_vma=False,
    )


def place(tree, mesh, spread):
    """The arrays of a tree where `shard` wants them; one that lies elsewhere would have its program compiled anew."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(AXIS) if spread else PartitionSpec()))
