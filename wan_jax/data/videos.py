"""Clips from video files: a constant frame rate, a size from the table, and no more frames than are wanted."""

import itertools
from pathlib import Path

import numpy as np
from PIL import Image

from wan_jax.data.buckets import Bucket
from wan_jax.errors import WanError
from wan_jax.typing import Float, Int, UInt8, typechecked
from wan_jax.video_io import frame_times, read_video

_ROUNDING = 1e-3  # seconds: Matroska's clock


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
def nearest_frames(times: Float[" n"], fps: int | float) -> Int[" m"]:
    """For every tick of a clock that runs while the video does, the frame nearest in time; the earlier of two.

    Args:
        times: when each frame is shown, in seconds.
        fps: ticks in a second.
    """
    times = times - times[0]
    last = np.median(np.diff(times)) if len(times) > 1 else 1 / fps
    ticks = np.arange(max(np.ceil((times[-1] + last - _ROUNDING) * fps), 1)) / fps
    middles = (times[1:] + times[:-1]) / 2
    return np.searchsorted(middles + _ROUNDING, ticks)


@typechecked
def cover(frame: UInt8["h w 3"], width: int, height: int) -> UInt8["i j 3"]:
    """The middle of a picture, scaled so that it just covers the size."""
    h, w, _ = frame.shape
    scale = max(width / w, height / h)
    left, top = (w - width / scale) / 2, (h - height / scale) / 2
    box = (left, top, w - left, h - top)
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box))
