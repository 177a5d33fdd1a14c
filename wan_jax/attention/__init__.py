"""Attention behind one door: softmax(q·kᵀ/√d)·v, without mask, picked by platform.

`reference` is the oracle that every kernel is tested against, `chunked` bounds memory on any platform, and `cudnn`
calls NVIDIA's fused kernel.
"""

import jax
import jax.numpy as jnp

from wan_jax.attention.chunked import chunked_attention
from wan_jax.attention.cudnn import cudnn_attention
from wan_jax.typing import Float, typechecked


@typechecked
def attention(q: Float["b n k d"], k: Float["b s k d"], v: Float["b s k d"]) -> Float["b n k d"]:
    """Softmax attention of n queries over s keys for k heads; scores and softmax in float32, result in q's dtype."""
    if jax.default_backend() == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16):
        return cudnn_attention(q, k, v)
    return chunked_attention(q, k, v)
