"""What Wan-VAE 2.2 has beyond 2.1 (Wan2.2, wan/modules/vae2_2.py): shortcuts around each level, and pixels in patches.

Nothing here has parameters, or looks beyond a pixel's own cell.
"""

import jax.numpy as jnp

from wan_jax.errors import WanError
from wan_jax.typing import Float, typechecked


@typechecked
def average_down(x: Float["b f h w c"], features: int, time: int, space: int) -> Float["b g i j d"]:
    """Fewer positions with means of their numbers: `time` frames of `space`×`space` pixels become one.

    A cell's numbers, ordered by channel, frame, row and column, are shared out evenly over the new channels.  A clip's
    first frame is a cell with zeros before it.

    Raises:
        WanError: the numbers of a cell do not divide into so many channels.
    """
    b, f, h, w, c = x.shape
    if c * time * space**2 % features:
        raise WanError(f"a shortcut cannot share out {c} channels of {time}×{space}×{space} cells over {features}")
    x = jnp.pad(x, ((0, 0), (-f % time, 0), (0, 0), (0, 0), (0, 0)))
    cells = x.reshape(b, -1, time, h // space, space, w // space, space, c).transpose(0, 1, 3, 5, 7, 2, 4, 6)
    return cells.reshape(*cells.shape[:4], features, -1).mean(axis=-1, dtype=jnp.float32).astype(x.dtype)


@typechecked
def duplicate_up(x: Float["b f h w c"], features: int, time: int, space: int, begins: bool) -> Float["b g i j d"]:
    """More positions with the same numbers, the inverse of `average_down` but for the mean.

    Args:
        begins: whether the clip begins in `x`; then its first frame stays one frame.
    """
    b, f, h, w, c = x.shape
    x = x.repeat(features * time * space * space // c, axis=-1)
    x = x.reshape(b, f, h, w, features, time, space, space).transpose(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, f * time, h * space, w * space, features)[:, time - 1 if begins else 0 :]


@typechecked
def to_patches(video: Float["b f h w c"], side: int) -> Float["b f i j d"]:
    """Squares of pixels as channels, ordered by colour, column and row."""
    b, f, h, w, c = video.shape
    x = video.reshape(b, f, h // side, side, w // side, side, c).transpose(0, 1, 2, 4, 6, 5, 3)
    return x.reshape(b, f, h // side, w // side, c * side * side)


@typechecked
def from_patches(patches: Float["b f h w c"], side: int) -> Float["b f i j d"]:
    """The inverse of `to_patches`."""
    b, f, h, w, c = patches.shape
    x = patches.reshape(b, f, h, w, c // side**2, side, side).transpose(0, 1, 2, 6, 3, 5, 4)
    return x.reshape(b, f, h * side, w * side, c // side**2)
