"""Softmax attention for TPU, backward: the scores are made again from q, k and the sums that the forward pass left.

With s = q·k, P = 2^(s - lse) and out = P·v, and dP = dout·vᵀ, the gradient of s is

    ds = P · (ln 2 · (dP - Σ P·dP) + dlse) = ln 2 · P · (dP - offset),  offset = Σ dout·out - dlse / ln 2

so dq = ds·k, dk = dsᵀ·q and dv = Pᵀ·dout.  One kernel sums over queries for dk and dv, one over keys for dq; each
repeats the scores, so that nothing of the size of s is ever in memory (Dao, arXiv:2307.08691 §3.1.2, in base 2).

Tiles lie so that P and ds can stay in the matrix unit while narrow operands, a head wide, stream past: summed over
their first axis, that is [keys, queries] for dq, and [queries, keys] for dk and dv.  On a v6e that saves a sixth of
the bundles for dk and dv.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from wan_jax.attention import tiles
from wan_jax.precision import matmul_precision
from wan_jax.typing import Float, Int, typechecked

_BLOCK = 1024  # queries and keys in a tile, at most
_GROUP = 512  # of the axis that is summed, whose scores exist at once
_VMEM_LIMIT = 32 * 2**20
_NT = (((1,), (1,)), ((), ()))  # a·bᵀ
_TN = (((0,), (0,)), ((), ()))  # aᵀ·b


@typechecked
def flash_backward(
    q: Float["b n c"],
    k: Float["b s c"],
    v: Float["b s c"],
    out: Float["b n c"],
    lse: Float["b k n"],
    d_out: Float["b n c"],
    d_lse: Float["b k n"],
    length: Int[""],
    *,
    interpret: bool = False,
) -> tuple[Float["b n c"], Float["b s c"], Float["b s c"]]:
    """The gradients of q, k and v from those of `flash_forward`'s results, `out` and `lse`."""
    (b, n, c), s, heads = q.shape, k.shape[1], lse.shape[1]
    d, block_q, block_kv = c // heads, _block(n), _block(s)
    tiles_q, tiles_kv = pl.cdiv(n, block_q), pl.cdiv(s, block_kv)
    compiler_params = pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"), vmem_limit_bytes=_VMEM_LIMIT
    )

    def cut(query_tile, key_tile):
        """How arrays [b n c], [b s c] and [b k 1 n] are cut; the functions pick the tile of a grid's last two steps."""

        def of_queries(b, h, i, j, length_ref):
            return b, query_tile(i, j), h

        def of_keys(b, h, i, j, length_ref):
            last = jax.lax.div(jnp.maximum(length_ref[0] - 1, 0), block_kv)
            return b, jnp.minimum(key_tile(i, j), last), h  # tiles without valid keys are not fetched

        def of_rows(b, h, i, j, length_ref):
            return b, h, 0, query_tile(i, j)

        blocks = (1, block_q, d), (1, block_kv, d), (1, 1, 1, block_q)
        return (pl.BlockSpec(block, index) for block, index in zip(blocks, (of_queries, of_keys, of_rows)))

    def called(kernel, s):
        steps = b * heads * tiles_q * tiles_kv
        return f"{kernel}_float32" if q.dtype == jnp.float32 else tiles.name(block_q, block_kv, s, steps, kernel)

    length, lse, d_lse = length.reshape(1), lse[:, :, None], d_lse[:, :, None]
    queries, keys, rows = cut(lambda i, j: i, lambda i, j: j)
    d_q, offset = pl.pallas_call(
        _queries_kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(b, heads, tiles_q, tiles_kv),
            in_specs=[queries, keys, keys, queries, queries, rows, rows],
            out_specs=[queries, rows],
            scratch_shapes=[pltpu.VMEM((d, block_q), jnp.float32)],
        ),
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct(lse.shape, jnp.float32)],
        name=called("flash_backward_queries", s),
        compiler_params=compiler_params,
        interpret=interpret,
    )(length, q, k, v, out, d_out, lse, d_lse)

    queries, keys, rows = cut(lambda i, j: j, lambda i, j: i)
    written = pl.BlockSpec((1, block_kv, d), lambda b, h, i, j, length_ref: (b, i, h))
    d_k, d_v = pl.pallas_call(
        functools.partial(_keys_kernel, queries=n),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(b, heads, tiles_kv, tiles_q),
            in_specs=[queries, keys, keys, queries, rows, rows],
            out_specs=[written, written],
            scratch_shapes=[pltpu.VMEM((d, block_kv), jnp.float32)] * 2,
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k, v)],
        name=called("flash_backward_keys", n),
        compiler_params=compiler_params,
        interpret=interpret,
    )(length, q, k, v, d_out, lse, offset)
    return d_q, d_k, d_v


