"""The little world: what is said, what is drawn, and what is seen agree."""

import itertools

import numpy as np
import pytest

from wan_jax.data.build import build
from wan_jax.data.contents import Frames
from wan_jax.data.loader import Dataset
from wan_jax.data.sources import Mix, open_source, open_sources
from wan_jax.data.worlds import World
from wan_jax.errors import WanError
from wan_jax.world import words
from wan_jax.world.look import MEASURED, look
from wan_jax.world.render import render
from wan_jax.world.scene import RADII, RGB, stage
from wan_jax.world.words import COLOURS, COMBINATIONS, MOTIONS, SHAPES, Truth, caption, draw_truth, is_held_out

CLIPS = 48


def clip(truth: Truth, seed: int = 0, frames: int = 33, side: int = 128) -> np.ndarray:
    return np.asarray(render(stage(truth, np.random.default_rng(seed), frames), side)).astype(np.float32) / 255


@pytest.fixture(scope="module")
def seen():
    """Truths of both kinds, and what their clips show."""
    rng = np.random.default_rng(0)
    truths = [draw_truth(rng, held_out=bool(i % 2)) for i in range(CLIPS)]
    return truths, [look(clip(truth, seed)) for seed, truth in enumerate(truths)]


def test_what_is_held_out():
    kept = [each for each in COMBINATIONS if not is_held_out(*each)]
    assert len(kept) == 4 / 5 * len(COMBINATIONS)
    for some in itertools.combinations((COLOURS, SHAPES, MOTIONS), 2):
        places = [(COLOURS, SHAPES, MOTIONS).index(table) for table in some]
        assert {tuple(each[i] for i in places) for each in kept} == set(itertools.product(*some))
    rng = np.random.default_rng(0)
    for held_out in (False, True):
        drawn = [draw_truth(rng, held_out) for _ in range(100)]
        assert {is_held_out(truth.colour, truth.shape, truth.motion) for truth in drawn} == {held_out}


def test_a_caption_has_one_meaning():
    """Two clips that are told alike are alike."""
    rng, meaning = np.random.default_rng(1), {}
    for _ in range(4000):
        truth = draw_truth(rng, held_out=bool(rng.integers(2)))
        for chinese in (False, True):
            text = caption(truth, rng, chinese)
            assert text.isascii() != chinese and "  " not in text
            assert meaning.setdefault(text, truth) == truth


def test_what_is_seen_is_what_was_drawn(seen):
    truths, found = seen
    right = [value for truth, one in zip(truths, found) for value in one.agrees(truth).values()]
    assert len(right) > 6 * CLIPS and np.mean(right) >= 0.99


def test_with_captions_of_others_it_is_chance(seen):
    truths, found = seen
    for name in MEASURED:
        values = [getattr(truth, name) for truth in truths]
        chance = sum((values.count(value) / len(values)) ** 2 for value in set(values))
        pairs = [one.agrees(truth).get(name) for one in found for truth in truths]
        share = np.mean([right for right in pairs if right is not None])
        assert share < chance + 0.15, name


@pytest.mark.parametrize("shape, share", [("ball", np.pi), ("cube", 4 * 0.86**2), ("ring", np.pi * (1 - 0.5**2))])
def test_areas(shape, share):
    """Of their formulas, whatever the camera does."""
    for motion, seed in (("left", 3), ("pan right", 4)):
        truth = Truth("red", shape, motion, size="large")
        radius = float(stage(truth, np.random.default_rng(seed), 5).radii.max())
        assert radius == pytest.approx(RADII["large"], rel=0.051)
        red = clip(truth, seed, frames=5, side=256)[..., 0] > 0.6
        np.testing.assert_allclose(red.mean(axis=(1, 2)), share * radius**2, rtol=0.02)


def test_a_clip_has_its_colour_in_every_light():
    for colour, light in itertools.product(("orange", "white"), words.LIGHTS):
        one = look(clip(Truth(colour, "ball", "right", light=light), frames=9))
        assert (one.colour, one.light) == (colour, light)
    assert set(RGB) == set(COLOURS)


def test_as_training_data(tmp_path):
    source = open_source("world:40:3", sizes=[(32, 32)], lengths=[5], validation=4)
    items, skipped = source.split()
    assert {split: len(numbers) for split, numbers in items.items()} == {"train_32x32x5": 36, "validation_32x32x5": 4}
    records = [source.read("train_32x32x5", item) for item in items["train_32x32x5"]]
    again = open_source("world:40:3", sizes=[(32, 32)], lengths=[5], validation=4).read("train_32x32x5", 7)
    assert (again.id, again.caption) == (records[7].id, records[7].caption) and not skipped
    np.testing.assert_array_equal(again.frames, records[7].frames)
    assert again.frames.shape == (5, 32, 32, 3) and again.frames.dtype == np.uint8
    assert len({record.caption for record in records}) > 30 and len({record.id for record in records}) == 36
    other = open_source("world:40:4", sizes=[(32, 32)], lengths=[5], validation=4)
    assert other.identity() != source.identity() and other.read("train_32x32x5", 7).caption != again.caption


@pytest.mark.parametrize(
    "src, options, message",
    [
        ("world:many", {}, "is not world:COUNT"),
        ("world:3", {"validation": 3}, "leaves none to train on"),
        ("world:9", {"fps": 24.0}, "--fps: world:9 has its own"),
        ("world:9", {"sizes": [(64, 32)]}, "as high as wide"),
        ("world:9", {"lengths": [5, 9]}, "one length"),
    ],
)
def test_bad_worlds_are_refused(src, options, message):
    with pytest.raises(WanError, match=message):
        open_source(src, **options)


@pytest.mark.parametrize("kind", ["noise", "black", "white", "one frame"])
def test_anything_can_be_looked_at(kind):
    rng = np.random.default_rng(0)
    videos = {
        "noise": rng.random((9, 64, 64, 3)),
        "black": np.zeros((9, 64, 64, 3)),
        "white": np.ones((9, 64, 64, 3)),
        "one frame": rng.random((1, 64, 64, 3)),
    }
    assert look(videos[kind].astype(np.float32), fps=24).motion in (None, *MOTIONS)


def test_mixed_with_other_clips(tmp_path):
    """A dataset of frames beside a world that has another length."""
    one = build(open_source("world:6", sizes=[(32, 32)], lengths=[5], validation=2), Frames(), tmp_path / "one")
    assert list(one["splits"]) == ["train_32x32x5", "validation_32x32x5"]
    both = build(open_sources([str(tmp_path / "one"), str(tmp_path / "one")]), Frames(), tmp_path / "two")
    assert {split: entry["clips"] for split, entry in both["splits"].items()} == {
        "train_32x32x5": 8,
        "validation_32x32x5": 4,
    }
    source, twice = (Dataset(tmp_path / name).source("train_32x32x5") for name in ("one", "two"))
    for i in range(8):
        np.testing.assert_array_equal(twice[i]["frames"], source[i % 4]["frames"])
    with pytest.raises(WanError, match=r"clips of 8\.0 and 16 frames/s cannot be mixed"):
        Mix([World(4), World(4, fps=8.0)])
