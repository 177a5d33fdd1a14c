"""Many clips on one small picture."""

import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.shapes.look import Seen
from benchmarks.shapes.world import Truth
from wan_jax.typing import Float

SHOWN = 4  # frames of a clip
_COLUMNS, _SIDE, _TEXT, _GAP = 2, 48, 150, 4  # clips beside one another; pixels
_GOOD, _BAD, _INK, _PAPER = (20, 130, 40), (200, 30, 30), (20, 20, 20), (255, 255, 255)


def write_sheet(
    path: Path, clips: Float["n f h w 3"], truths: Sequence[Truth], seen: Sequence[Seen], most_bytes: int = 150_000
):
    """Writes frames of each clip, what it should show, and whether it does, in at most so many bytes of PNG."""
    rows = -(-len(clips) // _COLUMNS)
    width, height = SHOWN * _SIDE + _TEXT + _GAP, _SIDE + _GAP
    sheet = Image.new("RGB", (_COLUMNS * width, rows * height), _PAPER)
    for i, (clip, truth, one) in enumerate(zip(clips, truths, seen)):
        left, top = i // rows * width, i % rows * height
        sheet.paste(_strip(clip), (left, top))
        _write(ImageDraw.Draw(sheet), left + SHOWN * _SIDE + 6, top, truth, one)
    path.write_bytes(_png(sheet, most_bytes))


def _strip(clip: Float["f h w 3"]) -> Image.Image:
    """Frames evenly spread over the clip, the first and the last among them."""
    shown = np.asarray(clip)[np.linspace(0, len(clip) - 1, SHOWN).round().astype(int)]
    pixels = np.concatenate(list((np.clip(shown, 0, 1) * 255).astype(np.uint8)), axis=1)
    return Image.fromarray(pixels).resize((SHOWN * _SIDE, _SIDE), Image.Resampling.BOX)


def _write(draw: ImageDraw.ImageDraw, left: int, top: int, truth: Truth, seen: Seen):
    """A line for each thing to show: a tick, or a cross and what was seen instead."""
    right = seen.agrees(truth)
    for line, (name, wanted) in enumerate(asdict(truth).items()):
        y, colour = top + 1 + 15 * line, _GOOD if right[name] else _BAD
        points = [(0, 7), (3, 11), (9, 2)] if right[name] else [(0, 2), (8, 11), (4, 6), (8, 2), (0, 11)]
        draw.line([(left + dx, y + dy) for dx, dy in points], fill=colour, width=2)
        text = wanted if right[name] else f"{wanted}, not {getattr(seen, name) or 'to be seen'}"
        draw.text((left + 14, y), text, fill=_INK if right[name] else _BAD, font=ImageFont.load_default(11))


def _png(picture: Image.Image, most_bytes: int) -> bytes:
    """The picture with shades as fine as the size allows.  A palette made to measure would lose the small shapes."""
    for step in (1, 8, 16, 32, 64):
        file = io.BytesIO()
        coarse = picture.point(lambda value, step=step: min(round(value / step) * step, 255))
        coarse.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if file.tell() <= most_bytes:
            break
    return file.getvalue()
