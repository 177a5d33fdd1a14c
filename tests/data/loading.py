"""One of several processes that read batches together: `loading.py PORT COUNT INDEX DEVICES MESH FOLDER OUT`."""

import sys

import jax
import numpy as np

MESHES = ["data=2,fsdp=2,context=2", "context=8"]


def read(folder: str, mesh: str, start: int = 0, steps: int = 6) -> dict[str, np.ndarray]:
    """The arrays of some batches of four, and the ids of the rows that this process holds."""
    from wan_jax import sharding
    from wan_jax.data.loader import Dataset, batches

    found = {}
    with jax.set_mesh(sharding.as_mesh(mesh)):
        for step, batch in zip(range(steps), batches(Dataset(folder), batch=4, seed=3, start=start)):
            found[f"latents {step}"] = sharding.to_host(batch.latents)
            found[f"text {step}"] = sharding.to_host(batch.captions)
            found[f"ids {step}"] = np.array(batch.ids)
    return found


if __name__ == "__main__":
    port, processes, index, devices, mesh, folder, out = sys.argv[1:]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", int(devices))
    jax.distributed.initialize(f"localhost:{port}", int(processes), int(index))
    np.savez(f"{out}-{index}.npz", **read(folder, mesh))
