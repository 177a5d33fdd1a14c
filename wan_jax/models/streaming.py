"""A clip through a video autoencoder chunk by chunk, in memory that does not grow with the clip.

The autoencoder may be any module with `encode`, `decode` and a `config` such as `wan_jax.models.wan_vae.WanVAE` has.
The first latent frame, which stands for a single pixel frame, goes through a step of its own; all later ones share a
second step, so two programs are compiled, and a third for a shorter last chunk.

On a mesh (`with jax.set_mesh(mesh)`) the autoencoder works on all devices, and each keeps its part of the cache.  What
it yields is whole on every device, so that every process can fetch it with `np.asarray`.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from wan_jax import executables, sharding
from wan_jax.errors import WanError
from wan_jax.typing import Float, Params, typechecked

Video = jax.Array | np.ndarray  # [b f h w c]

# Pixels of a chunk, times its latent frames, for each device.  An H100 is as fast with one latent frame of 480p as with
# two; an eighth of a 720p frame is modelled 6 % faster on a v6e chip in chunks of two.
_GPU_PIXELS, _TPU_PIXELS = 480 * 832, 2 * 720 * 1280 // 8


def best_chunk(frames: int, height: int, width: int) -> int:
    """Latent frames to encode or decode at a time on the ambient mesh: more would take memory and save no time.

    Args:
        frames: latent frames in all.  The first is a chunk by itself, and the others divide into equal ones, so that
            no shorter chunk needs a program of its own.
        height: of the pixels.
        width: likewise.
    """
    useful = _TPU_PIXELS if sharding.is_tpu() else _GPU_PIXELS if sharding.is_nvidia() else 0
    mesh = sharding.ambient_mesh()
    most = useful * (1 if mesh is None else mesh.size) // (height * width)
    return max(n for n in range(1, max(min(most, frames - 1), 1) + 1) if n == 1 or (frames - 1) % n == 0)


def encode_chunks(
    vae: nn.Module,
    params: Params,
    video: Video | Iterable[Video],
    frames_per_chunk: int = 1,
    offload: bool = False,
) -> Iterator[jax.Array]:
    """Yields normalised latents [b f h w z]: first one frame, then `frames_per_chunk` at a time.

    Args:
        vae: the autoencoder.
        params: its parameters.
        video: pixels in [-1, 1], [b f h w 3], as one array or as successive pieces of any length; 1 + 4n frames in all.
        frames_per_chunk: latent frames in a chunk, each of which stands for `vae.config.temporal_factor` pixel frames.
        offload: keep the cache in host memory between chunks, for one of several streams.

    Raises:
        WanError: there is no frame, or the frames do not divide into latents.
    """
    return _stream(vae, params, "encode", _rechunk(video, frames_per_chunk * vae.config.temporal_factor), offload)


def decode_chunks(
    vae: nn.Module,
    params: Params,
    latents: Video | Iterable[Video],
    frames_per_chunk: int = 1,
    offload: bool = False,
) -> Iterator[jax.Array]:
    """Yields pixels in [-1, 1], [b f h w 3]: first one frame, then those of `frames_per_chunk` latents at a time.

    Args:
        vae: the autoencoder.
        params: its parameters.
        latents: normalised latents [b f h w z], as one array or as pieces of any length in their order.
        frames_per_chunk: latent frames in a chunk.
        offload: as for `encode_chunks`.

    Raises:
        WanError: there is no latent frame.
    """
    return _stream(vae, params, "decode", _rechunk(latents, frames_per_chunk), offload)


@typechecked
def encode(vae: nn.Module, params: Params, video: Float["b f h w 3"], frames_per_chunk: int = 1) -> Float["b g i j z"]:
    """All of `encode_chunks` as one array."""
    return jnp.concatenate(list(encode_chunks(vae, params, video, frames_per_chunk)), axis=1)


def encode_pieces(
    vae: nn.Module, params: Params, pieces: Iterable[Video], frames: int, height: int, width: int
) -> Float["b g i j z"]:
    """All of `encode_chunks` as one array, for a clip of so many frames of this size in pieces of any length."""
    chunk = best_chunk(1 + (frames - 1) // vae.config.temporal_factor, height, width)
    return jnp.concatenate(list(encode_chunks(vae, params, pieces, chunk)), axis=1)


@typechecked
def decode(
    vae: nn.Module, params: Params, latents: Float["b f h w z"], frames_per_chunk: int = 1
) -> Float["b g i j 3"]:
    """All of `decode_chunks` as one array in host memory; the device holds one chunk at a time."""
    return np.concatenate(
        [np.asarray(chunk) for chunk in decode_chunks(vae, params, latents, frames_per_chunk)], axis=1
    )


@partial(jax.jit, static_argnames=("vae", "method"), donate_argnames="cache")
def vae_step(vae, params, chunk, cache, method):
    out, cache = vae.apply({"params": params}, chunk, cache, method=method)
    return sharding.constrain(out), cache


def _stream(vae, params, method, chunks: Iterator[Video], offload: bool) -> Iterator[jax.Array]:
    static, cache = {"vae": vae, "method": method}, None
    for chunk in chunks:
        out, cache = executables.call(vae_step, static, params=params, chunk=chunk, cache=cache)
        if offload:
            cache = jax.device_get(cache)
        yield out
        del out  # or it would live on beside the next one
    if cache is None:
        raise WanError(f"there is no frame to {method}")


def _rechunk(video: Video | Iterable[Video], length: int) -> Iterator[Video]:
    """Cuts the frames (axis 1) of a video or its pieces anew: one frame, then `length` at a time, then the rest."""
    pieces = [video] if isinstance(video, Video) else video
    missing, held = 1, []
    for piece in pieces:
        at = 0  # only what is due is cut out: the rest of a clip on the device would be copied every time
        while at < piece.shape[1]:
            held.append(piece[:, at : at + missing])
            at += held[-1].shape[1]
            missing -= held[-1].shape[1]
            if not missing:
                yield _join(held)
                missing, held = length, []
    if held:
        yield _join(held)


def _join(parts: list[Video]) -> Video:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
