"""Softmax attention for TPU, forward: no mask but a number of valid keys, and heads that are 128 lanes wide.

The scores are transposed, Sᵀ = K·Qᵀ [keys, queries]: sums and maxima over keys then run over sublanes, what belongs to
a query is a row of lanes, and Oᵀ += Vᵀ·P keeps P still in the matrix unit, which halves the cost of that product.

A running maximum would cost more than both products.  Here the maximum m of a query is that of the first few keys, and
stays while all goes well: a whole tile of keys is added to a spare accumulator, and if one of its sums of 2^(s - m) is
beyond 2^60 or not a number, the spare is dropped and the tile is taken again, a few keys at a time with the usual
running maximum.  As m is always the score of some key, the sum over all keys is at least one and nothing that matters
underflows, whatever the inputs.

Where the keys end, their last tile has code of its own, just long enough and with a mask in its last group of keys; a
`length` that is only known at run time and ends elsewhere is exact too, by way of the running maximum.

Forms of the softmax: Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from wan_jax.attention import tiles
from wan_jax.precision import matmul_precision
from wan_jax.sharding import device_kind
from wan_jax.typing import Float, Int, typechecked

_FIRST = 32  # keys that give the first maximum
_GROUP = 512  # keys whose scores are made at once, of a tile that is all valid
_FEW = 256  # keys at a time with a running maximum
_VMEM_BYTES = 64 * 2**20  # of 128 MiB, v5p 95
_LIMIT = 2.0**60  # of a tile's sum of weights: far from overflow, and far above what ordinary scores reach
_LOWEST = float(jnp.finfo(jnp.float32).min)  # in place of -inf, whose difference with itself is not a number
_NT = (((1,), (1,)), ((), ()))  # a·bᵀ
_TN = (((0,), (0,)), ((), ()))  # aᵀ·b


@typechecked
def flash_forward(
    q: Float["b n c"],
    k: Float["b s c"],
    v: Float["b s c"],
    heads: int,
    length: int | Int[""] | None = None,
    *,
    blocks: tuple[int, int] | None = None,
    interpret: bool = False,
) -> tuple[Float["b n c"], Float["b k n"]]:
    """Softmax(q·kᵀ)·v to base 2, for heads that lie side by side in the last axis; bfloat16 or float32.

    Args:
        q: times log2(e)/√d already.
        length: how many keys are valid, all by default; what lies after them, even NaN, is not used.
        blocks: queries (of 128) and keys (of 256) in a tile, by default what `tiles.choose` finds.
        interpret: run on any platform, slowly, for tests.

    Returns:
        The output in q's dtype, and the base-2 logarithm of the sum of weights in float32; 0 and -inf without keys.
    """
    b, n, c = q.shape
    s = max(length, 1) if isinstance(length, int) else k.shape[1]
    d = c // heads
    exact = q.dtype == jnp.float32
    block_q, block_kv = blocks or tiles.choose(device_kind(), n, s)
    if exact and not blocks:
        block_kv = min(block_kv, 512)  # exact products take six passes, and so much more code
    grid = (b, heads, pl.cdiv(n, block_q), pl.cdiv(s, block_kv))

    def of_queries(b, h, i, j, length_ref):
        return b, i, h

    def of_keys(b, h, i, j, length_ref):
        last = jax.lax.div(jnp.maximum(length_ref[0] - 1, 0), block_kv)
        return b, jnp.minimum(j, last), h  # tiles without valid keys are not fetched

    def of_lse(b, h, i, j, length_ref):
        return b, h, 0, i

    spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=grid,
        in_specs=[
            pl.BlockSpec((1, block_q, d), of_queries),
            pl.BlockSpec((1, block_kv, d), of_keys),
            pl.BlockSpec((1, block_kv, d), of_keys),
        ],
        out_specs=[pl.BlockSpec((1, block_q, d), of_queries), pl.BlockSpec((1, 1, 1, block_q), of_lse)],
        scratch_shapes=[
            pltpu.SMEM((1,), jnp.int32),
            pltpu.SMEM((1,), jnp.int32),
            pltpu.VMEM((1, block_q), jnp.float32),
            pltpu.VMEM((2, 1, block_q), jnp.float32),
            pltpu.VMEM((2, d, block_q), jnp.float32),
            pltpu.VMEM((block_kv, block_q), v.dtype),
        ],
    )
    out, lse = pl.pallas_call(
        functools.partial(_kernel, n=n, s=s),
        grid_spec=spec,
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((b, heads, 1, n), jnp.float32)],
        name="flash_float32" if exact else tiles.name(block_q, block_kv, s, math.prod(grid)),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"), vmem_limit_bytes=_VMEM_BYTES
        ),
        interpret=interpret,
    )(jnp.full((1,), s if length is None else length, jnp.int32), q, k, v)
    return out, lse[:, :, 0]


def _kernel(
    length_ref, q_ref, k_ref, v_ref, out_ref, lse_ref, current_ref, added_ref, m_ref, l_ref, acc_ref, p_ref, *, n, s
):
    """One tile of keys.  l and acc have two places each, of which `current_ref` names the one in use."""
    block_q, block_kv = q_ref.shape[1], k_ref.shape[1]
    few = min(_FEW, block_kv)
    i, j = pl.program_id(2), pl.program_id(3)
    valid = length_ref[0] - j * block_kv  # keys, in this tile; may be negative, or more than it holds
    dot = functools.partial(
        jax.lax.dot_general, precision=matmul_precision(q_ref.dtype), preferred_element_type=jnp.float32
    )

    def scores(at, size):
        return dot(k_ref[0, pl.ds(at, size)], q_ref[0], _NT)  # [keys, queries]

    def is_valid(at, size):
        return at + jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0) < valid

    def largest(scores, at):
        scores = jnp.where(is_valid(at, scores.shape[0]), scores, -jnp.inf)
        return jnp.maximum(scores.max(axis=0, keepdims=True), _LOWEST)

    @pl.when(j == 0)
    def start():
        current_ref[0] = 0
        m_ref[...] = largest(scores(0, min(_FIRST, block_kv)), 0)
        l_ref[0] = jnp.zeros_like(l_ref[0])
        acc_ref[0] = jnp.zeros_like(acc_ref[0])

    def add_tile(size, edge):
        """Adds the first `size` keys, of which the last `edge` may be invalid, unless their weights are too large."""
        current, m = current_ref[0], m_ref[...]
        total, v = jnp.zeros_like(m), v_ref[0, :size]
        for at in range(0, size, _GROUP):
            end = min(at + _GROUP, size)
            weights = jnp.exp2(scores(at, end - at) - m)
            if end > size - edge:
                weights = jnp.where(is_valid(at, end - at), weights, 0)
            total += weights.sum(axis=0, keepdims=True)
            p_ref[at:end] = weights.astype(p_ref.dtype)
        if edge:
            v = jnp.where(is_valid(0, size), v, 0)
        l_ref[1 - current] = l_ref[current] + total
        acc_ref[1 - current] = acc_ref[current] + dot(v, p_ref[:size], _TN)
        exists = i * block_q + jax.lax.broadcasted_iota(jnp.int32, m.shape, 1) < n
        added = jnp.all((total <= _LIMIT) | ~exists).astype(jnp.int32)
        added_ref[0] = added
        current_ref[0] = jnp.where(added == 1, 1 - current, current)

    def add_few(step, _):
        at = pl.multiple_of(step * few, few)
        current, m = current_ref[0], m_ref[...]
        s = scores(at, few)
        m_new = jnp.maximum(m, largest(s, at))
        rescale = jnp.exp2(m - m_new)
        weights = jnp.where(is_valid(at, few), jnp.exp2(s - m_new), 0)
        v = jnp.where(is_valid(at, few), v_ref[0, pl.ds(at, few)], 0)
        m_ref[...] = m_new
        l_ref[current] = l_ref[current] * rescale + weights.sum(axis=0, keepdims=True)
        acc_ref[current] = acc_ref[current] * rescale + dot(v, weights.astype(p_ref.dtype), _TN)

    added_ref[0] = 0
    if s >= block_kv:
        pl.when(valid >= block_kv)(lambda: add_tile(block_kv, 0))
    if s % block_kv:
        rest = pl.cdiv(s % block_kv, 16) * 16  # 16 rows of bfloat16 are a register
        edge = (rest - 1) % _GROUP + 1
        pl.when((rest - edge < valid) & (valid <= rest) & (valid < block_kv))(lambda: add_tile(rest, edge))

    @pl.when(added_ref[0] == 0)
    def add_slowly():
        jax.lax.fori_loop(0, jax.lax.div(jnp.clip(valid, 0, block_kv) + few - 1, few), add_few, None)

    @pl.when(j == pl.num_programs(3) - 1)
    def finish():
        current = current_ref[0]
        total = l_ref[current]
        lse_ref[0, 0] = m_ref[...] + jnp.log2(total)
        out_ref[0] = (acc_ref[current] / jnp.where(total == 0, 1, total)).T.astype(out_ref.dtype)
