"""A video that grows in segments, so that a killed run goes on behind the last whole one.

Beside OUT.mp4 lies the folder OUT.mp4.part with `settings.json` and 000000.mp4, 000001.mp4, …, each complete and
encoded by itself.  At the end they are joined without being encoded again, and the folder is removed.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from wan_jax.pipelines.latents_file import part_of
from wan_jax.video_io import atomic, export_to_video, join_videos


class SegmentedVideo:
    """Goes on with what is there."""

    def __init__(self, path: Path, fps: float, settings: dict[str, Any]):
        """`settings`: what the frames depend on, of JSON types."""
        self._path, self._folder, self._fps = path, part_of(path), fps
        if part_settings(path) is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir()
            (self._folder / "settings.tmp").write_text(json.dumps(settings))
            (self._folder / "settings.tmp").rename(self._folder / "settings.json")

    @property
    def count(self) -> int:
        """Segments that are there."""
        count = 0
        while self._segment(count).exists():
            count += 1
        return count

    def append(self, frames: Iterable[np.ndarray], keep: np.ndarray | None = None):
        """Writes the next segment.  `keep`: what the one after it will need, for `kept`."""
        number = self.count
        if keep is not None:  # first: the segment says that all is there
            with atomic(self._kept(number)) as temporary, temporary.open("wb") as file:
                np.save(file, keep)
        export_to_video(frames, self._segment(number), self._fps)

    def kept(self, number: int) -> np.ndarray:
        """What was to be kept with a segment."""
        return np.load(self._kept(number), allow_pickle=False)

    def finish(self, metadata: dict[str, Any]):
        """Joins the segments at `path`."""
        join_videos([self._segment(i) for i in range(self.count)], self._path, metadata)
        shutil.rmtree(self._folder)

    def _segment(self, number: int) -> Path:
        return self._folder / f"{number:06}.mp4"

    def _kept(self, number: int) -> Path:
        return self._folder / f"{number:06}.npy"


def part_settings(path: Path) -> dict[str, Any] | None:
    """The settings of an unfinished video; None if there is none."""
    try:
        return json.loads((part_of(path) / "settings.json").read_text())
    except (OSError, ValueError):
        return None
