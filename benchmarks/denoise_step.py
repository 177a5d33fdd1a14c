"""Seconds of one forward pass of a transformer: ours and Diffusers', on the accelerator at hand.

    python -m benchmarks.denoise_step --model wan22_t2v_a14b --size 832x480 --frames 81

Random weights, batch 1, bfloat16, warm, median of several repeats.  Diffusers runs eagerly with PyTorch's own choice
of attention and is left out where it is not installed.  Prints JSON.
"""

import json
import multiprocessing
import statistics
import time
from typing import Annotated

import jax
import jax.numpy as jnp
import tyro

from wan_jax.config import DiTConfig, get_config
from wan_jax.models import abstract_params
from wan_jax.models.dit import DiT


def main(
    model: str = "wan22_t2v_a14b",
    size: Annotated[str, tyro.conf.arg(metavar="WxH")] = "832x480",
    frames: int = 81,
    repeats: int = 5,
):
    config = get_config(model)
    width, height = map(int, size.split("x"))
    vae = config.vae
    shape = (1, (frames - 1) // vae.temporal_factor + 1, height // vae.spatial_factor, width // vae.spatial_factor)
    shape = (*shape, config.transformer.in_channels)
    result = {
        "model": model,
        "latents": shape,
    } | {side.__name__: alone(side, config.transformer, shape, repeats) for side in (wan_jax, diffusers)}
    print(json.dumps(result))


def alone(side, *args):
    """In a process of its own: neither framework gives its memory back."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(side, args)


def wan_jax(config: DiTConfig, shape: tuple[int, ...], repeats: int) -> dict:
    def make(key):
        leaves, tree = jax.tree.flatten(abstract_params(config, jnp.bfloat16))
        keys = jax.random.split(key, len(leaves))
        return tree.unflatten(0.02 * jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves))

    params = jax.jit(make)(jax.random.key(0))
    dit = DiT(config, jnp.bfloat16)
    latents = jax.random.normal(jax.random.key(1), shape)
    text = jax.random.normal(jax.random.key(2), (1, 512, config.text_dim))
    kv = jax.jit(lambda p, x: dit.apply({"params": p}, x, method="encode_text"))(params, text)
    timestep = jnp.full((1, 1), 900.0)
    started = time.monotonic()
    step = jax.jit(lambda *args: dit.apply({"params": args[0]}, *args[1:], method="velocity"))
    compiled = step.lower(params, latents, timestep, kv).compile()
    compile_s = time.monotonic() - started
    memory = compiled.memory_analysis()
    run = lambda: jax.block_until_ready(compiled(params, latents, timestep, kv))  # noqa: E731
    return {
        "seconds": median_seconds(run, repeats),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "compile_s": round(compile_s, 1),
        "argument_gib": round(memory.argument_size_in_bytes / 2**30, 2),
        "temp_gib": round(memory.temp_size_in_bytes / 2**30, 2),
    }


def diffusers(config: DiTConfig, shape: tuple[int, ...], repeats: int) -> dict | None:
    try:
        import torch
        from diffusers import WanTransformer3DModel, __version__
    except ImportError:
        return None
    options = {k: v for k, v in config.to_json().items() if k in WanTransformer3DModel.__init__.__annotations__}
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        model = WanTransformer3DModel(**options).eval()
        latents = torch.randn(1, shape[-1], *shape[1:-1])
        text, timestep = torch.randn(1, 512, config.text_dim), torch.tensor([900])

    def run():
        with torch.no_grad():
            model(latents, timestep, text, return_dict=False)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return {"seconds": median_seconds(run, repeats), "diffusers": __version__, "torch": torch.__version__}


def median_seconds(run, repeats: int) -> float:
    run()
    seconds = []
    for _ in range(repeats):
        started = time.monotonic()
        run()
        seconds.append(time.monotonic() - started)
    return round(statistics.median(seconds), 4)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
