"""NVIDIA's fused attention kernel, for half precision on GPU."""

import math

import jax
import jax.numpy as jnp

from wan_jax.typing import Float, Int, typechecked


@typechecked
def cudnn_attention(
    q: Float["b n c"], k: Float["b s c"], v: Float["b s c"], heads: int, length: int | Int[""] | None = None
) -> tuple[Float["b n c"], None]:
    """The kernel protocol of this package but for the sums, which partial results would need to be merged.

    JAX rounds them to the dtype of the output, which is too coarse a weight, and drops their gradient
    (`jax.nn.dot_product_attention`, `return_residual`, JAX 0.10 to 0.12).
    """
    (b, n, c), s = q.shape, k.shape[1]
    if s % 2 and length is None:
        length = s
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0))) for x in (q, k, v))  # gradients want even lengths
    q, k, v = (x.reshape(b, -1, heads, c // heads) for x in (q, k, v))
    lengths = None if length is None else jnp.full(b, length, jnp.int32)
    out = jax.nn.dot_product_attention(
        q, k, v, scale=math.log(2), key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return out.reshape(b, -1, c)[:, :n], None
