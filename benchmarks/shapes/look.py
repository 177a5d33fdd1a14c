"""What a clip of the little world shows, by plain measuring: no network judges another."""

from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.shapes.world import COLOURS, DIRECTIONS, Truth
from wan_jax.typing import Bool, Float, typechecked

_CONTRAST = 0.22  # from the background, in the strongest channel: more than its waves have
_LEAST_AREA = 0.01  # of the frame: smaller spots are no shape
_LEAST_WAY = 1 / 6  # of the frame's side: less is no motion
_FILLED = {"triangle": 0.61, "ball": 0.88, "square": np.inf}  # share of its upright box that a shape fills, at most


@dataclass(frozen=True)
class Seen:
    """What was measured; None where nothing could be."""

    colour: str | None = None
    shape: str | None = None
    direction: str | None = None

    def agrees(self, truth: Truth) -> dict[str, bool]:
        """Which of the three are right."""
        return {name: value == asdict(self)[name] for name, value in asdict(truth).items()}


@typechecked
def look(clip: Float["f h w 3"]) -> Seen:
    """Measures a clip in [0, 1]: what differs from the background is the shape."""
    background = np.median(clip, axis=(1, 2), keepdims=True)
    contrast = np.abs(clip - background).max(axis=-1)
    shape = contrast > np.maximum(_CONTRAST, contrast.max(axis=(1, 2), keepdims=True) / 2)
    visible = shape.mean(axis=(1, 2)) > _LEAST_AREA
    if visible.mean() < 0.5:
        return Seen()
    return Seen(_colour(clip[shape]), _outline(shape[visible]), _direction(shape, np.flatnonzero(visible)))


def _colour(pixels: Float["n 3"]) -> str:
    """The nearest colour, brightness aside."""

    def tone(rgb) -> np.ndarray:
        return np.asarray(rgb, float) / max(*rgb, 1e-6)

    found = tone(np.median(pixels, axis=0))
    return min(COLOURS, key=lambda name: np.linalg.norm(tone(COLOURS[name][0]) - found))


def _outline(shape: Bool["f h w"]) -> str:
    fill = np.median([frame.sum() / _box_area(frame) for frame in shape])
    return next(name for name, most in _FILLED.items() if fill < most)


def _box_area(frame: Bool["h w"]) -> int:
    rows, columns = np.nonzero(frame)
    return (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def _direction(shape: Bool["f h w"], visible: np.ndarray) -> str | None:
    """Where the centre goes, by a straight line fitted through it; None if hardly anywhere, or askew."""
    frames, *size = shape.shape
    centres = [np.mean(np.nonzero(shape[i]), axis=1)[::-1] for i in visible]  # x, y
    way = np.polyfit(visible, centres, 1)[0] * (frames - 1) / np.array(size[::-1])
    if np.abs(way).max() < max(_LEAST_WAY, 2 * np.abs(way).min()):
        return None
    return max(DIRECTIONS, key=lambda name: np.dot(DIRECTIONS[name][0], way))
