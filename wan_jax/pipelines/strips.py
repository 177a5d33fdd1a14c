"""A picture for the eye: frames of a few clips before and after the autoencoder, and what differs."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wan_jax.typing import Float

SHOWN = (0, 4, 16, 64)  # frames of a clip, as far as it goes; the first is encoded by itself
_AMPLIFIED = 4
_ROWS = ("source", "reconstruction", f"difference x{_AMPLIFIED}")
_WIDEST = 480  # pixels of a frame; larger ones are scaled down
_HEAD, _SIDE, _GAP = 18, 100, 4  # pixels for the title, for the names of rows, and between frames
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


@dataclass
class Strip:
    """Frames of one clip, small enough to be kept: columns of source, reconstruction and difference."""

    title: str = ""
    columns: list[tuple[Image.Image, ...]] = field(default_factory=list)

    def add(self, before: Float["h w 3"], after: Float["h w 3"]):
        """Adds a frame in [0, 1]."""
        difference = np.minimum(np.abs(before - after) * _AMPLIFIED, 1)
        self.columns.append(tuple(map(_small, (before, after, difference))))


def draw_strips(strips: Sequence[Strip]) -> bytes:
    """All strips, one below the other, as a PNG file."""
    pictures = [_draw(strip) for strip in strips]
    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), _PAPER)
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _draw(strip: Strip) -> Image.Image:
    width, height = (side + _GAP for side in strip.columns[0][0].size)
    picture = Image.new("RGB", (_SIDE + len(strip.columns) * width, _HEAD + len(_ROWS) * height + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    # The font that comes with Pillow knows Latin letters only.
    pen.text((_GAP, 2), strip.title.encode("ascii", "replace").decode(), fill=_INK, font=font)
    for row, name in enumerate(_ROWS):
        top = _HEAD + row * height
        pen.text((_GAP, top), name, fill=_INK, font=font)
        for column, frames in enumerate(strip.columns):
            picture.paste(frames[row], (_SIDE + column * width, top))
    return picture


def _small(frame: Float["h w 3"]) -> Image.Image:
    picture = Image.fromarray(np.round(frame * 255).astype(np.uint8))
    if picture.width <= _WIDEST:
        return picture
    return picture.resize((_WIDEST, max(picture.height * _WIDEST // picture.width, 1)), Image.Resampling.BOX)
