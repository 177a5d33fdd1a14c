"""Memory-bounded attention in plain XLA: the reference, a block of queries at a time."""

import jax
import jax.numpy as jnp

from wan_jax.attention.reference import reference_attention
from wan_jax.typing import Float, Int, typechecked

_SCORE_BYTES = 2**28  # the scores of one block; long videos would need terabytes for all


@typechecked
def chunked_attention(
    q: Float["b n c"], k: Float["b s c"], v: Float["b s c"], heads: int, length: int | Int[""] | None = None
) -> tuple[Float["b n c"], Float["b k n"]]:
    """The kernel protocol of this package; gradients recompute the scores, so they are bounded as well."""
    b, n, c = q.shape
    block = max(1, _SCORE_BYTES // (4 * b * heads * k.shape[1]))
    if n <= block:
        return reference_attention(q, k, v, heads, length)
    blocks = -(-n // block)
    block = -(-n // blocks)  # equal blocks: padding stays below one query a block
    queries = jnp.pad(q, ((0, 0), (0, blocks * block - n), (0, 0))).reshape(b, blocks, block, c).swapaxes(0, 1)
    attend = jax.checkpoint(lambda rows: reference_attention(rows, k, v, heads, length))
    out, lse = jax.lax.map(attend, queries)
    return out.swapaxes(0, 1).reshape(b, -1, c)[:, :n], jnp.moveaxis(lse, 0, 2).reshape(b, heads, -1)[..., :n]
