"""What a clip of the little world shows, and how people say it, in English and in Chinese.

Whatever is usual goes unsaid: one object, of medium size, plain, at medium speed, in a studio, by day.
"""

import itertools
from dataclasses import dataclass

import numpy as np

COLOURS = {
    "red": "红",
    "orange": "橙",
    "yellow": "黄",
    "green": "绿",
    "cyan": "青",
    "blue": "蓝",
    "purple": "紫",
    "white": "白",
}
SHAPES = {
    "ball": ("balls", "球"),
    "cube": ("cubes", "方块"),
    "cone": ("cones", "圆锥"),
    "star": ("stars", "星星"),
    "ring": ("rings", "圆环"),
}
COUNTS = {1: ("a", "一个"), 2: ("two", "两个"), 3: ("three", "三个")}
SIZES = {"small": ("small", "小"), "medium": ("", ""), "large": ("large", "大")}
TEXTURES = {"plain": ("", ""), "striped": ("striped", "条纹"), "spotted": ("spotted", "斑点")}
SPEEDS = {
    "slow": (("slowly",), ("慢慢地", "缓慢地")),
    "normal": (("",), ("",)),
    "fast": (("quickly", "fast"), ("快速地", "飞快地")),
}
PLACES = {
    "studio": ("", ""),
    "grass": ("on green grass", "在绿色草地上"),
    "sand": ("on yellow sand", "在黄色沙滩上"),
    "wood": ("on a wooden floor", "在木地板上"),
    "sea": ("over the blue sea", "在蓝色大海上"),
}
LIGHTS = {"day": ("", ""), "night": ("at night", "夜晚")}


@dataclass(frozen=True)
class Motion:
    """How a motion is said: verbs as (infinitive, participle), what follows, and Chinese."""

    verbs: tuple[tuple[str, str], ...]
    ways: tuple[str, ...]
    chinese: tuple[str, ...]
    has_speed: bool = True
    has_size: bool = True  # whether the object keeps its size in the picture


_GO = (("move", "moving"), ("slide", "sliding"), ("drift", "drifting"))
_REST = (("stay still", "staying still"), ("rest", "resting"))
_CAMERA = {"has_speed": False}
MOTIONS = {
    "left": Motion(_GO, ("to the left", "left"), ("向左移动", "往左滑动")),
    "right": Motion(_GO, ("to the right", "right"), ("向右移动", "往右滑动")),
    "up": Motion((*_GO, ("rise", "rising")), ("up", "upwards"), ("向上移动", "往上升")),
    "down": Motion((*_GO, ("sink", "sinking")), ("down", "downwards"), ("向下移动", "往下落")),
    "bounce": Motion((("bounce", "bouncing"), ("hop", "hopping")), ("", "up and down"), ("弹跳", "上下跳动")),
    "orbit": Motion(
        (("orbit", "orbiting"), ("circle", "circling")), ("around the centre", "clockwise"), ("绕圈转动", "顺时针转圈")
    ),
    "grow": Motion((("grow", "growing"),), ("", "bigger"), ("变大", "渐渐长大"), False, False),
    "shrink": Motion((("shrink", "shrinking"),), ("", "away"), ("变小", "渐渐缩小"), False, False),
    "appear": Motion((("appear", "appearing"),), ("", "suddenly"), ("突然出现", "出现"), False),
    "pan left": Motion(_REST, ("while the camera pans left",), ("静止不动，镜头向左移",), **_CAMERA),
    "pan right": Motion(_REST, ("while the camera pans right",), ("静止不动，镜头向右移",), **_CAMERA),
    "zoom in": Motion(_REST, ("while the camera zooms in",), ("静止不动，镜头拉近",), False, False),
    "zoom out": Motion(_REST, ("while the camera zooms out",), ("静止不动，镜头拉远",), False, False),
}


@dataclass(frozen=True)
class Truth:
    """What a clip shows."""

    colour: str
    shape: str
    motion: str
    count: int = 1
    size: str = "medium"
    texture: str = "plain"
    speed: str = "normal"
    place: str = "studio"
    light: str = "day"


