"""Small layers that the networks share.  Norms and modulation compute in float32 and return float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from wan_jax import quantization
from wan_jax.kernels.layer_norm import layer_norm
from wan_jax.precision import matmul_precision
from wan_jax.typing import Float, typechecked


def dense(features: int, dtype, use_bias: bool = True, quantization: str | None = None, **options) -> nn.Module:
    """A linear layer that computes in `dtype`, exactly so where that is float32.

    It adds the low-rank update (x·a)·b where its parameters hold one; see `wan_jax.lora`.

    Args:
        features: m, of the result.
        dtype: of inputs, products and results.
        use_bias: adds one.
        quantization: how the kernel is kept; see `wan_jax.quantization`.
        options: of `nn.Dense`.
    """
    shared = {"dtype": dtype, "precision": matmul_precision(dtype), "use_bias": use_bias}
    if quantization is not None:
        return _QuantizedDense(features, kind=quantization, **shared)
    return _Dense(features, **shared, **options)


class _Dense(nn.Dense):
    def __call__(self, x: Float["*b c"]) -> Float["*b m"]:
        return _updated(self, x, super().__call__(x))


class _QuantizedDense(nn.Module):
    """Its weights come from a quantised model; they are not for training, and begin as zeros."""

    features: int
    kind: str
    dtype: DTypeLike
    precision: jax.lax.Precision | None
    use_bias: bool

    @nn.compact
    def __call__(self, x: Float["*b c"]) -> Float["*b m"]:
        shape, zeros = (x.shape[-1], self.features), nn.initializers.zeros
        values = self.param("kernel", zeros, shape, quantization.values_dtype(self.kind))
        groups = quantization.scales(self.kind, x.shape[-1])
        scale = self.param(quantization.SCALE, nn.initializers.ones, (groups, self.features))
        x = x.astype(self.dtype)
        y = quantization.dot(x, values, scale, self.kind, self.precision)
        if self.use_bias:
            y = y + self.param("bias", zeros, (self.features,)).astype(self.dtype)
        return _updated(self, x, y)


def _updated(layer: nn.Module, x: Float["*b c"], y: Float["*b m"]) -> Float["*b m"]:
    """`y`, the result of a layer for `x`, with the layer's low-rank update."""
    if not layer.has_variable("params", "lora_a"):
        return y
    a, b = (layer.get_variable("params", name).astype(layer.dtype) for name in ("lora_a", "lora_b"))
    low = jnp.dot(x.astype(layer.dtype), a, precision=layer.precision)
    return y + jnp.dot(low, b, precision=layer.precision)


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
