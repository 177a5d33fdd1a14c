"""Convolutions over frames, rows and columns, in the form that compilers do well."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from wan_jax import sharding
from wan_jax.models import space
from wan_jax.precision import matmul_precision
from wan_jax.typing import Float, typechecked


class Conv(nn.Module):
    """A convolution of [b f h w c] over frames, rows and columns, or over rows and columns.

    Attributes:
        features: channels of the result.
        window: taps along (f, h, w) or along (h, w).
        strides: steps, for the same axes; None is 1.
        margin: rows and columns that space is padded with, before and after.  Time is not padded.
    """

    features: int
    window: tuple[int, ...]
    dtype: Any
    strides: tuple[int, ...] | None = None
    margin: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.window, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        frames = (1,) * (3 - len(self.window))
        strides = (*frames, *(self.strides or (1,) * len(self.window)))
        return convolve(x.astype(self.dtype), kernel.reshape(*frames, *shape), strides, self.margin) + bias


@typechecked
def convolve(
    x: Float["b f h w c"],
    kernel: Float["kf kh kw c d"],
    strides: tuple[int, int, int] = (1, 1, 1),
    margin: tuple[int, int] = (0, 0),
) -> Float["b g i j d"]:
    """A convolution that pads rows and columns with `margin`, in the form that the device at hand does best.

    A TPU takes it as it is, and needs a batch that fills its vectors, which `wan_jax.models.space` sees to.
    """
    if sharding.is_nvidia():
        return taps_as_channels(x, kernel, strides, margin)
    x = space.pad(x, *margin)
    if not sharding.is_tpu():
        return tap_by_tap(x, kernel, strides)
    names = ("NDHWC", "DHWIO", "NDHWC")
    precision = matmul_precision(x.dtype)
    return lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=names, precision=precision)


@partial(jax.checkpoint, static_argnums=(2, 3))  # or the gradient would keep the taps side by side
def taps_as_channels(
    x: Float["b f h w c"], kernel: Float["kf kh kw c d"], strides: tuple[int, int, int], margin: tuple[int, int]
) -> Float["b g i j d"]:
    """As one convolution of single frames, in which the taps in time are channels.

    They are channels of the input, so that the product's inner dimension is longer, or of the result where that has
    few.  cuDNN does these a third faster than those over three axes, for which it also moves its inputs into another
    layout (one H100, bfloat16: 5.1 and 7.1 ms for 4 frames of 720p with 96 channels; 2.1 and 5.5 ms down to 3).
    """
    (taps, kh, kw, c, d), stride = kernel.shape, strides[0]
    count = max((x.shape[1] - taps) // stride + 1, 0)
    if space.is_cut():
        x, margin = space.pad(x, *margin), (0, 0)

    def seen_by(tap: int, x: jax.Array) -> jax.Array:
        """Of each result, the frame under this tap."""
        return x[:, tap : tap + count * stride : stride][:, :count]

    if taps * d <= c:
        kernel = jnp.moveaxis(kernel, 0, 3).reshape(kh, kw, c, taps * d)
        parts = jnp.split(_of_frames(x, kernel, strides[1:], margin), taps, axis=-1)
        return sum(seen_by(tap, part) for tap, part in enumerate(parts))
    kernel = jnp.moveaxis(kernel, 0, 2).reshape(kh, kw, taps * c, d)
    return _of_frames(jnp.concatenate([seen_by(tap, x) for tap in range(taps)], axis=-1), kernel, strides[1:], margin)


def tap_by_tap(
    x: Float["b f h w c"], kernel: Float["kf kh kw c d"], strides: tuple[int, int, int]
) -> Float["b g i j d"]:
    """As a sum, in float32, of convolutions of single frames with one tap in time each.

    On CPUs few channels, as in small models, run six times as fast so.  The sum is a loop, since XLA compiles every
    convolution for seconds.
    """

    def one(clip: jax.Array) -> jax.Array:
        reach = max(len(clip) - len(kernel) + 1, 0)

        @jax.checkpoint  # or the gradient would keep all shifted copies of the clip
        def add(total, tap):
            offset, weights = tap
            part = lax.slice_in_dim(lax.dynamic_slice_in_dim(clip, offset, reach), 0, None, strides[0])
            return total + _of_frames(part[None], weights, strides[1:], dtype=jnp.float32)[0], None

        shape = [max(-(-(clip.shape[i] - kernel.shape[i] + 1) // strides[i]), 0) for i in range(3)]
        zeros = jnp.zeros((*shape, kernel.shape[-1]), jnp.float32)
        return lax.scan(add, zeros, (jnp.arange(len(kernel)), kernel))[0].astype(x.dtype)

    return jax.vmap(one)(x)


def in_order(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The same.  On NVIDIA's GPUs all are computed, each in its dtype, before any is used."""
    return lax.optimization_barrier(arrays) if sharding.is_nvidia() else arrays


def _of_frames(x, kernel, strides: tuple[int, int], margin: tuple[int, int] = (0, 0), dtype=None) -> jax.Array:
    """Each frame by itself; the result has `dtype`, or that of `x`."""
    y = lax.conv_general_dilated(
        x.reshape(-1, *x.shape[2:]),
        kernel,
        strides,
        [margin] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=matmul_precision(x.dtype),
        preferred_element_type=dtype,
    )
    return y.reshape(*x.shape[:2], *y.shape[1:])
