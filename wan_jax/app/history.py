"""The videos that were made: files in a folder, each of which knows its settings."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np

from wan_jax.errors import WanError
from wan_jax.video_io import frame_times, read_metadata, read_video

MOST = 24  # that the page shows

# Arguments that are files; of these a video knows digests alone.
_FILES = {
    "image": "the first frame",
    "last_image": "the last frame",
    "video": "the source video",
    "mask": "the mask",
    "reference_images": "the references",
}


def new_path(folder: Path) -> Path:
    """Where the next video goes; named by the time, so that names sort by age."""
    stem = datetime.datetime.now().strftime("%Y-%m-%d_%H%M%S_%f")[:-3]
    return folder / f"{stem}.mp4"


def videos(folder: Path) -> list[Path]:
    """Those with settings of ours, the newest first; not all of them, if there are many."""
    found: list[Path] = []
    for path in sorted(folder.glob("[!.]*.mp4"), key=_age):
        if len(found) < MOST and "prompt" in _settings(path):
            found.append(path)
    return found


def poster(path: Path) -> np.ndarray:
    """The frame in the middle of a video, uint8 [h w 3]."""
    return next(read_video(path).frames(len(frame_times(path)) // 2))


def missing(settings: dict[str, Any]) -> list[str]:
    """What must be given again to repeat a video, besides its settings."""
    return [what for name, what in _FILES.items() if settings.get(name) is not None]


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except FileNotFoundError:  # deleted meanwhile
        return 0.0


def _settings(path: Path) -> dict[str, Any]:
    try:
        return read_metadata(path)
    except WanError:  # damaged, or no video
        return {}
