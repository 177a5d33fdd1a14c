"""A video file through the autoencoder and back, in constant memory, with what it cost in quality."""

import itertools
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from wan_jax import metrics
from wan_jax.errors import WanError
from wan_jax.perceptual import lpips
from wan_jax.pipelines.autoencoder import Autoencoder, fetch, open_autoencoder, to_pixels, to_unit_range
from wan_jax.pipelines.vae_files import check_frames, peak_memory_bytes
from wan_jax.typing import Float, Params, UInt8
from wan_jax.video_io import check_output, export_to_video, read_video

_LPIPS = "alex"  # what its authors compare images with; "vgg" is meant for training
# A frame that is restored exactly, as black ones are, would make a mean infinite.  8 bits tell no more than 59 dB.
_HIGHEST_PSNR = 100.0
_SMALLEST = {True: 31, False: 11}  # sides of frames: for LPIPS, and for the window of SSIM alone


def reconstruct_file(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    model: str,
    dtype: Any = None,
    max_frames: int | None = None,
    mesh: Mesh | str | None = None,
    tile: int | None = None,
    perceptual: bool = True,
) -> dict[str, Any]:
    """Encodes and decodes `src` into `dst`, which has the same frames, size and rate.

    Args:
        src: any video file.
        dst: see `export_to_video`.
        model, dtype, mesh, tile: see `open_autoencoder`.
        max_frames: stop after so many.
        perceptual: measure LPIPS too; its weights are fetched the first time.

    Returns:
        a dict of `out`, `frames`, `psnr` (dB, at most 100), `ssim` and `lpips`, each averaged over frames, `fps`
        (frames per second) and `peak_memory_bytes`.  They tell about the autoencoder, before `dst` is compressed.

    Raises:
        WanError: a file cannot be read or written, frames are too small to be measured, or there is no such model.
    """
    check_frames(max_frames)
    video = read_video(src)
    check_output(dst, (video.height, video.width))
    least = _SMALLEST[perceptual]
    if min(video.height, video.width) < least:
        advice = "; leave out LPIPS with --no-perceptual" if perceptual else ""
        raise WanError(f"frames of {video.width}x{video.height} cannot be measured, only {least}x{least} up{advice}")
    coder = open_autoencoder(model, dtype, mesh, tile)
    judge = lpips.load(_LPIPS) if perceptual else None
    sums, seen = Counter(), 0

    def decoded() -> Iterator[UInt8["f h w c"]]:
        nonlocal seen
        latents = coder.encode(itertools.islice(video, max_frames))
        original = itertools.islice(video, max_frames)
        with tqdm(unit="frame", total=max_frames) as bar:
            for pixels, measured in measure_restored(coder, original, latents, (video.height, video.width), judge):
                yield pixels
                sums.update({name: float(values.sum()) for name, values in measured.items()})
                seen += len(pixels)
                bar.update(len(pixels))

    started = time.monotonic()
    export_to_video(decoded(), dst, video.fps, {"model": model, "source": os.path.basename(src)})
    quality = {name: total / seen for name, total in sums.items()}
    costs = {"fps": seen / (time.monotonic() - started), "peak_memory_bytes": peak_memory_bytes(coder.mesh)}
    return {"out": str(dst), "frames": seen} | quality | costs


def measure_restored(
    coder: Autoencoder,
    original: Iterator[UInt8["h w 3"]],
    latents: Iterable[Float["f h w c"]],
    size: tuple[int, int],
    judge: Params | None = None,
) -> Iterator[tuple[UInt8["f h w 3"], dict[str, Float[" f"]]]]:
    """Decodes latents; yields a few frames at a time, with what `measure` tells of each.

    Args:
        original: the frames that were encoded, in their order.
        size: their height and width.
        judge: as for `measure`.
    """
    for chunk in coder.decode(piece[None] for piece in latents):
        # Frames that were added to fill the last latent have no original.
        before = np.stack(list(itertools.islice(original, chunk.shape[1])))
        after = to_unit_range(chunk[0, : len(before), : size[0], : size[1]])
        measured = measure(judge, _LPIPS, before / np.float32(255), after)
        yield fetch(*to_pixels(chunk, *size))[: len(before)], measured


@partial(jax.jit, static_argnames="net")
def measure(judge: Params | None, net: lpips.Net, a: Float["f h w 3"], b: Float["f h w 3"]) -> dict[str, Float[" f"]]:
    """PSNR (dB, at most 100), SSIM and, given the weights of `net`, LPIPS of each frame; frames in [0, 1]."""

    def of_one(pair: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        return {"psnr": jnp.minimum(metrics.psnr(*pair), _HIGHEST_PSNR), "ssim": metrics.ssim(*pair)}

    found = jax.lax.map(of_one, (a[:, None], b[:, None]))
    if judge is not None:
        found["lpips"] = lpips.lpips(judge, 2 * a - 1, 2 * b - 1, net)
    return found
