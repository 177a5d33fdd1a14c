"""Clips of the little world (`wan_jax.world`) as a source, rendered as they are asked for."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from wan_jax.data.buckets import Bucket
from wan_jax.data.contents import Record
from wan_jax.errors import WanError
from wan_jax.world.render import SIDE, render
from wan_jax.world.scene import FPS, stage
from wan_jax.world.words import caption, draw_truth

PREFIX = "world:"
_CHINESE = 0.4  # share of the captions
_VERSION = 1  # of the world: another one makes other datasets


@dataclass(frozen=True)
class World:
    """Clips whose combinations of colour, shape and motion are not held out; each depends on its number alone.

    Attributes:
        count: of all clips.
        seed: other clips.
        side: height and width.
        frames: of each clip, 4n + 1.
        validation: so many, or if a float this share, are not trained on.
    """

    count: int
    seed: int = 0
    side: int = SIDE
    frames: int = 33
    validation: int | float = 0.01
    fps: float = FPS

    @classmethod
    def parse(cls, text: str, **options) -> "World":
        """From `world:COUNT` or `world:COUNT:SEED`."""
        numbers = text.removeprefix(PREFIX).split(":")
        if not (1 <= len(numbers) <= 2 and all(number.isdecimal() for number in numbers)):
            raise WanError(f"--src {text!r} is not world:COUNT or world:COUNT:SEED, such as world:8000")
        return cls(*map(int, numbers), **options)

    def __post_init__(self):
        wanted = self.validation
        held_out = wanted if isinstance(wanted, int) else math.ceil(wanted * self.count)
        if not 0 <= held_out < self.count:
            raise WanError(f"--validation {wanted} of {self.count} clips leaves none to train on")
        object.__setattr__(self, "_held_out", held_out)

    def identity(self) -> dict[str, Any]:
        return {
            "src": f"{PREFIX}{self.count}:{self.seed}",
            "version": _VERSION,
            "fps": self.fps,
            "sizes": [f"{self.side}x{self.side}"],
            "frames": [self.frames],
            "validation": self.validation,
        }

    def split(self) -> tuple[dict[str, list], dict[str, str]]:
        bucket, first = Bucket(self.side, self.side, self.frames), self.count - self._held_out
        items = {f"train_{bucket}": list(range(first)), f"validation_{bucket}": list(range(first, self.count))}
        return {split: numbers for split, numbers in items.items() if numbers}, {}

    def read(self, split: str, item: int) -> Record:
        rng = np.random.default_rng([self.seed, item])
        truth = draw_truth(rng)
        text = caption(truth, rng, chinese=rng.random() < _CHINESE)
        frames = render(stage(truth, rng, self.frames), self.side)
        return Record(f"{self.seed}-{item:07}", text, np.asarray(jax.device_get(frames)))
