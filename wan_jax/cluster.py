"""The processes of a pod slice as one machine."""

import os
from pathlib import Path

import jax
from jax.experimental import multihost_utils

_TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")


def join_cluster():
    """Calls `jax.distributed.initialize()` where JAX can find out the rest: on TPU hosts, Slurm and Open MPI.

    JAX asks the machine's metadata server, which a laptop does not have; so it is asked only where something speaks
    for a cluster.  Colab's single TPU has no such server either.
    """
    tasks = max(int(os.environ.get(name, 1)) for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    if (tasks > 1 or is_tpu_host()) and "COLAB_RELEASE_TAG" not in os.environ:
        jax.distributed.initialize()


def is_tpu_host() -> bool:
    """Whether TPUs are devices of this machine; older ones are accelerators to Linux, newer ones are passed through."""
    return any(Path(device).exists() for device in _TPU_DEVICES)


def is_leader() -> bool:
    """Whether this process writes what all of them know."""
    return jax.process_index() == 0


def wait_for_all(what: str):
    """Returns when every process is there."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"wan_jax: {what}")
