"""A clip through a video autoencoder chunk by chunk, in memory that does not grow with the clip.

The autoencoder may be any module with `encode`, `decode` and a `config` such as `wan_jax.models.vae21.VAE21` has.  The
first latent frame, which stands for a single pixel frame, goes through a step of its own; all later ones share a second
step, so two programs are compiled, and a third for a shorter last chunk.

On a mesh (`with jax.set_mesh(mesh)`) the autoencoder works on all devices, and each keeps its part of the cache.  What
it yields is whole on every device, so that every process can fetch it with `np.asarray`.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from wan_jax import executables
from wan_jax.errors import WanError
from wan_jax.sharding import constrain
from wan_jax.typing import Float, Params, typechecked

Video = jax.Array | np.ndarray  # [b f h w c]


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
    return constrain(out), cache


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
    wanted, held = 1, []
    for piece in pieces:
        while piece.shape[1]:
            missing = wanted - sum(part.shape[1] for part in held)
            held.append(piece[:, :missing])
            piece = piece[:, missing:]
            if held[-1].shape[1] == missing:
                yield _join(held)
                wanted, held = length, []
    if held:
        yield _join(held)


def _join(parts: list[Video]) -> Video:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
