"""What a clip of the little world shows, by plain measuring: no network judges another.

Objects are more colourful or brighter than any ground, so that a threshold finds them; what follows are areas, centres
and how they change.
"""

from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from wan_jax.typing import Bool, Float, typechecked
from wan_jax.world.render import GROUND, inside
from wan_jax.world.scene import BOUNCES, FPS, GOING, LIGHT, RADII, RGB, TURNS
from wan_jax.world.words import MOTIONS, SHAPES, Truth

MEASURED = ("colour", "shape", "motion", "count", "size", "speed", "place", "light")
_COLOURFUL, _BRIGHT = 0.62, 0.61  # saturation and brightness, of which an object has one
_LEAST_AREA = 0.0012  # of the frame: smaller spots are no object
_STILL, _MOVED = 0.05, 0.1  # of the frame's side
_GREW = 1.35
_GROUND_MOVED = 0.012  # mean change of the ground's brightness
_TEMPLATE = 24  # pixels of an outline that is compared


@dataclass(frozen=True)
class Seen:
    """What was measured; None where nothing could be."""

    colour: str | None = None
    shape: str | None = None
    motion: str | None = None
    count: int | None = None
    size: str | None = None
    speed: str | None = None
    place: str | None = None
    light: str | None = None

    def agrees(self, truth: Truth) -> dict[str, bool]:
        """Which of what this motion lets one see is right."""
        how, seen = MOTIONS[truth.motion], asdict(self)
        hidden = [name for name, shows in (("size", how.has_size), ("speed", how.has_speed)) if not shows]
        return {name: getattr(truth, name) == seen[name] for name in MEASURED if name not in hidden}


@dataclass(frozen=True)
class _Spot:
    """An object in a frame.

    Attributes:
        centre: its x and y, and box: width and height of its upright box, in units of the frame's side.
        outline: its pixels in that box, which place cuts out of the frame.
        is_cut: whether it touches the frame's edge.
    """

    centre: Float[" 2"]
    box: tuple[float, float]
    outline: Bool["h w"]
    place: tuple[slice, slice]
    is_cut: bool


@typechecked
def look(clip: Float["f h w 3"], fps: int | float = FPS) -> Seen:
    """Measures a clip in [0, 1]."""
    clip = np.asarray(clip, np.float32)
    light = _light(clip)
    day = _smooth(np.clip(clip / np.asarray(LIGHT[light], np.float32), 0, 1), 0.6)
    spots = [_spots(frame) for frame in _objects(day)]
    objects = np.stack([_together(some, day.shape[1:3]) for some in spots])
    place = _place(day, objects)
    shown = np.array([bool(some) for some in spots])
    if shown.sum() < 3:
        return Seen(place=place, light=light)
    whole = [spot for some in spots for spot in some if not spot.is_cut] or [spot for some in spots for spot in some]
    shape = _shape(whole)
    motion, speed = _motion(day, objects, spots, len(clip) / fps)
    return Seen(
        colour=_colour(day[objects]),
        shape=shape,
        motion=motion,
        count=_count(spots),
        size=_size(whole, shape),
        speed=speed,
        place=place,
        light=light,
    )


def _light(clip: Float["f h w 3"]) -> str:
    return "night" if np.median(clip.max(axis=-1)) < 0.34 else "day"


def _objects(day: Float["f h w 3"]) -> Bool["f h w"]:
    top, bottom = day.max(axis=-1), day.min(axis=-1)
    saturation = (top - bottom) / np.maximum(top, 0.15)
    return (saturation > _COLOURFUL) | (top > _BRIGHT)


def _spots(objects: Bool["h w"]) -> list[_Spot]:
    side = len(objects)
    labels, _ = ndimage.label(objects)
    areas = np.bincount(labels.ravel())
    least = max(_LEAST_AREA * objects.size, 0.25 * areas[1:].max(initial=0))
    found = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        if areas[label] < least:
            continue
        outline = labels[rows, columns] == label
        centre = np.mean(np.nonzero(outline), axis=1)[::-1] + 0.5 + (columns.start, rows.start)
        cut = min(rows.start, columns.start) == 0 or max(rows.stop, columns.stop) == side
        box = outline.shape[1] / side, outline.shape[0] / side
        found.append(_Spot(centre / side, box, outline, (rows, columns), cut))
    return found


def _together(spots: list[_Spot], size: tuple[int, int]) -> Bool["h w"]:
    objects = np.zeros(size, bool)
    for spot in spots:
        objects[spot.place] |= spot.outline
    return objects


def _smooth(clip: Float["f h w 3"], pixels: float) -> Float["f h w 3"]:
    return ndimage.gaussian_filter(clip, (0, pixels, pixels, 0))


