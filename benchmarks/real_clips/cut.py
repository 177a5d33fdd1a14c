"""Short clips out of videos and pictures: pieces of one shot, and slow pans and zooms over a picture."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from wan_jax.typing import Float, UInt8, typechecked

FPS = 16  # what every clip says of itself, so that `data build` keeps each frame
_JUMP = 24.0  # mean difference of grey levels between frames on a small picture: more is a cut
_SMALL = 16  # pixels
_DRIFT = 0.6  # of a pan: output pixels a frame at most, along each axis, and so at the edges when it zooms


@dataclass(frozen=True)
class Box:
    """A square part of a picture, in pixels, which may lie between them."""

    left: float
    top: float
    side: float


@typechecked
def shots(frames: UInt8["f h w 3"]) -> list[tuple[int, int]]:
    """First frame and end of every stretch without a cut."""
    small = np.stack([_small(frame) for frame in frames])
    jumps = np.abs(np.diff(small, axis=0)).mean((1, 2))
    edges = [0, *(np.flatnonzero(jumps > _JUMP) + 1).tolist(), len(frames)]
    return list(itertools.pairwise(edges))


def piece(
    frames: UInt8["f h w 3"],
    places: Sequence[tuple[int, int]],
    native_fps: float,
    length: int,
    size: int,
    rng: np.random.Generator,
) -> UInt8["f s s 3"] | None:
    """A square part of some successive frames of one shot, every frame or about 16 a second; None if all are too short.

    Args:
        frames: a video.
        places: its shots.
        native_fps: its frames per second.
        length: frames of the clip.
        size: pixels along an edge.
        rng: chooses.
    """
    steps = sorted({1, max(round(native_fps / FPS), 1)})
    fitting = [(first, end, step) for first, end in places for step in steps if end - first > (length - 1) * step]
    if not fitting:
        return None
    first, end, step = fitting[rng.choice(len(fitting), p=_shares([end - first for first, end, _ in fitting]))]
    start = rng.integers(first, end - (length - 1) * step)
    box = _random_box(*frames.shape[1:3], size, rng)
    return np.stack([_view(Image.fromarray(frames[start + i * step]), box, size) for i in range(length)])


def pan(picture: UInt8["h w 3"], length: int, size: int, rng: np.random.Generator) -> UInt8["f s s 3"]:
    """A steady pan and zoom, without rounding to pixels; of one frame, a part of the picture."""
    h, w, _ = picture.shape
    begin = _random_box(h, w, size, rng)
    shift = rng.uniform(-_DRIFT, _DRIFT, 3) * (length - 1) * begin.side / size
    side = float(np.clip(begin.side + shift[2], begin.side / 2, min(h, w)))
    end = Box(
        float(np.clip(begin.left + shift[0], 0, w - side)), float(np.clip(begin.top + shift[1], 0, h - side)), side
    )
    image = Image.fromarray(picture)
    return np.stack([_view(image, _between(begin, end, t), size) for t in np.linspace(0, 1, length)])


def _random_box(h: int, w: int, size: int, rng: np.random.Generator) -> Box:
    """Between `size` pixels and the whole height or width; large ones as often as small ones, by logarithm."""
    most = min(h, w)
    side = min(float(np.exp(rng.uniform(np.log(min(size, most)), np.log(most)))), most)  # rounding may exceed it
    return Box(rng.uniform(0, w - side), rng.uniform(0, h - side), side)


def _between(a: Box, b: Box, t: float) -> Box:
    return Box(a.left + t * (b.left - a.left), a.top + t * (b.top - a.top), a.side + t * (b.side - a.side))


def _view(image: Image.Image, box: Box, size: int) -> UInt8["s s 3"]:
    edges = (box.left, box.top, min(box.left + box.side, image.width), min(box.top + box.side, image.height))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, edges))


def _small(frame: UInt8["h w 3"]) -> Float["s s"]:
    return np.asarray(Image.fromarray(frame).convert("L").resize((_SMALL, _SMALL), Image.Resampling.BOX), np.float32)


def _shares(lengths: Sequence[int]) -> Float[" n"]:
    return np.array(lengths) / sum(lengths)
