"""Attention as the formula says; all scores are in memory at once."""

import jax
import jax.numpy as jnp

from wan_jax.precision import matmul_precision
from wan_jax.typing import Float, typechecked


@typechecked
def reference_attention(q: Float["b n k d"], k: Float["b s k d"], v: Float["b s k d"]) -> Float["b n k d"]:
    precision = matmul_precision(q.dtype)
    scores = jnp.einsum("bnkd,bskd->bkns", q, k, precision=precision, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores / q.shape[-1] ** 0.5, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkns,bskd->bnkd", weights, v, precision=precision, preferred_element_type=jnp.float32)
    return out.astype(q.dtype)