def _place(day: Float["f h w 3"], objects: Bool["f h w"]) -> str | None:
    """The nearest pair of colours, far and near."""
    height = day.shape[1]
    far, near = slice(0, height // 2), slice(height - height // 8, height)
    grounds = [day[:, rows][~objects[:, rows]] for rows in (far, near)]
    if not all(map(len, grounds)):
        return None
    found = [np.median(ground, axis=0) for ground in grounds]
    return min(GROUND, key=lambda name: np.linalg.norm(GROUND[name] - found))


def _colour(pixels: Float["n 3"]) -> str:
    """The nearest colour, brightness aside."""

    def tone(rgb) -> np.ndarray:
        return np.asarray(rgb, float) / max(*rgb, 1e-6)

    found = tone(np.median(pixels, axis=0))
    return min(RGB, key=lambda name: np.linalg.norm(tone(RGB[name]) - found))


def _count(spots: list[list[_Spot]]) -> int:
    return int(np.median([len(some) for some in spots if some]))


@cache
def _templates() -> tuple[Float["s t t"], Float[" s"]]:
    """Outlines that fill their box, and their areas for a radius of one."""
    steps = (np.arange(200) + 0.5) / 80 - 1.25
    outlines = np.asarray(inside(np.stack(np.meshgrid(steps, steps), axis=-1))) < 0
    boxes = [ndimage.find_objects(outline)[0] for outline in outlines.astype(int)]
    return np.stack([_squared(x[box]) for x, box in zip(outlines, boxes)]), outlines.sum(axis=(1, 2)) / 80**2


def _squared(outline: Bool["h w"]) -> Float["t t"]:
    picture = Image.fromarray(outline.astype(np.float32))
    return np.asarray(picture.resize((_TEMPLATE, _TEMPLATE), Image.Resampling.BILINEAR))


def _shape(spots: list[_Spot]) -> str:
    """Whose outline, in a square box, is nearest to theirs."""
    largest = sorted(spots, key=lambda spot: -spot.outline.size)[: max(len(spots) // 2, 1)]
    mean = np.mean([_squared(spot.outline) for spot in largest], axis=0)
    errors = np.square(_templates()[0] - mean).mean(axis=(1, 2))
    return list(SHAPES)[int(np.argmin(errors))]


def _size(spots: list[_Spot], shape: str) -> str:
    """By the area, which for each shape is another share of the radius squared."""
    share = _templates()[1][list(SHAPES).index(shape)]
    areas = [np.prod(spot.box) * spot.outline.mean() for spot in spots]
    return _nearest(np.sqrt(np.median(areas) / share), RADII)


def _nearest(value: float, table: dict[str, float]) -> str:
    """In ratio."""
    return min(table, key=lambda name: abs(np.log(table[name] / max(value, 1e-6))))


def _motion(
    day: Float["f h w 3"], objects: Bool["f h w"], spots: list[list[_Spot]], seconds: float
) -> tuple[str | None, str | None]:
    """The motion, and its speed where it has one."""
    shown = np.flatnonzero([bool(some) for some in spots])
    if shown[0] > 0.2 * len(spots) and shown[-1] > len(spots) - 3:
        return "appear", None
    clear = [some for some in spots if len(some) == _count(spots)]
    if len(clear) < 3:
        return None, None
    seconds *= len(clear) / len(spots)
    tracks = _tracks(clear)
    ground_moves, growth = _ground_moves(day, objects), _growth(clear)
    if growth > _GREW:
        return ("zoom in" if ground_moves else "grow"), None
    if growth < 1 / _GREW:
        return ("zoom out" if ground_moves else "shrink"), None
    return _pan(tracks) if ground_moves else _way(tracks, seconds)


def _growth(spots: list[list[_Spot]]) -> float:
    """How often larger they are at the end."""
    widths = [np.mean([np.sqrt(np.prod(spot.box)) for spot in some]) for some in spots]
    return np.mean(widths[-3:]) / np.mean(widths[:3])


def _pan(tracks: Float["f k 2"]) -> tuple[str | None, None]:
    """What stands still moves against the camera."""
    way = (tracks[-1] - tracks[0]).mean(axis=0)[0]
    if abs(way) < _MOVED:
        return None, None
    return ("pan left" if way > 0 else "pan right"), None


def _way(tracks: Float["f k 2"], seconds: float) -> tuple[str | None, str | None]:
    """Round and round, up and down, or straight on."""
    path = tracks.mean(axis=1)
    way, walked = path[-1] - path[0], np.abs(np.diff(path, axis=0)).sum(axis=0)
    spread = np.ptp(tracks, axis=0).mean(axis=0)
    if spread.max() < _STILL:
        return None, None
    if spread.min() > 0.5 * spread.max():
        return "orbit", _nearest(_turns(tracks) / seconds, TURNS)
    if spread[1] > spread[0] and abs(way[1]) < 0.85 * walked[1]:
        return "bounce", _nearest(walked[1] / (2 * spread[1]) / seconds, BOUNCES)
    axis = int(np.argmax(np.abs(way)))
    name = (("left", "right"), ("up", "down"))[axis][int(way[axis] > 0)]
    return name, _nearest(abs(way[axis]) / seconds, GOING)


def _tracks(frames: list[list[_Spot]]) -> Float["f k 2"]:
    """Where each object is; in the next frame it is the nearest, all in all."""
    tracks = [np.array([spot.centre for spot in frames[0]])]
    for spots in frames[1:]:
        now = np.array([spot.centre for spot in spots])
        distances = np.square(tracks[-1][:, None] - now).sum(axis=-1)
        tracks.append(now[linear_sum_assignment(distances)[1]])
    return np.stack(tracks)


def _turns(tracks: Float["f k 2"]) -> float:
    """How often they go round the middle of their way."""
    middle = (tracks.max(axis=(0, 1)) + tracks.min(axis=(0, 1))) / 2
    if tracks.shape[1] > 1:
        middle = tracks.mean(axis=(0, 1))
    x, y = np.moveaxis(tracks - middle, -1, 0)
    angles = np.unwrap(np.arctan2(y, x), axis=0)
    return float(np.abs(angles[-1] - angles[0]).mean() / (2 * np.pi))


def _ground_moves(day: Float["f h w 3"], objects: Bool["f h w"]) -> bool:
    """Whether what is ground in two frames a half clip apart looks different."""
    half = len(day) // 2
    moments = [0, half, len(day) - 1]
    soft, changes = _smooth(day[moments], 2.0), []
    for i in (0, 1):
        ground = ~ndimage.binary_dilation(objects[moments[i]] | objects[moments[i + 1]], iterations=5)
        changes.append(np.abs(soft[i] - soft[i + 1])[ground].mean() if ground.any() else 0.0)
    return float(np.mean(changes)) > _GROUND_MOVED
