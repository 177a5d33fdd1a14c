"""Clips that a video is made from: read from whatever the user has, a frame at a time."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wan_jax.errors import WanError
from wan_jax.images import read_image
from wan_jax.video_io import frame_times, nearest_frames, read_video

_PICTURES = frozenset(Image.registered_extensions()) - {".gif", ".mpg", ".mpeg"}


@dataclass(frozen=True)
class Clip:
    """Frames of one size, uint8 or floats in [0, 1].  A file is decoded anew by every iteration."""

    name: str
    count: int
    height: int
    width: int
    frames: Callable[[], Iterator[np.ndarray]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.frames()

    def digest(self) -> str:
        """What tells this clip from others."""
        total = hashlib.sha256()
        for frame in self:
            total.update(np.ascontiguousarray(frame))
        return total.hexdigest()[:12]


def read_clip(clip: Any, name: str, fps: float) -> Clip:
    """A file, a list of pictures, or an array [f h w 3] or, of a mask, [f h w]; uint8, or floats in [0, 1].

    Args:
        name: of the argument, for errors.
        fps: the rate at which files are read; of the others, the frames are taken as they are.

    Raises:
        WanError: it is none of these, or cannot be read.
    """
    if isinstance(clip, str | os.PathLike):
        return _file(Path(clip), name, fps)
    if isinstance(clip, np.ndarray) or not isinstance(clip, Sequence):
        return _array(np.asarray(clip), name)
    if len(clip) == 0:
        raise WanError(f"{name}: there are no frames")
    pictures = [read_image(picture, f"{name}, frame {i}") for i, picture in enumerate(clip)]
    if len(sizes := {picture.shape[:2] for picture in pictures}) > 1:
        raise WanError(f"{name}: frames differ in size: {', '.join(f'{w}x{h}' for h, w in sorted(sizes))}")
    return Clip(name, len(pictures), *pictures[0].shape[:2], lambda: iter(pictures))


def _array(clip: np.ndarray, name: str) -> Clip:
    if clip.dtype == bool:
        clip = clip.astype(np.uint8) * np.uint8(255)
    if clip.ndim == 3 and clip.shape[-1] != 3:
        clip = np.broadcast_to(clip[..., None], (*clip.shape, 3))
    if clip.ndim != 4 or clip.shape[-1] != 3 or not clip.size:
        raise WanError(f"{name}: expected a file, pictures or an array [frames, height, width, 3], not {clip.shape}")
    if clip.dtype != np.uint8:
        if not np.issubdtype(clip.dtype, np.floating) or not (clip.min() >= 0 and clip.max() <= 1):
            raise WanError(f"{name}: an array must hold uint8, or floats between 0 and 1")
        clip = clip.astype(np.float32, copy=False)
    return Clip(name, *clip.shape[:3], lambda: iter(clip))


def _file(path: Path, name: str, fps: float) -> Clip:
    if path.suffix.lower() in _PICTURES:
        picture = read_image(path, name)
        return Clip(name, 1, *picture.shape[:2], lambda: iter([picture]))
    video = read_video(path)
    wanted = nearest_frames(frame_times(path), fps)

    def frames() -> Iterator[np.ndarray]:
        for i, frame in enumerate(video):
            for _ in range(np.count_nonzero(wanted == i)):
                yield frame

    return Clip(name, len(wanted), video.height, video.width, frames)
