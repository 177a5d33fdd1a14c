"""Seconds and memory of encoding and decoding a clip: our autoencoder and Diffusers', on the accelerator at hand.

    python -m benchmarks.vae_speed --size 1280x720                    # bfloat16
    python -m benchmarks.vae_speed --size 832x480 --dtype float32     # with TF32 on both sides

Random weights of Wan-VAE 2.1, batch 1, warm, median of several repeats, from latents on the device to float32 pixels
there and back.  Ours goes chunk by chunk and hands each on; Diffusers returns the clip, eagerly and after
torch.compile of its encoder and decoder.  Each measurement has a process of its own: neither framework gives its memory
back.  Ours runs twice, since trying out algorithms while compiling takes memory that no second start needs; the second
is told.  Diffusers is left out where it is not installed.  Prints JSON.
"""

import json
import os
import tempfile
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.denoise_step import alone, median_seconds
from wan_jax.config import VAEConfig, get_config
from wan_jax.models import streaming, wan_vae

Shape = tuple[int, ...]
Direction = Literal["decode", "encode"]


def main(
    size: Annotated[str, tyro.conf.arg(metavar="WxH")] = "1280x720",
    frames: int = 81,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    chunk: Annotated[int, tyro.conf.arg(help="latent frames at a time")] = 1,
    sides: tuple[Literal["wan_jax", "eager", "compiled"], ...] = ("wan_jax", "eager", "compiled"),
    repeats: int = 3,
):
    config = get_config("wan21_t2v_14b").vae
    width, height = map(int, size.split("x"))
    shape = (1, frames, height, width, 3)
    result = {"video": shape, "dtype": dtype}
    for side in sides:
        for direction in ("decode", "encode"):
            if side == "wan_jax":
                told = _ours_warm(config, shape, direction, dtype, repeats, chunk)
            else:
                told = alone(_diffusers, config, shape, direction, dtype, repeats, side == "compiled")
            result.setdefault(side, {})[direction] = told
            print(json.dumps({side: {direction: told}}), flush=True)
    print(json.dumps(result))


def _ours_warm(*args) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        os.environ["WAN_JAX_CACHE"] = folder
        return [alone(_ours, *args) for _ in range(2)][-1]


def _ours(config: VAEConfig, shape: Shape, direction: Direction, dtype: str, repeats: int, chunk: int) -> dict:
    jax.config.update("jax_default_matmul_precision", "tensorfloat32")
    vae = wan_vae.WanVAE(config, jnp.dtype(dtype))
    leaves, tree = jax.tree.flatten(wan_vae.abstract_params(config))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    params = tree.unflatten(_random(key, leaf.shape).astype(dtype) for key, leaf in zip(keys, leaves))
    run = streaming.decode_chunks if direction == "decode" else streaming.encode_chunks
    source = _source(config, shape, direction)
    clip = jax.random.uniform(jax.random.key(1), source, minval=-1)
    frames = 0

    def once():
        nonlocal frames
        frames, before = 0, None
        with jax.set_mesh(jax.make_mesh((1,), ("data",))):
            for part in run(vae, params, clip, chunk):
                frames += part.shape[1]
                jax.block_until_ready(before)  # as who takes the parts: the device is one ahead, not all
                before = part
        jax.block_until_ready(part)

    seconds = median_seconds(once, repeats)
    assert frames == (shape[1] if direction == "decode" else _latent_frames(config, shape[1]))
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "seconds": seconds,
        "peak_gb": round(stats.get("peak_bytes_in_use", 0) / 1e9, 2),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


def _diffusers(config: VAEConfig, shape: Shape, direction: Direction, dtype: str, repeats: int, compiled: bool):
    try:
        import torch
        from diffusers import AutoencoderKLWan, __version__
    except ImportError:
        return None
    torch.backends.cuda.matmul.allow_tf32 = True  # as ours; convolutions have it by default
    with torch.device("cuda"):
        torch.set_default_dtype(getattr(torch, dtype))
        vae = AutoencoderKLWan(base_dim=config.base_dim, z_dim=config.z_dim).eval()
        source = _source(config, shape, direction)
        clip = torch.rand(1, source[-1], *source[1:-1]) * 2 - 1
    if compiled:
        vae.encoder, vae.decoder = (torch.compile(network) for network in (vae.encoder, vae.decoder))

    def once():
        with torch.no_grad():
            vae.decode(clip).sample if direction == "decode" else vae.encode(clip).latent_dist.mean
        torch.cuda.synchronize()

    once()
    torch.cuda.reset_peak_memory_stats()
    seconds = median_seconds(once, repeats)
    peak = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return {"seconds": seconds, "peak_gb": peak, "diffusers": __version__, "torch": torch.__version__}


def _source(config: VAEConfig, shape: Shape, direction: Direction) -> Shape:
    """The shape of what is put in, [b f h w c]."""
    b, frames, height, width, _ = shape
    if direction == "encode":
        return shape
    space = config.spatial_factor
    return (b, _latent_frames(config, frames), height // space, width // space, config.z_dim)


def _latent_frames(config: VAEConfig, frames: int) -> int:
    return (frames - 1) // config.temporal_factor + 1


def _random(key: jax.Array, shape: Shape) -> jax.Array:
    """Weights under which signals keep their size."""
    if len(shape) == 1:
        return jnp.ones(shape)
    return jax.random.normal(key, shape) / np.sqrt(np.prod(shape[:-1]))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
