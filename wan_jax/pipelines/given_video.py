"""The video that a new one is made from: its frames at the model's rate and size, and what is said of them."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jax
import numpy as np

from wan_jax.config import WanConfig
from wan_jax.errors import WanError
from wan_jax.images import read_image, resize, signed, size_of_area
from wan_jax.models.dit import PATCH
from wan_jax.pipelines.pictures import warn_of_stretch
from wan_jax.typing import Float, UInt8
from wan_jax.video_io import frame_times, nearest_frames, read_video

_STRENGTH = 0.8  # where none is given, as in Diffusers


@dataclass(frozen=True)
class GivenVideo:
    """The frames that are used, in the size they came in."""

    frames: UInt8["f h w 3"]

    def digests(self) -> dict[str, str]:
        """What tells this video from others."""
        return {"video": hashlib.sha256(self.frames.tobytes()).hexdigest()[:12]}

    def fields(
        self, config: WanConfig, height: int | None, width: int | None, strength: float | None
    ) -> dict[str, Any]:
        """What a request follows the video in; without a size, its shape at the area of the model's own size."""
        if height is None and width is None:
            own = config.sampling
            unit = config.vae.spatial_factor * PATCH
            height, width = size_of_area(*self.frames.shape[1:3], own.height * own.width, unit)
        strength = _STRENGTH if strength is None else strength
        return {"height": height, "width": width, "num_frames": len(self.frames), "strength": strength}

    def latents(
        self, height: int, width: int, encode: Callable[[Iterable[Float["1 1 h w 3"]], int, int, int], jax.Array]
    ) -> Float["1 f h w c"]:
        """The encoded video, stretched to a size (Lanczos); warns where its shape changes visibly."""
        warn_of_stretch("video", self.frames.shape[1:3], (height, width), stacklevel=4)
        pieces = (signed(resize(frame, height, width))[None, None] for frame in self.frames)
        return encode(pieces, len(self.frames), height, width)


def read(config: WanConfig, video: Any, strength: float | None, num_frames: int | None) -> GivenVideo | None:
    """The video that was given, if the model takes one.

    At the model's frame rate, for which frames are left out or repeated (`wan_jax.video_io.nearest_frames`); frames
    without a rate have the model's.  It is cut to `num_frames`; without that, to 4n + 1 frames and the model's own
    number at most.

    Args:
        video: a file, a list of pictures, or an array [f h w 3] of uint8 or of floats in [0, 1].
        strength: see `WanPipeline.__call__`.

    Raises:
        WanError: the model takes none; or it cannot be read, or has fewer frames.
    """
    if video is None:
        if strength is not None:
            raise WanError("strength: says how much of a video changes; give a video too")
        return None
    if config.transformer.in_channels != config.vae.z_dim:
        raise WanError(f"video: {config.name} takes no video")
    is_file = isinstance(video, str | os.PathLike)
    times = frame_times(video) if is_file else _times(video, config.sampling.fps)
    chosen = nearest_frames(times, config.sampling.fps)
    factor = config.vae.temporal_factor
    if num_frames is None:
        num_frames = (min(len(chosen), config.sampling.num_frames) - 1) // factor * factor + 1
    if len(chosen) < num_frames:
        raise WanError(
            f"num_frames={num_frames}: the video has {len(chosen)} frames at {config.sampling.fps} frames a second"
        )
    return GivenVideo(np.stack(list(_taken(read_video(video) if is_file else video, chosen[:num_frames]))))


def _times(frames: Any, fps: float) -> Float[" f"]:
    if not len(frames):
        raise WanError("video: there are no frames")
    return np.arange(len(frames)) / (getattr(frames, "fps", None) or fps)


def _taken(frames: Iterable[Any], chosen: np.ndarray) -> Iterator[UInt8["h w 3"]]:
    """The frames of these numbers, which rise and may repeat."""
    shape = None
    for number, frame in enumerate(islice(frames, int(chosen[-1]) + 1)):
        if times := np.count_nonzero(chosen == number):
            picture = read_image(frame, f"video, frame {number}")
            shape = shape or picture.shape
            if picture.shape != shape:
                raise WanError(f"video: frame {number} is {picture.shape[1]}x{picture.shape[0]}, others are not")
            yield from [picture] * times
