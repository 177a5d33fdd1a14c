"""The sizes that clips are cut to.  A batch holds clips of one size, and every size is a program to compile: few do."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from wan_jax.errors import WanError

MULTIPLE = 16  # pixels: 8 of the autoencoder times 2 of the transformer's patches
_RATIOS = (4 / 3, 1.0, 3 / 4)


@dataclass(frozen=True, order=True)
class Bucket:
    """Clips of one width, height and number of frames, written "832x480x81"."""

    width: int
    height: int
    frames: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}"

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(*map(int, text.split("x")))


def sizes_of_area(width: int, height: int) -> list[tuple[int, int]]:
    """This size, upright and lengthwise, and those of about its area at 4:3, 1:1 and 3:4."""
    area = width * height
    edges = [(math.sqrt(area * ratio), math.sqrt(area / ratio)) for ratio in _RATIOS]
    rounded = [tuple(max(round(edge / MULTIPLE), 1) * MULTIPLE for edge in pair) for pair in edges]
    return sorted({(width, height), (height, width), *rounded})


def nearest_size(width: int, height: int, sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The size that cuts off the least of a picture: of the nearest aspect ratio, as ratios compare."""
    return min(sizes, key=lambda size: abs(math.log(size[0] / size[1]) - math.log(width / height)))


def longest_fitting(count: int, lengths: Sequence[int]) -> int:
    """The longest of `lengths` that a clip of `count` frames fills.

    Raises:
        WanError: it is too short for all of them.
    """
    if count < min(lengths):
        raise WanError(f"too short: {count} frames of {min(lengths)}")
    return max(length for length in lengths if length <= count)


def check_sizes(sizes: Sequence[tuple[int, int]]):
    """Raises a WanError about the first size that the model cannot have."""
    for width, height in sizes:
        if width < 1 or height < 1 or width % MULTIPLE or height % MULTIPLE:
            raise WanError(f"size {width}x{height}: width and height must be multiples of {MULTIPLE}")


def check_lengths(lengths: Sequence[int]):
    """Raises a WanError about the first number of frames that the model cannot have."""
    for frames in lengths:
        if frames < 1 or frames % 4 != 1:
            raise WanError(f"frames={frames} is not 4n + 1, such as {max(frames // 4 * 4, 0) + 1}")
