"""Convolutions over frames, rows and columns, in the form that compilers do well."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from wan_jax import sharding
from wan_jax.models import space
from wan_jax.precision import matmul_precision
from wan_jax.typing import Float, typechecked

_CHANNELS = 3  # of [f h w c]


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
        x = space.pad(x.astype(self.dtype), *self.margin)
        return convolve(x, kernel.reshape(*frames, *shape), strides) + bias


@typechecked
def convolve(
    x: Float["b f h w c"], kernel: Float["kf kh kw c d"], strides: tuple[int, int, int] = (1, 1, 1)
) -> Float["b g i j d"]:
    """A convolution without padding.  NVIDIA's own is fastest as it is; elsewhere it is a sum of 2-D ones.

    The sum, in float32, goes over the taps of one axis, and that axis counts as a batch in each 2-D convolution.  XLA
    makes a TPU's vectors from the batch: with columns there, it need not rearrange the pixels for each convolution,
    which is two thirds of a 3-D one's modelled cycles.  CPUs want frames there: few channels, as in small models, run
    six times as fast.  The sum is a loop, since XLA compiles every convolution for seconds.
    """
    if sharding.is_nvidia():
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            "VALID",
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
            precision=matmul_precision(x.dtype),
        )
    axis = 2 if sharding.is_tpu() else 0
    plane = [i for i in range(3) if i != axis]
    layout = (axis, _CHANNELS, *plane)
    numbers = lax.ConvDimensionNumbers(lhs_spec=layout, rhs_spec=(3, 2, 0, 1), out_spec=layout)
    taps = jnp.moveaxis(kernel, axis, 0)

    def one(clip: jax.Array) -> jax.Array:
        reach = max(clip.shape[axis] - len(taps) + 1, 0)

        @jax.checkpoint  # or the gradient would keep all shifted copies of the clip
        def add(total, tap):
            offset, weights = tap
            part = lax.dynamic_slice_in_dim(clip, offset, reach, axis)
            return total + lax.conv_general_dilated(
                lax.slice_in_dim(part, 0, None, strides[axis], axis),
                weights,
                [strides[i] for i in plane],
                "VALID",
                dimension_numbers=numbers,
                precision=matmul_precision(x.dtype),
                preferred_element_type=jnp.float32,
            ), None

        shape = [max(-(-(clip.shape[i] - kernel.shape[i] + 1) // strides[i]), 0) for i in range(3)]
        zeros = jnp.zeros((*shape, kernel.shape[-1]), jnp.float32)
        return lax.scan(add, zeros, (jnp.arange(len(taps)), taps))[0].astype(x.dtype)

    return jax.vmap(one)(x)
