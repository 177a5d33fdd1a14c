"""The little world of benchmarks/shapes: what is drawn is what is measured, and what is held out is never drawn."""

from itertools import combinations

import numpy as np

from benchmarks.shapes.look import Seen, look
from benchmarks.shapes.measure import rendered
from benchmarks.shapes.world import (
    COLOURS,
    DIRECTIONS,
    EVERYTHING,
    SHAPES,
    Truth,
    held_out_captions,
    is_held_out,
    training_clips,
)


def said(caption: str) -> Truth:
    """The truth, read from a caption's words alone."""
    [colour] = [name for name, (_, chinese) in COLOURS.items() if name in caption or chinese in caption]
    [shape] = [name for name, chinese in SHAPES.items() if name in caption or chinese in caption]
    words = caption.lower().replace(":", "").replace(".", "").split()
    [direction] = [name for name, (_, _, chinese) in DIRECTIONS.items() if name in words or chinese in caption]
    return Truth(colour, shape, direction)


def test_training_clips_show_what_their_captions_say():
    clips = list(training_clips(60))
    assert [truth for _, _, truth in clips] == [said(caption) for _, caption, _ in clips]
    for frames, caption, truth in clips:
        assert all(look(frames.astype(np.float32) / 255).agrees(truth).values()), caption
    assert not any(is_held_out(truth) for _, _, truth in clips)


def test_held_out_combinations():
    held_out = {truth for truth in EVERYTHING if is_held_out(truth)}
    trained = set(EVERYTHING) - held_out
    assert len(held_out) == 24
    # No colour, shape, direction or pair of them is new.
    for pair in combinations(("colour", "shape", "direction"), 2):
        seen = {tuple(getattr(truth, name) for name in pair) for truth in trained}
        assert seen == {tuple(getattr(truth, name) for name in pair) for truth in EVERYTHING}
    captions = held_out_captions(50)
    assert {truth for _, truth in captions} == held_out
    assert all(said(caption) == truth for caption, truth in captions)
    assert max(len(caption.encode()) for caption, _ in captions) <= 80


def test_measuring_fails_on_wrong_captions():
    right, dealt = rendered(72, seed=3)
    assert min(right.values()) >= 0.99
    assert dealt["colour"] < 0.35 and dealt["direction"] < 0.45 and dealt["colour and direction"] < 0.15


def test_a_clip_that_shows_nothing_is_not_right():
    noise = np.random.default_rng(0).random((17, 64, 64, 3), np.float32)
    assert look(np.full((17, 64, 64, 3), 0.2, np.float32)) == Seen()
    assert look(noise).direction is None
    still = np.zeros((17, 64, 64, 3), np.float32)
    still[:, 20:36, 20:36] = (0.9, 0.1, 0.1)
    assert look(still) == Seen("red", "square", None)
