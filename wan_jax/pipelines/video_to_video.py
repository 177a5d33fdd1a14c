"""Video to video: a clip that is noised to some level, and denoised from there (SDEdit, arXiv:2108.01073)."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from wan_jax.config import WanConfig
from wan_jax.errors import WanError
from wan_jax.images import resize, signed, size_of_area
from wan_jax.models.dit import PATCH
from wan_jax.pipelines.clips import read_clip
from wan_jax.pipelines.given import Encode, Given, Size, short_digest
from wan_jax.pipelines.pictures import warn_of_stretch
from wan_jax.typing import Float, UInt8

_STRENGTH = 0.8  # where none is given, as in Diffusers


@dataclass(frozen=True)
class StartVideo(Given):
    """The frames that are used, in the size they came in, and how much of them changes."""

    frames: UInt8["f h w 3"]
    strength: float

    def fields(
        self, config: WanConfig, height: int | None, width: int | None, num_frames: int | None
    ) -> dict[str, Any]:
        """Without a size, its shape at the area of the model's own size."""
        if height is None and width is None:
            own, unit = config.sampling, config.vae.spatial_factor * PATCH
            height, width = size_of_area(*self.frames.shape[1:3], own.height * own.width, unit)
        return {"height": height, "width": width, "num_frames": len(self.frames), "strength": self.strength}

    def start(self, size: Size, encode: Encode) -> Float["1 f h w c"]:
        """The encoded video, stretched to the size (Lanczos); warns where its shape changes visibly."""
        count, height, width = size
        warn_of_stretch("video", self.frames.shape[1:3], (height, width), stacklevel=4)
        pieces = (signed(resize(frame, height, width))[None, None] for frame in self.frames)
        return encode(pieces, count, height, width)

    def digests(self) -> dict[str, Any]:
        return {"video": short_digest(self.frames)}


def read(config: WanConfig, video: Any, strength: float | None, num_frames: int | None) -> StartVideo:
    """The video that was given, if the model takes one.

    A file is read at the model's frame rate.  It is cut to `num_frames`; without that, to 4n + 1 frames and the model's
    own number at most.

    Args:
        video: see `wan_jax.pipelines.clips.read_clip`.
        strength: see `WanPipeline.__call__`.

    Raises:
        WanError: the model takes none; or it cannot be read, or has fewer frames.
    """
    if config.transformer.in_channels != config.vae.z_dim:
        raise WanError(f"video: {config.name} takes no video")
    clip = read_clip(video, "video", config.sampling.fps)
    factor = config.vae.temporal_factor
    if num_frames is None:
        num_frames = (min(clip.count, config.sampling.num_frames) - 1) // factor * factor + 1
    if clip.count < num_frames:
        raise WanError(
            f"num_frames={num_frames}: the video has {clip.count} frames at {config.sampling.fps} frames a second"
        )
    frames = np.stack([_bytes(frame) for frame in islice(clip, num_frames)])
    return StartVideo(frames, _STRENGTH if strength is None else strength)


def _bytes(frame: np.ndarray) -> UInt8["h w 3"]:
    return frame if frame.dtype == np.uint8 else np.round(frame * 255).astype(np.uint8)
