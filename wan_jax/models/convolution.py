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
    """A convolution without padding.  Accelerators do it best as it is, CPUs as a sum of 2-D convolutions.

    A TPU needs a batch that fills its vectors, which `wan_jax.models.space` sees to.  The sum, in float32, goes over
    the taps in time, and frames count as a batch: few channels, as in small models, run six times as fast.  It is a
    loop, since XLA compiles every convolution for seconds.
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
    if sharding.is_tpu():
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            "VALID",
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
            precision=matmul_precision(x.dtype),
        )

    def one(clip: jax.Array) -> jax.Array:
        reach = max(len(clip) - len(kernel) + 1, 0)

        @jax.checkpoint  # or the gradient would keep all shifted copies of the clip
        def add(total, tap):
            offset, weights = tap
            part = lax.dynamic_slice_in_dim(clip, offset, reach)
            return total + lax.conv_general_dilated(
                lax.slice_in_dim(part, 0, None, strides[0]),
                weights,
                strides[1:],
                "VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision=matmul_precision(x.dtype),
                preferred_element_type=jnp.float32,
            ), None

        shape = [max(-(-(clip.shape[i] - kernel.shape[i] + 1) // strides[i]), 0) for i in range(3)]
        zeros = jnp.zeros((*shape, kernel.shape[-1]), jnp.float32)
        return lax.scan(add, zeros, (jnp.arange(len(kernel)), kernel))[0].astype(x.dtype)

    return jax.vmap(one)(x)
