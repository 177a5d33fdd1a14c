"""Memory-bounded attention in plain XLA: the reference, a block of queries at a time."""

import jax
import jax.numpy as jnp

from wan_jax.attention.reference import reference_attention
from wan_jax.typing import Float, typechecked

_SCORE_BYTES = 2**28  # the scores of one block; long videos would need terabytes for all


@typechecked
def chunked_attention(q: Float["b n k d"], k: Float["b s k d"], v: Float["b s k d"]) -> Float["b n k d"]:
    b, n, heads, d = q.shape
    block = max(1, _SCORE_BYTES // (4 * b * heads * k.shape[1]))
    if n <= block:
        return reference_attention(q, k, v)
    blocks = -(-n // block)
    block = -(-n // blocks)  # equal blocks: padding stays below one query a block
    padded = jnp.pad(q, ((0, 0), (0, blocks * block - n), (0, 0), (0, 0)))
    queries = padded.reshape(b, blocks, block, heads, d).swapaxes(0, 1)
    out = jax.lax.map(lambda rows: reference_attention(rows, k, v), queries)
    return out.swapaxes(0, 1).reshape(b, blocks * block, heads, d)[:, :n]