COMBINATIONS = tuple(itertools.product(COLOURS, SHAPES, MOTIONS))


def is_held_out(colour: str, shape: str, motion: str) -> bool:
    """Whether no training clip may show these three together: a fifth of all, but no colour, shape, motion or pair."""
    places = list(COLOURS).index(colour), list(SHAPES).index(shape), list(MOTIONS).index(motion)
    return sum(places) % 5 == 0


def draw_truth(rng: np.random.Generator, held_out: bool = False) -> Truth:
    """A random clip of the training world, or of what is kept out of it."""
    choices = [each for each in COMBINATIONS if is_held_out(*each) == held_out]
    colour, shape, motion = choices[rng.integers(len(choices))]
    how = MOTIONS[motion]
    return Truth(
        colour,
        shape,
        motion,
        count=int(rng.choice(list(COUNTS), p=(0.6, 0.25, 0.15))),
        size=str(rng.choice(list(SIZES))) if how.has_size else "medium",
        texture=str(rng.choice(list(TEXTURES), p=(0.6, 0.2, 0.2))),
        speed=str(rng.choice(list(SPEEDS))) if how.has_speed else "normal",
        place=str(rng.choice(list(PLACES))),
        light=str(rng.choice(list(LIGHTS), p=(0.75, 0.25))),
    )


def caption(truth: Truth, rng: np.random.Generator, chinese: bool = False) -> str:
    """One of the ways to say it."""
    return _chinese(truth, rng) if chinese else _english(truth, rng)


def _english(truth: Truth, rng: np.random.Generator) -> str:
    many = truth.count > 1
    object = SHAPES[truth.shape][0] if many else truth.shape
    adjectives = SIZES[truth.size][0], TEXTURES[truth.texture][0], truth.colour
    article = COUNTS[truth.count][0]
    if article == "a" and next(filter(None, adjectives))[0] in "aeiou":
        article = "an"
    noun = _join(article, *adjectives, object)
    motion = MOTIONS[truth.motion]
    verb, participle = motion.verbs[rng.integers(len(motion.verbs))]
    first, *rest = verb.split()
    verb = verb if many else _join(first + "s", *rest)
    way, speed = rng.choice(motion.ways), rng.choice(SPEEDS[truth.speed][0])
    before, after = ("", speed) if speed == "fast" or rng.random() < 0.5 else (speed, "")
    place, light = PLACES[truth.place][0], LIGHTS[truth.light][0]
    forms = (
        _join(noun, before, verb, way, after, place, light),
        _sentence(noun, before, verb, way, after, place, light),
        _join(noun, before, participle, way, after, place, light),
        _sentence(f"{place}," if place else "", noun, before, verb, way, after, light),
        _join("a video of", noun, before, participle, way, after, place, light),
    )
    return forms[rng.integers(len(forms))]


def _chinese(truth: Truth, rng: np.random.Generator) -> str:
    noun = SHAPES[truth.shape][1]
    size, texture, colour = SIZES[truth.size][1], TEXTURES[truth.texture][1], COLOURS[truth.colour]
    count = COUNTS[truth.count][1]
    object = (
        f"{count}{size}{colour}色{texture}{noun}",
        f"{count}{colour}色的{size}{texture}{noun}",
    )[rng.integers(2)]
    motion = rng.choice(MOTIONS[truth.motion].chinese)
    speed = rng.choice(SPEEDS[truth.speed][1])
    place, light = PLACES[truth.place][1], LIGHTS[truth.light][1]
    forms = (
        f"{light}{'，' if light else ''}{object}{place}{speed}{motion}",
        f"{light}{place}{'，' if light or place else ''}{object}{speed}{motion}。",
    )
    return forms[rng.integers(len(forms))]


def _join(*words: str) -> str:
    return " ".join(filter(None, words))


def _sentence(*words: str) -> str:
    text = _join(*words)
    return f"{text[0].upper()}{text[1:]}."
