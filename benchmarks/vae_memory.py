"""Peak resident memory of decoding 81 and 321 frames chunk by chunk, on CPU (Linux).

    python -m benchmarks.vae_memory

The peak is counted from the third chunk on, once both steps are compiled: compiling needs more than decoding does here.
`kept` is the same with all frames held in memory, to show that the measurement would see them.  Prints JSON.
"""

import json
import multiprocessing
import os
import pathlib

import jax
import numpy as np

from wan_jax.config import get_config
from wan_jax.models.streaming import decode_chunks
from wan_jax.models.wan_vae import WanVAE
from wan_jax.placeholder import NAME, random_params

SIDE = 16  # latents: frames of 128×128


def main():
    measured = {
        "81 frames": peak_mib(81, keep=False),
        "321 frames": peak_mib(321, keep=False),
        "321 frames, kept": peak_mib(321, keep=True),
    }
    print(json.dumps({"jax": jax.__version__, "peak_mib": measured}))


def peak_mib(frames: int, keep: bool) -> float:
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # or glibc keeps freed buffers for some time, more or fewer of them
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_decode, (frames, keep))


def _decode(frames: int, keep: bool) -> float:
    config = get_config(NAME)
    vae, params = WanVAE(config.vae), random_params(config)["vae"]
    latents = np.zeros((1, (frames - 1) // 4 + 1, SIDE, SIDE, config.vae.z_dim), np.float32)
    kept, seen = [], 0
    for number, chunk in enumerate(decode_chunks(vae, params, latents)):
        pixels = np.asarray(chunk)  # as a consumer does: it also waits for the step
        seen += pixels.shape[1]
        if keep:
            kept.append(pixels)
        if number == 2:
            pathlib.Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    assert seen == frames
    status = pathlib.Path("/proc/self/status").read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(peak) / 1024, 1)


if __name__ == "__main__":
    main()
