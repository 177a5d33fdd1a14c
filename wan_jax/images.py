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
                return _pixels(file, name)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise WanError(f"{name}: cannot read {os.fspath(image)}: {error}") from error
    if isinstance(image, Image.Image):
        return _pixels(image, name)
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise WanError(f"{name}: expected a file, a PIL image or an array [height, width, 3], not {pixels.shape}")
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating) or not (pixels.min() >= 0 and pixels.max() <= 1):
        raise WanError(f"{name}: an array must hold uint8, or floats between 0 and 1")
    return np.round(pixels * 255).astype(np.uint8)


def _pixels(image: Image.Image, name: str) -> UInt8["h w 3"]:
    """Upright, and on white where it is transparent."""
    if (count := getattr(image, "n_frames", 1)) > 1:
        raise WanError(
            f"{name}: {getattr(image, 'filename', 'it')} is animated ({count} frames); give a single picture"
        )
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


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


def size_within_area(height: int, width: int, area: int, unit: int) -> tuple[int, int]:
    """The same by VACE's rule, which enlarges nothing (VACE, vace/models/utils/preprocessor.py)."""
    units = max(min(area / unit**2, (height // unit) * (width // unit)), 1)
    rows = max(round(math.sqrt(int(units) * height / width)), 1)
    return rows * unit, max(int(int(units) / rows), 1) * unit


@typechecked
def stretch(image: UInt8["h w 3"], height: int, width: int) -> Float["i j 3"]:
    """In [-1, 1], in this size, whatever its shape was: bicubic without smoothing, as PyTorch has it."""
    rows, columns = _cubic(image.shape[0], height), _cubic(image.shape[1], width)
    return np.einsum("ih,jw,hwc->ijc", rows, columns, signed(image), optimize=True)


@typechecked
def cover(image: UInt8["h w 3"], height: int, width: int) -> Float["i j 3"]:
    """In [-1, 1], in this size, scaled (Lanczos) to cover it and then cropped to its middle."""
    return signed(crop(image, height, width, Image.Resampling.LANCZOS))


@typechecked
def crop(
    image: UInt8["h w 3"], height: int, width: int, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> UInt8["i j 3"]:
    """The middle of a picture, scaled so that it just covers the size; VACE's rule for the frames of videos.

    VACE, vace/models/utils/preprocessor.py, where PyTorch's bicubic with smoothing stands for Pillow's.
    """
    if image.shape[:2] == (height, width):
        return image
    picture = Image.fromarray(image)
    scale = max(width / picture.width, height / picture.height)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), resample)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return np.asarray(picture.crop((left, top, left + width, top + height)))


@typechecked
def on_white(image: UInt8["h w 3"], height: int, width: int) -> Float["i j 3"]:
    """In [-1, 1], as large as fits, on the middle of a white sheet; VACE's rule for references.

    Bilinear without smoothing, as PyTorch has it (VACE, vace/models/wan/wan_vace.py, prepare_source).
    """
    sheet = np.ones((height, width, 3), np.float32)
    scale = min(height / image.shape[0], width / image.shape[1])
    rows, columns = max(int(image.shape[0] * scale), 1), max(int(image.shape[1] * scale), 1)
    pixels = image.astype(np.float32) / np.float32(127.5) - 1
    top, left = (height - rows) // 2, (width - columns) // 2
    sheet[top : top + rows, left : left + columns] = np.einsum(
        "ih,jw,hwc->ijc", _linear(image.shape[0], rows), _linear(image.shape[1], columns), pixels, optimize=True
    )
    return sheet


def _linear(before: int, after: int) -> Float["i h"]:
    """As `_cubic`, of two points each."""
    centres = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
    low = np.floor(centres).astype(int)
    weights = np.zeros((after, before))
    np.add.at(weights, (np.arange(after), low), 1 - (centres - low))
    np.add.at(weights, (np.arange(after), np.minimum(low + 1, before - 1)), centres - low)
    return weights.astype(np.float32)


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
