"""A video in memory."""

import numpy as np


class Frames(np.ndarray):
    """A float32 video [f h w c] in [0, 1] that remembers its frame rate `fps`, also when sliced."""

    fps: float | None

    def __new__(cls, frames: np.ndarray, fps: float | None = None) -> "Frames":
        video = np.asarray(frames, np.float32).view(cls)
        video.fps = fps
        return video

    def __array_finalize__(self, source):
        self.fps = getattr(source, "fps", None)
