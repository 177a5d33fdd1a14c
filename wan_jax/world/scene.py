"""Where everything is in a clip of the little world: numbers to draw from.

Places and lengths are in units of the frame's side, x to the right and y down; rates are per second.
"""

import flax.struct
import numpy as np

from wan_jax.typing import Float, Int
from wan_jax.world.words import COLOURS, LIGHTS, PLACES, SHAPES, TEXTURES, Truth

FPS = 16
MOST = 3  # objects
RADII = {"small": 0.08, "medium": 0.11, "large": 0.148}
GOING = {"slow": 0.1, "normal": 0.19, "fast": 0.3}
BOUNCES = {"slow": 0.6, "normal": 1.1, "fast": 2.0}
TURNS = {"slow": 0.3, "normal": 0.6, "fast": 1.2}
RGB = dict(
    zip(
        COLOURS,
        np.array(
            [
                (225, 40, 40),
                (240, 130, 30),
                (240, 215, 40),
                (40, 190, 70),
                (40, 200, 215),
                (45, 80, 235),
                (160, 50, 210),
                (247, 247, 247),
            ]
        )
        / 255,
    )
)
LIGHT = dict(zip(LIGHTS, np.array([(1, 1, 1), (0.5, 0.5, 0.6)])))
FLOOR = 0.82  # where things that bounce land
_GAP, _MARGIN = 0.035, 0.02  # between objects, and to the frame's edge
_GROWN, _YOUNG = 0.16, 0.35  # radius of what has grown, and its share at the beginning
_PAN, _ZOOM = 0.16, 1.7


@flax.struct.dataclass
class Scene:
    """All that is drawn.

    Attributes:
        shape, texture, place: as they are counted in `words`.
        colour: of the objects; light: of the lamp; red, green, blue.
        phases: of the place's pattern.
        centres, radii: of the objects, in the world; a radius of zero: none.
        camera: x and y of the frame's centre, and how often larger everything is.
    """

    shape: Int[""]
    texture: Int[""]
    place: Int[""]
    colour: Float[" 3"]
    light: Float[" 3"]
    phases: Float[" 4"]
    centres: Float["f k 2"]
    radii: Float["f k"]
    camera: Float["f 3"]


def stage(truth: Truth, rng: np.random.Generator, frames: int) -> Scene:
    """A clip that shows this; what words do not say is random."""
    seconds = np.arange(frames) / FPS
    radius = RADII[truth.size] * rng.uniform(0.95, 1.05)
    if truth.motion.startswith("zoom"):
        radius *= 0.72  # so that all stays in the frame when it is close
    if truth.motion in ("grow", "shrink"):
        radius = _GROWN * (0.85 if truth.count == MOST else 1.0) * rng.uniform(0.95, 1.05)
    centres = _MOVES.get(truth.motion, _rest)(truth, radius, seconds, rng)
    camera = np.tile([0.5, 0.5, 1.0], (frames, 1))
    share = np.linspace(0, 1, frames) if frames > 1 else np.zeros(1)
    radii = np.full(frames, radius)
    match truth.motion:
        case "grow":
            radii = radius * (_YOUNG + (1 - _YOUNG) * share)
        case "shrink":
            radii = radius * (1 - (1 - _YOUNG) * share)
        case "appear":  # within three frames
            radii = radius * np.clip((np.arange(frames) - rng.uniform(0.35, 0.6) * frames) / 3, 0, 1)
        case "pan left":
            camera[:, 0] += _PAN * (1 - 2 * share)
        case "pan right":
            camera[:, 0] -= _PAN * (1 - 2 * share)
        case "zoom in":
            camera[:, 2] = _ZOOM**share
        case "zoom out":
            camera[:, 2] = _ZOOM ** (1 - share)
    exist = np.arange(MOST) < truth.count
    return Scene(
        shape=np.int32(list(SHAPES).index(truth.shape)),
        texture=np.int32(list(TEXTURES).index(truth.texture)),
        place=np.int32(list(PLACES).index(truth.place)),
        colour=_f32(RGB[truth.colour] * rng.uniform(0.95, 1.0)),
        light=_f32(LIGHT[truth.light]),
        phases=_f32(rng.random(4)),
        centres=_f32(np.concatenate([centres, np.zeros((frames, MOST - truth.count, 2))], axis=1)),
        radii=_f32(radii[:, None] * exist),
        camera=_f32(camera),
    )


def _f32(x) -> np.ndarray:
    return np.asarray(x, np.float32)


def _row(count: int, radius: float, axis: int) -> np.ndarray:
    """Offsets of objects beside each other along an axis."""
    offsets = np.zeros((count, 2))
    offsets[:, axis] = (np.arange(count) - (count - 1) / 2) * (2 * radius + _GAP)
    return offsets


def _within(rng: np.random.Generator, reach: np.ndarray) -> np.ndarray:
    """A place from which what reaches so far in x and y stays in the frame."""
    reach = np.minimum(reach + _MARGIN, 0.5)
    return rng.uniform(reach, 1 - reach)


def _going(direction: tuple[int, int]):
    def move(truth: Truth, radius, seconds, rng):
        direction_ = np.array(direction)
        row = _row(truth.count, radius, axis=int(direction[0] != 0))  # across the way
        room = 1 - 2 * (radius + _MARGIN)
        way = np.minimum(GOING[truth.speed] * rng.uniform(0.95, 1.05) * seconds, room)
        middle = _within(rng, np.abs(row).max(axis=0) + radius + np.abs(direction_) * way[-1] / 2)
        return middle + row + ((way - way[-1] / 2)[:, None] * direction_)[:, None]

    return move


def _bouncing(truth: Truth, radius, seconds, rng):
    row = _row(truth.count, radius, axis=0)
    across = _within(rng, np.abs(row).max(axis=0) + radius)[0]
    part = (BOUNCES[truth.speed] * rng.uniform(0.95, 1.05) * seconds + rng.random()) % 1
    height = (FLOOR - 2 * radius - _MARGIN) * rng.uniform(0.75, 0.95) * 4 * part * (1 - part)  # as things fall
    return np.stack(np.broadcast_arrays(across + row[:, 0], (FLOOR - radius - height)[:, None]), axis=-1)


def _orbiting(truth: Truth, radius, seconds, rng):
    distance = max(0.2, (radius + _GAP / 2) / np.sin(np.pi / truth.count) if truth.count > 1 else 0.0)
    middle = _within(rng, np.full(2, distance + radius))
    turns = TURNS[truth.speed] * rng.uniform(0.95, 1.05) * seconds + rng.random()
    angles = 2 * np.pi * (turns[:, None] + np.arange(truth.count) / truth.count)
    return middle + distance * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _rest(truth: Truth, radius, seconds, rng):
    row = _row(truth.count, radius, axis=0)
    reach = np.abs(row).max(axis=0) + radius
    if truth.motion.startswith("pan"):
        reach[0] += _PAN
    middle = _within(rng, reach)
    if truth.motion.startswith("zoom"):
        middle = 0.5 + (middle - 0.5) * 0.2
    return np.broadcast_to(middle + row, (len(seconds), truth.count, 2))


_MOVES = {
    "left": _going((-1, 0)),
    "right": _going((1, 0)),
    "up": _going((0, -1)),
    "down": _going((0, 1)),
    "bounce": _bouncing,
    "orbit": _orbiting,
}
