"""Chains across devices and processes.

Chains need no communication: the mesh's first axis shards them, and everything else is
replicated. Step keys fold in the chain's number, so the draws of a chain do not depend on the
device it runs on, up to the rounding of another compilation.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree


def chains_mesh(devices: Any = None) -> Mesh:
    """Mesh with one axis, ``chains``, over the given devices (all of them by default)."""
    devices = jax.devices() if devices is None else list(devices)
    return jax.make_mesh((len(devices),), ("chains",), (AxisType.Auto,), devices=devices)


def placer(mesh: Mesh | None, num_chains: int) -> Callable[[PyTree], PyTree]:
    """Return a function that lays the leading (chain) axis of a pytree over the mesh.

    Raises
    ------
    ValueError
        If the chains cannot be divided over the devices.
    """
    if mesh is None:
        return lambda tree: tree
    axis = mesh.axis_names[0]
    size = mesh.shape[axis]
    if num_chains % size:
        raise ValueError(
            f"{num_chains} chains cannot be divided over {size} devices; pass num_chains="
            f"{-(-num_chains // size) * size}, or a smaller mesh"
        )
    sharding = NamedSharding(mesh, PartitionSpec(axis))
    return lambda tree: jax.tree.map(lambda x: jax.device_put(x, sharding), tree)


def to_host(x: Any) -> np.ndarray:
    """Array on this host, gathered when it is spread over several processes."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def start_processes(
    coordinator: str, num_processes: int, process_id: int, timeout: int = 60
) -> None:
    """Join ``num_processes`` JAX processes; call it before anything touches a device."""
    jax.distributed.initialize(
        coordinator,
        num_processes=num_processes,
        process_id=process_id,
        initialization_timeout=timeout,
    )
