"""Frames and masks for the common tasks of a VACE model, made of arrays: `pipe(prompt, video=…, mask=…)`.

Every builder returns a `Canvas`; VACE's own are vace/annotators/{frameref,inpainting,outpainting,gray,layout,maskaug}.
Depth, pose, flow and scribbles come from networks of others: their videos go through `follow` as any control does.
"""

from collections.abc import Sequence

import numpy as np

from wan_jax.errors import WanError
from wan_jax.typing import Bool, Float, UInt8, typechecked
from wan_jax.vcu import GREY, Canvas

Box = tuple[int, int, int, int]  # left, top, width, height, in pixels
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def unit(frames: np.ndarray) -> Float["f h w 3"]:
    """Frames as floats in [0, 1]."""
    return frames.astype(np.float32) / np.float32(255) if frames.dtype == np.uint8 else frames.astype(np.float32)


# ---- Tasks ----------------------------------------------------------------------------------------------------------


def follow(control: np.ndarray) -> Canvas:
    """All is generated after a control video: grey, depth, pose, layout, …"""
    return Canvas(unit(control), np.ones(control.shape[:3], bool))


def repaint(video: np.ndarray, mask: Bool["f h w"]) -> Canvas:
    """What the mask covers is painted anew; the rest is kept."""
    return Canvas(np.where(mask[..., None], np.float32(GREY), unit(video)), mask)


def outpaint(video: np.ndarray, height: int, width: int, left: int, top: int) -> Canvas:
    """The video, kept, on a larger canvas; around it all is generated.

    Raises:
        WanError: it does not fit there.
    """
    count, h, w, _ = video.shape
    if min(left, top) < 0 or left + w > width or top + h > height:
        raise WanError(f"a video of {w}x{h} at {left},{top} does not lie on {width}x{height}")
    canvas = Canvas.blank(count, height, width)
    canvas.frames[:, top : top + h, left : left + w] = unit(video)
    canvas.mask[:, top : top + h, left : left + w] = False
    return canvas


def keep_frames(count: int, *pieces: tuple[int, np.ndarray]) -> Canvas:
    """A clip of `count` frames of which pieces (number of their first frame, frames) are given; the rest is generated.

    With the beginning it continues a video, with the end it leads up to one, with both it joins them; the pieces may be
    single frames.

    Raises:
        WanError: pieces overlap, reach beyond the clip or differ in size.
    """
    sizes = {piece.shape[1:] for _, piece in pieces}
    if len(sizes) != 1:
        raise WanError(f"the pieces of a clip differ in size: {', '.join(f'{w}x{h}' for h, w, _ in sorted(sizes))}")
    ((height, width, _),) = sizes
    canvas = Canvas.blank(count, height, width)
    for start, piece in pieces:
        stop = start + len(piece)
        if start < 0 or stop > count or not canvas.mask[start:stop].all():
            raise WanError(f"frames {start} to {stop - 1} are not free in a clip of {count} frames")
        canvas.frames[start:stop] = unit(piece)
        canvas.mask[start:stop] = False
    return canvas


def first_last(first: UInt8["h w 3"] | None, last: UInt8["h w 3"] | None, count: int) -> Canvas:
    """A clip between two pictures, or from the first, or up to the last."""
    ends = [(0, first), (count - 1, last)]
    return keep_frames(count, *((at, picture[None]) for at, picture in ends if picture is not None))


# ---- Masks and controls ---------------------------------------------------------------------------------------------


def box_mask(count: int, height: int, width: int, box: Box) -> Bool["f h w"]:
    """The inside of a box, in every frame.

    Raises:
        WanError: the box does not lie in the frame.
    """
    left, top, w, h = box
    if min(left, top) < 0 or min(w, h) < 1 or left + w > width or top + h > height:
        raise WanError(f"box {left},{top},{w},{h} does not lie in frames of {width}x{height}")
    mask = np.zeros((count, height, width), bool)
    mask[:, top : top + h, left : left + w] = True
    return mask


@typechecked
def grow(mask: Bool["f h w"], pixels: int) -> Bool["f h w"]:
    """The mask with a margin of so many pixels around it, in squares."""
    for axis in (1, 2):
        reach = [(0, 0)] * 3
        reach[axis] = (pixels, pixels)
        # A window holds part of the mask where the running sum differs between its ends.
        total = np.cumsum(np.pad(mask, reach), axis=axis, dtype=np.int32)
        total = np.concatenate([np.zeros_like(total.take([0], axis)), total], axis)
        size = mask.shape[axis]
        mask = total.take(range(2 * pixels + 1, 2 * pixels + 1 + size), axis) > total.take(range(size), axis)
    return mask


@typechecked
def grey(video: UInt8["f h w 3"]) -> UInt8["f h w 3"]:
    """The video without its colours, to be coloured anew."""
    luma = np.round(video.astype(np.float32) @ _LUMA).astype(np.uint8)
    return np.repeat(luma[..., None], 3, axis=-1)


def layout(count: int, height: int, width: int, boxes: Sequence[Box], line: int = 3) -> UInt8["f h w 3"]:
    """Where something is to be: the outline of a box, black on white, that moves evenly from box to box.

    Args:
        boxes: at least one; the first is that of the first frame, the last that of the last frame.
        line: its width in pixels.
    """
    stops = np.linspace(0, len(boxes) - 1, count)
    track = np.stack([np.interp(stops, np.arange(len(boxes)), side) for side in zip(*boxes)], axis=-1)
    frames = np.full((count, height, width, 3), 255, np.uint8)
    for frame, (left, top, w, h) in zip(frames, np.round(track).astype(int)):
        outer = box_mask(1, height, width, (left, top, w, h))[0]
        inner = np.zeros_like(outer)
        inner[top + line : top + h - line, left + line : left + w - line] = True
        frame[outer & ~inner] = 0
    return frames
