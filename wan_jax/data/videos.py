"""Clips from video files: a constant frame rate, a size from the table, and no more frames than are wanted."""

import itertools
from pathlib import Path

import numpy as np
from PIL import Image

from wan_jax.data.buckets import Bucket
from wan_jax.errors import WanError
from wan_jax.typing import UInt8, typechecked
from wan_jax.video_io import frame_times, nearest_frames, read_video


def measure(path: Path, fps: float) -> tuple[int, int, int]:
    """Width, height and number of frames of a video at a frame rate; only its first frame is decoded.

    Raises:
        WanError: it cannot be read.
    """
    video = read_video(path)
    return video.width, video.height, len(nearest_frames(frame_times(path), fps))


def read_clip(path: Path, fps: float, bucket: Bucket) -> UInt8["f h w 3"]:
    """The beginning of a video, as `bucket` wants it.

    Raises:
        WanError: it cannot be read, or ends early.
    """
    wanted = nearest_frames(frame_times(path), fps)[: bucket.frames]
    frames = []
    for i, frame in enumerate(itertools.islice(read_video(path), int(wanted[-1]) + 1)):
        if times := np.count_nonzero(wanted == i):
            frames += [cover(frame, bucket.width, bucket.height)] * times
    if len(frames) < bucket.frames:
        raise WanError(f"cannot read {path}: damaged: {len(frames)} of {bucket.frames} frames")
    return np.stack(frames)


@typechecked
def cover(frame: UInt8["h w 3"], width: int, height: int) -> UInt8["i j 3"]:
    """The middle of a picture, scaled so that it just covers the size."""
    h, w, _ = frame.shape
    scale = max(width / w, height / h)
    left, top = (w - width / scale) / 2, (h - height / scale) / 2
    box = (left, top, w - left, h - top)
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box))
