"""The critic of the VAE's adversarial training: a PatchGAN in three dimensions.

It judges many overlapping patches of a clip, one logit each (arXiv:1611.07004, §3.2.2).  Wan's third stage trains
against "a 3D discriminator" (arXiv:2503.20314, §4.1.2) and tells no more of it.  Kernel, widths, slope, initialisation
and the one stride in time follow Open-Sora's video autoencoder (arXiv:2503.09642).  In place of its batch norm and
dropout stands a group norm of each clip: logits then depend neither on the other clips nor on how they are shared out.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wan_jax.errors import WanError
from wan_jax.models.convolution import convolve
from wan_jax.typing import Float, typechecked

_SLOPE = 0.2  # of LeakyReLU, below zero
_GROUP = 16  # channels that are normalised together (arXiv:1803.08494)
_WIDEST = 8  # times the width of the first layer
_EPS = 1e-5


class Discriminator(nn.Module):
    """Logits of a clip's patches, high where they look real.  The parameters are in float32.

    With 4 layers a logit stands for 16×16 pixels and two frames, and sees 95×95 pixels and 21 frames; beyond them it
    sees the norms' statistics.  A single frame is a clip, and sizes need not divide.

    Attributes:
        channels: width of the first layer, a multiple of 8; each further one doubles it, up to eightfold.
        layers: convolutions that halve height and width; the second one halves the frame rate, too.
        dtype: of the convolutions; norms and the last layer are in float32.
    """

    channels: int = 64
    layers: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    @typechecked
    def __call__(self, video: Float["b f h w 3"]) -> Float["b g i j"]:
        """Logits, float32, of clips in [-1, 1].

        Raises:
            WanError: `channels` does not divide into groups.
        """
        if self.channels < 1 or 2 * self.channels % _GROUP:
            raise WanError(f"channels={self.channels} of the discriminator must be a multiple of {_GROUP // 2}")
        x = _Conv(self.channels, (1, 2, 2), self.dtype, name="conv_in")(video)
        x = nn.leaky_relu(x, _SLOPE)
        for i in range(1, self.layers + 1):
            width = self.channels * min(2**i, _WIDEST)
            last = i == self.layers
            strides = (2 if i == 1 else 1, 1 if last else 2, 1 if last else 2)
            x = _Conv(width, strides, self.dtype, name=f"conv_{i}")(x)
            x = nn.leaky_relu(_GroupNorm(name=f"norm_{i}")(x), _SLOPE)
        return _Conv(1, (1, 1, 1), jnp.float32, name="conv_out")(x)[..., 0]


class _Conv(nn.Module):
    """A 3×3×3 convolution between zeros on all sides."""

    features: int
    strides: tuple[int, int, int]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.normal(0.02), (3, 3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
        return convolve(x, kernel.astype(self.dtype), self.strides) + bias.astype(self.dtype)


class _GroupNorm(nn.Module):
    """Mean 0 and variance 1 of each group of channels over a whole clip, then scale and bias; in float32."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        groups = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, _GROUP)
        own = (1, 2, 3, 5)
        groups = groups - groups.mean(own, keepdims=True)
        groups = groups * jax.lax.rsqrt(jnp.square(groups).mean(own, keepdims=True) + _EPS)
        return groups.reshape(x.shape) * scale + bias
