"""A little world to train on: one coloured shape crosses a dark background, and a caption says so.

    python -m benchmarks.shapes.world --out clips --clips 3000 --seed 0

Of the 72 combinations of colour, shape and direction, 24 never occur in these clips; see `is_held_out`.  The files are
GIFs, which hold the few colours of such a clip exactly: H.264's noise would make a dataset of frames five times as big.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wan_jax.errors import WanError
from wan_jax.typing import Float, UInt8

SIDE, FRAMES, FPS = 64, 17, 16

COLOURS = {  # RGB, and the word in Chinese
    "red": ((230, 35, 35), "红"),
    "green": ((40, 190, 60), "绿"),
    "blue": ((50, 85, 240), "蓝"),
    "yellow": ((245, 225, 45), "黄"),
    "purple": ((170, 50, 205), "紫"),
    "white": ((245, 245, 245), "白"),
}
SHAPES = {"ball": "球", "square": "方块", "triangle": "三角形"}
DIRECTIONS = {  # step in x and y, y pointing down, and the words
    "left": ((-1, 0), "to the left", "向左"),
    "right": ((1, 0), "to the right", "向右"),
    "up": ((0, -1), "up", "向上"),
    "down": ((0, 1), "down", "向下"),
}
ENGLISH = (
    "a {colour} {shape} moves {way}",
    "A {colour} {shape} is moving {way}.",
    "The {shape} is {colour} and goes {way}.",
    "a {shape} in {colour} slides {way}",
    "Going {way}: a {colour} {shape}.",
)
CHINESE = (
    "一个{colour}色的{shape}{way}移动",
    "{colour}色{shape}{way}滑动。",
)


@dataclass(frozen=True)
class Truth:
    """What a clip shows."""

    colour: str
    shape: str
    direction: str


EVERYTHING = tuple(itertools.starmap(Truth, itertools.product(COLOURS, SHAPES, DIRECTIONS)))


def is_held_out(truth: Truth) -> bool:
    """Whether no training clip may show this: a third of all combinations, but no colour, shape, direction or pair."""
    places = list(COLOURS).index(truth.colour), list(SHAPES).index(truth.shape), list(DIRECTIONS).index(truth.direction)
    return sum(places) % 3 == 0


def caption(truth: Truth, rng: np.random.Generator) -> str:
    """One of the ways to say it; a quarter is Chinese."""
    _, way, chinese_way = DIRECTIONS[truth.direction]
    if rng.random() < 0.25:
        words = {"colour": COLOURS[truth.colour][1], "shape": SHAPES[truth.shape], "way": chinese_way}
        return rng.choice(CHINESE).format(**words)
    return rng.choice(ENGLISH).format(colour=truth.colour, shape=truth.shape, way=way)


def held_out_captions(count: int = 50, seed: int = 0) -> list[tuple[str, Truth]]:
    """Captions of what was never trained on, each combination about as often as any other."""
    rng = np.random.default_rng([seed, 1])
    truths = [truth for truth in EVERYTHING if is_held_out(truth)]
    order = np.concatenate([rng.permutation(len(truths)) for _ in range(-(-count // len(truths)))])
    return [(caption(truths[i], rng), truths[i]) for i in order[:count]]


def training_clips(count: int, seed: int = 0) -> Iterator[tuple[UInt8["f h w 3"], str, Truth]]:
    """Frames, caption and truth of clips that show none of what is held out."""
    truths = [truth for truth in EVERYTHING if not is_held_out(truth)]
    for i in range(count):
        rng = np.random.default_rng([seed, 0, i])
        truth = truths[rng.integers(len(truths))]
        yield render(truth, rng), caption(truth, rng), truth


def render(truth: Truth, rng: np.random.Generator) -> UInt8["f h w 3"]:
    """A clip; place, size, speed and background are random.  The shape moves at least 0.38 of the frame's side."""
    radius = rng.uniform(7, 10)
    distance = rng.uniform(24, SIDE - 2 * radius - 2)
    step = np.array(DIRECTIONS[truth.direction][0])
    # The middle of the way, from which the shape reaches no edge.
    reach = radius + 1 + np.abs(step) * distance / 2
    middle = rng.uniform(reach, SIDE - reach)
    colour = np.array(COLOURS[truth.colour][0]) * rng.uniform(0.9, 1.0)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    ground = _background(rng)
    clip = []
    for time in np.linspace(-0.5, 0.5, FRAMES):
        x, y = middle + step * distance * time
        inside = _OUTLINES[truth.shape](columns - x, rows - y, radius)
        cover = np.clip(0.5 - inside, 0, 1)[..., None]  # smooth edges
        clip.append(ground + (colour - ground) * cover)
    return np.round(clip).astype(np.uint8)


def _background(rng: np.random.Generator) -> Float["h w 3"]:
    """Dark, of nearly no colour; every second one with soft waves."""
    shade = rng.uniform(12, 60) + rng.uniform(-5, 5, 3)
    if rng.random() < 0.5:
        return np.broadcast_to(np.round(shade), (SIDE, SIDE, 3))
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = np.cos(2 * np.pi * (rows * rng.uniform(-1.5, 1.5) + columns * rng.uniform(-1.5, 1.5) + rng.random()))
    return np.round(np.clip(shade + rng.uniform(3, 7) * waves[..., None], 0, 255))


def _ball(x: Float["h w"], y: Float["h w"], radius: float) -> Float["h w"]:
    return np.hypot(x, y) - radius


def _square(x: Float["h w"], y: Float["h w"], radius: float) -> Float["h w"]:
    return np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius


def _triangle(x: Float["h w"], y: Float["h w"], radius: float) -> Float["h w"]:
    """Standing on its side, with a corner on top."""
    slope = np.hypot(2, 1)
    return np.maximum(y - radius, (2 * np.abs(x) - y - radius) / slope)


# Distance of a pixel from the outline, negative inside.
_OUTLINES: dict[str, Callable] = {"ball": _ball, "square": _square, "triangle": _triangle}


def main():
    from wan_jax.video_io import export_to_video  # here: the others need the world, but not PyAV

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--clips", type=int, default=3000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    args = parser.parse_args()
    if args.out.exists():
        raise WanError(f"--out {args.out} exists; name a new folder")
    args.out.mkdir(parents=True)
    entries = []
    for i, (frames, text, _) in enumerate(tqdm(training_clips(args.clips, args.seed), total=args.clips, unit="clip")):
        name = f"{i:05}.gif"
        export_to_video(frames, args.out / name, FPS)
        entries.append(json.dumps({"video": name, "prompt": text}, ensure_ascii=False) + "\n")
    (args.out / "metadata.jsonl").write_text("".join(entries), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except WanError as error:
        sys.exit(f"error: {error}")
