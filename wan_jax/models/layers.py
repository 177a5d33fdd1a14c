"""Small layers that the networks share.  Norms and modulation compute in float32 and return float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from wan_jax.kernels.layer_norm import layer_norm
from wan_jax.precision import matmul_precision
from wan_jax.typing import Float, typechecked


def dense(features: int, dtype, use_bias: bool = True, **options) -> nn.Dense:
    """A linear layer that computes in `dtype`, exactly so where that is float32.

    It adds the low-rank update (x·a)·b where its parameters hold one; see `wan_jax.lora`.
    """
    return _Dense(features, use_bias=use_bias, dtype=dtype, precision=matmul_precision(dtype), **options)


class _Dense(nn.Dense):
    def __call__(self, x: Float["*b c"]) -> Float["*b m"]:
        y = super().__call__(x)
        if not self.has_variable("params", "lora_a"):
            return y
        a, b = (self.get_variable("params", name).astype(self.dtype) for name in ("lora_a", "lora_b"))
        low = jnp.dot(x.astype(self.dtype), a, precision=self.precision)
        return y + jnp.dot(low, b, precision=self.precision)


class LayerNorm(nn.Module):
    """LayerNorm with scale and bias; the result is `dtype`."""

    eps: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float["b n c"]) -> Float["b n c"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        wide = (x.shape[0], 1, x.shape[-1])
        return layer_norm(x, jnp.broadcast_to(scale, wide), jnp.broadcast_to(bias, wide), self.eps, self.dtype)


class RMSNorm(nn.Module):
    """Division by the root mean square over features, then a scale; no mean is taken off."""

    eps: float

    @nn.compact
    @typechecked
    def __call__(self, x: Float["*b d"]) -> Float["*b d"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps) * scale


@typechecked
def timestep_embedding(timestep: Float["*b"], dim: int) -> Float["*b d"]:
    """Sinusoids of the raw timestep (0 … 1000): `dim / 2` cosines, then as many sines (arXiv:1706.03762 §3.5).

    The exponents are rounded to float32, as in Diffusers; that is within 6e-5 of the official float64 angles.
    """
    half = dim // 2
    exponents = -np.float32(np.log(10000)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = timestep[..., None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def repeated(x: jax.Array, batch: int) -> jax.Array:
    """Once for each part of a batch that holds prompts and then their negatives."""
    return jnp.concatenate([x] * (batch // len(x)))
