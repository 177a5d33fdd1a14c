"""Attention as the formula says; all scores are in memory at once."""

import jax
import jax.numpy as jnp

from wan_jax.precision import matmul_precision
from wan_jax.typing import Float, Int, typechecked


@typechecked
def reference_attention(
    q: Float["b n c"], k: Float["b s c"], v: Float["b s c"], heads: int, length: int | Int[""] | None = None
) -> tuple[Float["b n c"], Float["b k n"]]:
    """The kernel protocol of this package; scores, softmax and sums in float32."""
    products = {"precision": matmul_precision(q.dtype), "preferred_element_type": jnp.float32}
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v))
    scores = jnp.einsum("bnkd,bskd->bkns", q, k, **products)
    if length is not None:
        scores = jnp.where(jnp.arange(k.shape[1]) < length, scores, -jnp.inf)
    peak = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    peak = jnp.where(peak == -jnp.inf, 0.0, peak)
    weights = jnp.exp2(scores - peak)
    total = weights.sum(-1)
    some = total > 0
    total = jnp.where(some, total, 1.0)  # log and quotient stay finite, and so do their gradients
    lse = jnp.where(some, peak[..., 0] + jnp.log2(total), -jnp.inf)
    out = jnp.einsum("bkns,bskd->bnkd", weights.astype(v.dtype), v, **products)
    out = out / total.swapaxes(1, 2)[..., None]
    return out.reshape(*out.shape[:2], -1).astype(q.dtype), lse
