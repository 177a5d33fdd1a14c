"""Many clips on one small picture, each with what it should show and whether it does."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wan_jax.typing import Float
from wan_jax.video_io import atomic
from wan_jax.world.look import Seen
from wan_jax.world.words import Truth

SHOWN = 5  # frames of a clip
_COLUMNS, _SIDE, _TEXT, _GAP, _LINE = 2, 64, 150, 4, 14  # clips beside one another; pixels
_GOOD, _BAD, _INK, _PAPER = (20, 130, 40), (200, 30, 30), (20, 20, 20), (255, 255, 255)


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


def _strip(clip: Float["f h w 3"]) -> Image.Image:
    """Frames evenly spread over the clip, the first and the last among them."""
    shown = np.asarray(clip)[np.linspace(0, len(clip) - 1, SHOWN).round().astype(int)]
    pixels = np.concatenate(list((np.clip(shown, 0, 1) * 255).astype(np.uint8)), axis=1)
    return Image.fromarray(pixels).resize((SHOWN * _SIDE, _SIDE), Image.Resampling.BOX)


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
