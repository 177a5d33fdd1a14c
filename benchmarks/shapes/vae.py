"""Trains a small Wan-VAE 2.1 on a dataset of frames and writes the model folder that the experts start from.

    python -m benchmarks.shapes.vae --data frames --out runs/models/shapes_start --steps 3000

A quick one: L1, squared error and a trace of KL, no perceptual or adversarial loss.  L1 alone is content with the bare
background for long, since the shapes cover so little of it.  All clips stay on the device, and many steps are
one program.  Beside the folder goes a picture: clips and, below them, their reconstructions.
"""

import argparse
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from benchmarks.shapes.model import write_start
from wan_jax.cache import enable_compilation_cache
from wan_jax.config import VAEConfig
from wan_jax.data.loader import Dataset
from wan_jax.errors import WanError
from wan_jax.metrics import psnr
from wan_jax.models.wan_vae import WanVAE
from wan_jax.typing import Float, Params, UInt8

_SQUARED = 3.0  # weight of the squared error
_KL = 1e-5  # weight of the posterior's distance from a standard normal, per number; the L1 is per number, too
_LEAST_STD = 0.05  # of the largest: a channel that says next to nothing is not blown up to unit variance
_CALL = 50  # steps in a program's run


def read_clips(data: str, part: str) -> UInt8["n f h w 3"]:
    """All clips of "train" or "validation", which must be of one size."""
    dataset = Dataset(data)
    splits = dataset.splits(part)
    if dataset.config["contents"] != "frames" or len(splits) != 1:
        raise WanError(f"--data {data} must be a dataset of frames of one size, with --validation clips")
    (name,) = splits
    source = dataset.source(name)
    return np.stack([source[i]["frames"] for i in range(len(source))])


def to_network(clips: UInt8["b f h w 3"]) -> Float["b f h w 3"]:
    return clips.astype(jnp.float32) / 127.5 - 1


def loss(params: Params, clips: UInt8["b f h w 3"], key: jax.Array, vae: WanVAE) -> Float[""]:
    """L1 and squared error of the reconstruction from a sample of the posterior, and KL."""
    video = to_network(clips)
    (mean, log_variance), _ = vae.apply({"params": params}, video, method="moments")
    log_variance = jnp.clip(log_variance, -20, 10)
    sample = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
    again, _ = vae.apply({"params": params}, sample, method="decode")
    kl = (mean**2 + jnp.exp(log_variance) - 1 - log_variance).mean() / 2
    error = jnp.abs(again - video)
    return error.mean() + _SQUARED * jnp.square(error).mean() + _KL * kl


@partial(jax.jit, static_argnames=("vae", "optimizer", "batch", "steps"), donate_argnums=(0, 1))
def train(params, opt_state, clips, key, *, vae: WanVAE, optimizer, batch: int, steps: int):
    """`steps` steps on random clips; returns the new state and the mean loss."""

    def step(state, key):
        params, opt_state = state
        which, noise = jax.random.split(key)
        chosen = clips[jax.random.randint(which, (batch,), 0, len(clips))]
        value, gradient = jax.value_and_grad(loss)(params, chosen, noise, vae)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    (params, opt_state), losses = jax.lax.scan(step, (params, opt_state), jax.random.split(key, steps))
    return params, opt_state, losses.mean()


def fit(clips: UInt8["n f h w 3"], vae: WanVAE, steps: int, batch: int, rate: float, seed: int) -> Params:
    """Trains from random weights and tells how it goes."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, min(100, steps // 10), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99))
    params = jax.jit(vae.init)(jax.random.key(seed), to_network(clips[:1, :1]))["params"]
    opt_state, clips = jax.jit(optimizer.init)(params), jnp.asarray(clips)
    started = time.monotonic()
    for done in range(0, steps, _CALL):
        key = jax.random.fold_in(jax.random.key(seed + 1), done)
        count = min(_CALL, steps - done)
        options = {"vae": vae, "optimizer": optimizer, "batch": batch, "steps": count}
        params, opt_state, mean = train(params, opt_state, clips, key, **options)
        print(f"step {done + count}: loss {float(mean):.4f}, {time.monotonic() - started:.1f} s", flush=True)
    return params


def with_statistics(config: VAEConfig, params: Params, clips: UInt8["n f h w 3"], batch: int) -> VAEConfig:
    """The config under which latents have about zero mean and unit variance in every channel."""
    encode = jax.jit(lambda clips: WanVAE(config).apply({"params": params}, to_network(clips), method="encode")[0])
    latents = np.concatenate([np.asarray(encode(clips[i : i + batch])) for i in range(0, len(clips), batch)])
    latents = latents.reshape(-1, latents.shape[-1])
    std = np.maximum(latents.std(axis=0), _LEAST_STD * latents.std(axis=0).max())
    return replace(config, latents_mean=_numbers(latents.mean(axis=0)), latents_std=_numbers(std))


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)


def reconstruct(vae: WanVAE, params: Params, clips: UInt8["n f h w 3"], batch: int) -> UInt8["n f h w 3"]:
    again = jax.jit(lambda clips: vae.apply({"params": params}, to_network(clips)))
    parts = [np.asarray(again(clips[i : i + batch])) for i in range(0, len(clips), batch)]
    return np.round((np.concatenate(parts) + 1) * 127.5).astype(np.uint8)


def strip(clips: UInt8["n f h w 3"], again: UInt8["n f h w 3"], count: int = 4) -> Image.Image:
    """Every fourth frame of some clips, each above its reconstruction."""
    rows = [np.concatenate(list(clip[::4]), axis=1) for pair in zip(clips[:count], again[:count]) for clip in pair]
    return Image.fromarray(np.concatenate(rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR", help="made by: data build, without --model")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model folder")
    parser.add_argument("--steps", type=int, default=3000, metavar="N")
    parser.add_argument("--batch", type=int, default=32, metavar="N")
    parser.add_argument("--rate", type=float, default=6e-4, metavar="R", help="peak learning rate")
    parser.add_argument("--base-dim", type=int, default=16, metavar="N", help="channels at full resolution")
    parser.add_argument("--dtype", default="bfloat16", metavar="NAME", help="of the products while training")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    args = parser.parse_args()
    enable_compilation_cache()
    clips, held_out = (read_clips(args.data, part) for part in ("train", "validation"))
    config = VAEConfig(base_dim=args.base_dim, num_res_blocks=1, latents_mean=(0.0,) * 16, latents_std=(1.0,) * 16)
    params = fit(clips, WanVAE(config, jnp.dtype(args.dtype)), args.steps, args.batch, args.rate, args.seed)
    config = with_statistics(config, params, clips[:512], args.batch)
    again = reconstruct(WanVAE(config), params, held_out, args.batch)
    write_start(args.out, config, params, args.seed)
    strip(held_out, again).save(args.out.with_suffix(".png"))
    quality = np.mean([psnr(*(clip / np.float32(255) for clip in pair)) for pair in zip(held_out, again)])
    print(f"{args.out}: PSNR {quality:.2f} dB on {len(held_out)} validation clips; latents' std {config.latents_std}")


if __name__ == "__main__":
    try:
        main()
    except WanError as error:
        sys.exit(f"error: {error}")
