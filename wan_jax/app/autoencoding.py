"""What the tab of the autoencoder shows, measured."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from wan_jax import images
from wan_jax.app.explorer import Explorer
from wan_jax.errors import WanError
from wan_jax.models.streaming import vae_step
from wan_jax.models.wan_vae import WanVAE
from wan_jax.pipelines.autoencoder import Autoencoder, open_autoencoder
from wan_jax.pipelines.reconstruct import measure_restored
from wan_jax.typing import Float, UInt8
from wan_jax.video_io import export_to_video, read_video

Show = Callable[[str, float], None]  # what is done, in words, and the share that is

LENGTHS = (5, 9, 17, 33)  # frames, for which a whole clip is decoded at once
MEASURED = (
    "As the compiler plans it on this machine (memory_analysis(): weights, inputs, results, temporary memory); nothing "
    "was run. With a cache all later pieces run the same program, so its line is level."
)
_MIB = 2**20


@dataclass(frozen=True)
class Reconstruction:
    """A clip after the autoencoder.

    Attributes:
        path: the video.
        strip: its latents as a picture.
        facts: what is lost, in words and numbers.
    """

    path: Path
    frames: int
    height: int
    width: int
    strip: UInt8["h w"]
    facts: dict[str, str]


def reconstruct(explorer: Explorer, path: str, most: int, longest: int, show: Show) -> Reconstruction:
    """Sends the beginning of a clip through the autoencoder of the model.

    Args:
        most: frames.
        longest: the longer side, to which larger clips are brought.
        show: called on the way; may raise, which ends the work.

    Raises:
        WanError: the file is no video.
    """
    show("Loading the autoencoder", 0)
    video, coder = read_video(path), open_autoencoder(explorer.model)
    clip = np.stack([_within(frame, longest) for frame in itertools.islice(video, most)])
    count, height, width, _ = clip.shape
    latents = []
    for latent in coder.encode(clip):
        latents.append(latent)
        show("Encoding", len(latents) / (2 * _latent_count(coder, count)))
    sums, restored = {}, []
    for pixels, measured in measure_restored(coder, iter(clip), latents, (height, width)):
        restored.append(pixels)
        sums = {name: sums.get(name, 0.0) + float(values.sum()) for name, values in measured.items()}
        show("Decoding", 0.5 + sum(map(len, restored)) / (2 * count))
    stacked = np.concatenate(latents)
    out = explorer.scratch / "reconstruction.mp4"
    export_to_video(restored, out, video.fps)
    facts = {
        "PSNR": f"{sums['psnr'] / count:.1f} dB",
        "SSIM": f"{sums['ssim'] / count:.3f}",
        f"fewer numbers: {stacked.size:,} for {clip.size:,}": f"{clip.size / stacked.size:.0f}×",
    }
    return Reconstruction(out, count, height, width, strip(stacked), facts)


def strip(latents: Float["f h w c"]) -> UInt8["i j"]:
    """A row for each channel, a column for each frame; grey is the channel's mean, black and white three deviations."""
    mean, deviation = latents.mean((0, 1, 2)), latents.std((0, 1, 2))
    grey = np.clip((latents - mean) / (6 * deviation + 1e-6) + 0.5, 0, 1)
    cells = np.pad(grey, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1)
    sheet = cells.transpose(3, 1, 0, 2).reshape(cells.shape[3] * cells.shape[1], -1)
    return (sheet * 255).astype(np.uint8)


def decoding_memory(explorer: Explorer, side: int, show: Show) -> dict[str, list[tuple[int, float]]]:
    """MiB to decode clips of some lengths, with a cache and at once: (frames, MiB), as the compiler plans it.

    Args:
        side: of the square frames, in pixels.
        show: as for `reconstruct`.
    """
    show("Loading the autoencoder", 0)
    coder = open_autoencoder(explorer.model)
    config = coder.config

    def latents(count: int) -> jax.ShapeDtypeStruct:
        cells = side // config.spatial_factor
        return jax.ShapeDtypeStruct((1, count, cells, cells, config.z_dim), jnp.float32)

    step = partial(vae_step, coder.vae, method="decode")
    work = len(LENGTHS) + 2
    show("Compiling the first piece", 0)
    first = vae_step.lower(coder.vae, coder.params, latents(1), None, method="decode")
    _, cache = jax.eval_shape(step, coder.params, latents(1), None)
    pieces = [_planned(first)]
    show("Compiling the later pieces", 1 / work)
    pieces.append(_planned(vae_step.lower(coder.vae, coder.params, latents(1), cache, method="decode")))
    at_once = []
    for done, length in enumerate(LENGTHS):
        show(f"Compiling {length} frames at once", (2 + done) / work)
        count = _latent_count(coder, length)
        at_once.append((length, _planned(_decode_whole.lower(coder.vae, coder.params, latents(count)))))
    return {"piece by piece, with the cache": [(n, max(pieces)) for n in LENGTHS], "the whole clip at once": at_once}


@partial(jax.jit, static_argnames="vae")
def _decode_whole(vae: WanVAE, params, latents):
    """Without a cache, and therefore without one to hand on."""
    return vae.apply({"params": params}, latents, None, method="decode")[0]


def _planned(program: jax.stages.Lowered) -> float:
    """MiB that are there while it runs."""
    plan = program.compile().memory_analysis()
    if plan is None:
        raise WanError(f"the compiler for {jax.default_backend()} does not tell how much memory a program takes")
    inside = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    return (inside - plan.alias_size_in_bytes) / _MIB


def _latent_count(coder: Autoencoder, frames: int) -> int:
    return -(-(frames - 1) // coder.config.temporal_factor) + 1


def _within(frame: UInt8["h w 3"], longest: int) -> UInt8["i j 3"]:
    """As it is, or smaller, and of even sides, as H.264 has them."""
    height, width, _ = frame.shape
    scale = min(1, longest / max(height, width))
    height, width = (max(round(side * scale / 2) * 2, 16) for side in (height, width))
    return images.resize(frame, height, width)