def _block(size: int) -> int:
    """Equal tiles, whole in lanes."""
    return 128 * pl.cdiv(size, 128 * pl.cdiv(size, _BLOCK))


def _dot(a, b, dimensions):
    precision = matmul_precision(a.dtype)
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _weights(s, dp, lse, offset, valid):
    """P and ds / ln 2, in the layout of `s`; zero where not valid, whatever is there."""
    p = jnp.exp2(s - lse)
    ds = p * (dp - offset)
    return (p, ds) if valid is None else (jnp.where(valid, p, 0), jnp.where(valid, ds, 0))


def _below(limit, size: int, axis: int):
    """Which of the `size` entries along this axis of a tile exist, or are valid."""
    shape = [1, 1]
    shape[axis] = size
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis) < limit


def _queries_kernel(
    length_ref, q_ref, k_ref, v_ref, out_ref, d_out_ref, lse_ref, d_lse_ref, d_q_ref, offset_ref, sum_ref
):
    """Adds what one tile of keys gives to dq of one tile of queries; what lies after the last query is not written."""
    j, block_kv = pl.program_id(3), k_ref.shape[1]
    valid_keys = length_ref[0] - j * block_kv

    @pl.when(j == 0)
    def start():
        products = out_ref[0].astype(jnp.float32) * d_out_ref[0].astype(jnp.float32)
        offset_ref[0, 0] = products.T.sum(axis=0, keepdims=True) - d_lse_ref[0, 0] / math.log(2)
        sum_ref[...] = jnp.zeros_like(sum_ref)

    def add(masked: bool):
        for at in range(0, block_kv, _GROUP):
            group = slice(at, min(at + _GROUP, block_kv))
            k, valid = k_ref[0, group], None
            if masked:
                valid = _below(valid_keys - at, group.stop - at, 0)
                k = jnp.where(valid, k, 0)  # 0 · NaN is NaN
            s, dp = _dot(k, q_ref[0], _NT), _dot(v_ref[0, group], d_out_ref[0], _NT)
            _, ds = _weights(s, dp, lse_ref[0, 0], offset_ref[0, 0], valid)
            sum_ref[...] += _dot(k, ds.astype(k.dtype), _TN)

    pl.when(valid_keys >= block_kv)(functools.partial(add, masked=False))
    pl.when((valid_keys > 0) & (valid_keys < block_kv))(functools.partial(add, masked=True))

    @pl.when(j == pl.num_programs(3) - 1)
    def finish():
        d_q_ref[0] = (sum_ref[...] * math.log(2)).T.astype(d_q_ref.dtype)


def _keys_kernel(
    length_ref, q_ref, k_ref, v_ref, d_out_ref, lse_ref, offset_ref, d_k_ref, d_v_ref, sum_k_ref, sum_v_ref, *, queries
):
    """Adds what one tile of queries gives to dk and dv of one tile of keys."""
    i, j = pl.program_id(2), pl.program_id(3)
    block_q, block_kv = q_ref.shape[1], k_ref.shape[1]
    valid_keys, valid_queries = length_ref[0] - i * block_kv, queries - j * block_q
    whole = (valid_keys >= block_kv) & (valid_queries >= block_q)

    @pl.when(j == 0)
    def start():
        sum_k_ref[...] = jnp.zeros_like(sum_k_ref)
        sum_v_ref[...] = jnp.zeros_like(sum_v_ref)

    def add(masked: bool):
        for at in range(0, block_q, _GROUP):
            group = slice(at, min(at + _GROUP, block_q))
            size = group.stop - at
            q, d_out, valid = q_ref[0, group], d_out_ref[0, group], None
            if masked:
                exists = _below(valid_queries - at, size, 0)
                q, d_out = jnp.where(exists, q, 0), jnp.where(exists, d_out, 0)
                valid = exists & _below(valid_keys, block_kv, 1)
            s, dp = _dot(q, k_ref[0], _NT), _dot(d_out, v_ref[0], _NT)
            lse, offset = (x[0, 0, :, group].T for x in (lse_ref, offset_ref))
            p, ds = _weights(s, dp, lse, offset, valid)
            sum_k_ref[...] += _dot(q, ds.astype(q.dtype), _TN)
            sum_v_ref[...] += _dot(d_out, p.astype(q.dtype), _TN)

    pl.when(whole)(functools.partial(add, masked=False))
    pl.when(~whole & (valid_keys > 0))(functools.partial(add, masked=True))

    @pl.when(j == pl.num_programs(3) - 1)
    def finish():
        d_k_ref[0] = (sum_k_ref[...] * math.log(2)).T.astype(d_k_ref.dtype)
        d_v_ref[0] = sum_v_ref[...].T.astype(d_v_ref.dtype)
