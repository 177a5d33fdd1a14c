"""A video file through the autoencoder and back, in constant memory, with what it cost in quality."""

import itertools
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from wan_jax import sharding
from wan_jax.cache import enable_compilation_cache
from wan_jax.errors import WanError
from wan_jax.metrics import psnr, ssim
from wan_jax.models.streaming import decode_chunks, encode_chunks
from wan_jax.models.vae21 import VAE21
from wan_jax.pipelines.loading import load_vae
from wan_jax.precision import default_vae_dtype, parse_dtype
from wan_jax.typing import Float, UInt8
from wan_jax.video_io import check_output, export_to_video, read_video


def reconstruct_file(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    model: str,
    dtype: Any = None,
    max_frames: int | None = None,
    mesh: Mesh | str | None = None,
) -> dict[str, Any]:
    """Encodes and decodes `src` into `dst`, which has the same frames, size and rate.

    Args:
        src: any video file.
        dst: see `export_to_video`.
        model: whose autoencoder; see `WanPipeline.from_pretrained`.
        dtype: of the autoencoder; None is float32, and bfloat16 on TPU.
        max_frames: stop after so many.
        mesh: the devices to share the work; see `WanPipeline.from_pretrained`.

    Returns:
        a dict of `out`, `frames`, `psnr` (dB) and `ssim`, both averaged over frames, and `fps`, frames per second.

    Raises:
        WanError: a file cannot be read or written, or there is no such model.
    """
    if max_frames is not None and max_frames < 1:
        raise WanError(f"frames={max_frames} must be at least 1")
    check_output(dst)
    enable_compilation_cache()
    video = read_video(src)
    dtype = parse_dtype(dtype or default_vae_dtype())
    mesh = sharding.as_mesh(mesh)
    config, params = load_vae(model, dtype, mesh)
    vae = VAE21(config.vae, dtype)

    pixels = _pieces(itertools.islice(video, max_frames), config.vae.temporal_factor, config.vae.spatial_factor)
    decoded = decode_chunks(vae, params, encode_chunks(vae, params, pixels))
    original = itertools.islice(video, max_frames)
    psnrs, ssims = [], []

    def measured() -> Iterator[Float["h w c"]]:
        # `zip` stops with the original, which drops the frames that were added to fill the last latent.
        for before, after in zip(tqdm(original, unit="frame", total=max_frames), _frames(decoded)):
            after = after[: video.height, : video.width]
            psnrs.append(float(psnr(before[None] / np.float32(255), after[None])))
            ssims.append(float(ssim(before[None] / np.float32(255), after[None])))
            yield after

    started = time.monotonic()
    with jax.set_mesh(mesh):
        export_to_video(measured(), dst, video.fps, {"model": model, "source": os.path.basename(src)})
    return {
        "out": str(dst),
        "frames": len(psnrs),
        "psnr": float(np.mean(psnrs)),
        "ssim": float(np.mean(ssims)),
        "fps": len(psnrs) / (time.monotonic() - started),
    }


def _pieces(frames: Iterable[UInt8["h w c"]], temporal: int, spatial: int) -> Iterator[np.ndarray]:
    """Frames as [1 1 h w 3] in [-1, 1]; edges are repeated up to whole latents, in space and at the end in time."""
    count, piece = 0, None
    for count, frame in enumerate(frames, 1):  # noqa: B007
        h, w, _ = frame.shape
        padded = np.pad(frame, ((0, -h % spatial), (0, -w % spatial), (0, 0)), mode="edge")
        piece = (padded / np.float32(127.5) - 1)[None, None]
        yield piece
    for _ in range((1 - count) % temporal):
        yield piece


def _frames(chunks: Iterable[jax.Array]) -> Iterator[np.ndarray]:
    """Chunks of [1 f h w 3] in [-1, 1] as single frames [h w 3] in [0, 1]."""
    for chunk in chunks:
        yield from np.clip(sharding.to_host(chunk)[0] / 2 + 0.5, 0, 1)
