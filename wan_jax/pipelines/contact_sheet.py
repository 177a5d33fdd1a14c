"""Videos as pictures: the frames of one, or many clips, each with what it should show and whether it does."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wan_jax.typing import Float, UInt8
from wan_jax.video_io import atomic
from wan_jax.world.look import Seen
from wan_jax.world.words import Truth

SHOWN = 5  # frames of a clip
PAIRED = 12  # frames of one before and after
_COLUMNS, _SIDE, _TEXT, _GAP, _LINE = 2, 64, 150, 4, 14  # clips beside one another; pixels
_GRID, _WIDEST = (2, 4), 320  # rows and columns of one video's frames; pixels of a frame
SHEET = _GRID[0] * _GRID[1]  # frames of one video
_GOOD, _BAD, _INK, _PAPER = (20, 130, 40), (200, 30, 30), (20, 20, 20), (255, 255, 255)


def write_frames(path: Path, clip: Float["f h w 3"]):
    """Writes a PNG of up to eight frames in [0, 1], evenly spread over the clip, row by row."""
    rows, columns = _GRID
    frames = _spread(clip, min(len(clip), SHEET))
    height, width = frames.shape[1:3]
    size = min(width, _WIDEST), max(round(height * min(1, _WIDEST / width)), 1)
    rows, columns = -(-len(frames) // columns), min(len(frames), columns)
    sheet = Image.new("RGB", (columns * (size[0] + _GAP) - _GAP, rows * (size[1] + _GAP) - _GAP), _PAPER)
    for i, frame in enumerate(frames):
        picture = Image.fromarray(frame).resize(size, Image.Resampling.BOX)
        sheet.paste(picture, (i % columns * (size[0] + _GAP), i // columns * (size[1] + _GAP)))
    with atomic(path) as temporary:
        sheet.save(temporary, "PNG")


def write_contact_sheet(path: Path, clips: Sequence[Float["f h w 3"]], truths: Sequence[Truth], seen: Sequence[Seen]):
    """Writes a PNG: frames of each clip in [0, 1], what it should show, and in red what was seen instead."""
    rows = -(-len(clips) // _COLUMNS)
    width, height = SHOWN * _SIDE + _TEXT + _GAP, _SIDE + _GAP
    sheet = Image.new("RGB", (_COLUMNS * width, rows * height), _PAPER)
    for i, (clip, truth, one) in enumerate(zip(clips, truths, seen)):
        left, top = i // rows * width, i % rows * height
        sheet.paste(_strip(clip), (left, top))
        _write(ImageDraw.Draw(sheet), left + SHOWN * _SIDE + 6, top, truth, one)
    file = io.BytesIO()
    sheet.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    with atomic(path) as temporary:
        temporary.write_bytes(file.getvalue())


def write_pairs(path: Path, pairs: Sequence[tuple[str, Float["f h w 3"], Float["f h w 3"]]]):
    """Writes a PNG: a line of text, frames of what a model was given, and below them those of what it made of it."""
    height = _LINE + 2 * (_SIDE + _GAP)
    sheet = Image.new("RGB", (PAIRED * _SIDE, len(pairs) * height), _PAPER)
    for i, (text, given, made) in enumerate(pairs):
        top = i * height
        ImageDraw.Draw(sheet).text((0, top), text, fill=_INK, font=ImageFont.load_default(11))
        for row, clip in enumerate((given, made)):
            sheet.paste(_strip(clip, PAIRED), (0, top + _LINE + 2 + row * (_SIDE + 1)))
    with atomic(path) as temporary:
        sheet.save(temporary, "PNG", optimize=True)


def _strip(clip: Float["f h w 3"], count: int = SHOWN) -> Image.Image:
    pixels = np.concatenate(list(_spread(clip, count)), axis=1)
    return Image.fromarray(pixels).resize((count * _SIDE, _SIDE), Image.Resampling.BOX)


def _spread(clip: Float["f h w 3"], count: int) -> UInt8["n h w 3"]:
    """Frames evenly spread over the clip, the first and the last among them."""
    shown = np.asarray(clip)[np.linspace(0, len(clip) - 1, count).round().astype(int)]
    return (np.clip(shown, 0, 1) * 255).astype(np.uint8)


def _write(draw: ImageDraw.ImageDraw, left: int, top: int, truth: Truth, seen: Seen):
    """What to show in two lines, and then a line for each thing that is not seen."""
    font, wrong = ImageFont.load_default(11), [name for name, right in seen.agrees(truth).items() if not right]
    what = " ".join(filter(None, (str(truth.count), truth.size, truth.colour, truth.shape)))
    how = " ".join(filter(None, (truth.motion, truth.speed, truth.place, truth.light)))
    lines = [(what, _INK), (how, _INK)] + [(f"{name}: {getattr(seen, name)}", _BAD) for name in wrong]
    for line, (text, colour) in enumerate(lines[: _SIDE // _LINE]):
        draw.text((left, top + line * _LINE), text, fill=colour, font=font)
    if not wrong:
        y = top + 2 * _LINE
        draw.line([(left, y + 7), (left + 3, y + 11), (left + 9, y + 2)], fill=_GOOD, width=2)
