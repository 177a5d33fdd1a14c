"""One of several processes that generate a video together: `in_processes.py PORT COUNT INDEX DEVICES MESH OUT`."""

import sys

import jax
import numpy as np

port, count, index, devices, mesh, out = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(devices))
jax.distributed.initialize(f"localhost:{port}", int(count), int(index))

from tests.pipelines.test_mesh import PROMPTS, SMALL  # noqa: E402
from wan_jax import WanPipeline  # noqa: E402

pipe = WanPipeline.from_pretrained("untrained", dtype="float32", mesh=mesh)
pipe.set_progress_bar_config(disable=True)
latents = pipe(PROMPTS[:1], output_type="latent", **SMALL).frames
with jax.set_mesh(pipe.mesh):
    frames = np.asarray(pipe.decode(np.moveaxis(latents, 1, -1)))
if index == "0":
    np.savez(out, latents=latents, frames=frames)
