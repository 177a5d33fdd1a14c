"""Pictures that a video is conditioned on: read from whatever the user has, and fitted by each model's own rule."""

import math
import os
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wan_jax.errors import WanError
from wan_jax.typing import Float, UInt8, typechecked

_CUBIC = -0.75  # PyTorch's choice in bicubic interpolation; Pillow has -0.5


def read_image(image: Any, name: str = "image") -> UInt8["h w 3"]:
    """The pixels of a file, a PIL image, or an array [h w 3] of uint8 or of floats in [0, 1].

    Raises:
        WanError: it is none of these, or cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        try:
            with Image.open(image) as file:
                return np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise WanError(f"{name}: cannot read {os.fspath(image)}: {error}") from error
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise WanError(f"{name}: expected a file, a PIL image or an array [height, width, 3], not {pixels.shape}")
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating) or not (pixels.min() >= 0 and pixels.max() <= 1):
        raise WanError(f"{name}: an array must hold uint8, or floats between 0 and 1")
    return np.round(pixels * 255).astype(np.uint8)


def size_of_area(height: int, width: int, area: int, unit: int) -> tuple[int, int]:
    """The height and width of about an image's shape and at most this area, in units (Wan2.2, wan/image2video.py)."""
    ratio = height / width
    tall, wide = math.sqrt(area * ratio), math.sqrt(area / ratio)
    return max(int(tall // unit), 1) * unit, max(int(wide // unit), 1) * unit


def best_size_of_area(height: int, width: int, area: int, unit: int) -> tuple[int, int]:
    """Of two ways to round the one whose shape is nearer the image's (Wan2.2, wan/utils/utils.py, best_output_size)."""
    ratio = width / height
    wide, tall = math.sqrt(area * ratio), math.sqrt(area / ratio)
    width_1 = max(int(wide // unit), 1) * unit
    height_1 = max(int(area / width_1 // unit), 1) * unit
    height_2 = max(int(tall // unit), 1) * unit
    width_2 = max(int(area / height_2 // unit), 1) * unit

    def stretch(height: int, width: int) -> float:
        return max(ratio / (width / height), width / height / ratio)

    first = stretch(height_1, width_1) < stretch(height_2, width_2)
    return (height_1, width_1) if first else (height_2, width_2)


@typechecked
def stretch(image: UInt8["h w 3"], height: int, width: int) -> Float["i j 3"]:
    """In [-1, 1], in this size, whatever its shape was: bicubic without smoothing, as PyTorch has it."""
    rows, columns = _cubic(image.shape[0], height), _cubic(image.shape[1], width)
    return np.einsum("ih,jw,hwc->ijc", rows, columns, signed(image), optimize=True)


@typechecked
def cover(image: UInt8["h w 3"], height: int, width: int) -> Float["i j 3"]:
    """In [-1, 1], in this size, scaled (Lanczos) to cover it and then cropped to its middle."""
    picture = Image.fromarray(image)
    scale = max(width / picture.width, height / picture.height)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return signed(np.asarray(picture.crop((left, top, left + width, top + height))))


@typechecked
def resize(image: UInt8["h w 3"], height: int, width: int) -> UInt8["i j 3"]:
    """In this size, whatever its shape was: Lanczos, as Diffusers has it."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def signed(pixels: UInt8["*b 3"]) -> Float["*b 3"]:
    """Bytes to [-1, 1], rounded where the official code rounds."""
    return (pixels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def _cubic(before: int, after: int) -> Float["i h"]:
    """The matrix that interpolates `after` points from `before`; beyond the ends these are repeated."""
    centres = (np.arange(after) + 0.5) * before / after - 0.5
    weights = np.zeros((after, before))
    for tap in range(-1, 3):
        at = np.floor(centres) + tap
        distance = np.abs(centres - at)
        near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
        far = ((distance - 5) * distance + 8) * distance * _CUBIC - 4 * _CUBIC
        np.add.at(
            weights,
            (np.arange(after), np.clip(at, 0, before - 1).astype(int)),
            np.where(distance <= 1, near, np.where(distance < 2, far, 0.0)),
        )
    return weights.astype(np.float32)
