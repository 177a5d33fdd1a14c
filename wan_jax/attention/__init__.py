"""Attention behind one door, picked by platform and spread over the ambient mesh.

All kernels keep one protocol:

    local(q [b n c], k [b s c], v [b s c], heads, length) -> out [b n c], lse [b heads n]

Heads stay merged in the last axis, c = heads · d, so that no layout changes between the projections and the kernel.
q carries `query_scale`, so the weight of a key is 2^(q·k) over the sum of all; base 2 is what hardware has.  Only the
first `length` keys count, all where it is None; it may be traced, and with 0 the result is 0.  `lse` is log2 of the sum
of weights, in float32, by which partial results merge.  Gradients flow through both.

`reference` is the oracle that every kernel is tested against, `chunked` bounds memory on any platform, `flash` is for
TPU and `cudnn` NVIDIA's.  `ulysses` and `ring` run any of them on a sequence that lies in pieces.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from wan_jax import sharding
from wan_jax.attention.chunked import chunked_attention
from wan_jax.attention.cudnn import cudnn_attention
from wan_jax.attention.flash import flash_attention
from wan_jax.attention.ring import ring_attention
from wan_jax.attention.ulysses import ulysses_attention
from wan_jax.typing import Float, typechecked


def query_scale(head_dim: int) -> float:
    """What queries are multiplied by, in float32, before they are rounded: log2(e) / √d."""
    return math.log2(math.e) / math.sqrt(head_dim)


@typechecked
def self_attention(
    q: Float["b n c"], k: Float["b n c"], v: Float["b n c"], heads: int, length: int | None = None
) -> Float["b n c"]:
    """Attention of every token to the first `length` tokens, by default to all.

    On a mesh, arrays are cut as `sharding.split` says, and n must divide by the parts of the sequence: pad at the end.
    """
    length = None if length == q.shape[1] else length
    split, features = sharding.split(q.shape[0]), sharding.dividing("tensor", heads)
    spec, width = P(split.batch, split.sequence, features), q.shape[-1] // heads

    def attend(q, k, v):
        return _attend_in_pieces(q, k, v, q.shape[-1] // width, length, split.sequence)

    return sharding.shard_map(attend, in_specs=(spec, spec, spec), out_specs=spec)(q, k, v)


@typechecked
def cross_attention(q: Float["b n c"], k: Float["b s c"], v: Float["b s c"], heads: int) -> Float["b n c"]:
    """Attention of every token to a short text, which each device has whole; n as for `self_attention`."""
    split, features = sharding.split(q.shape[0]), sharding.dividing("tensor", heads)
    video, text = P(split.batch, split.sequence, features), P(split.batch, None, features)
    width = q.shape[-1] // heads

    def attend(q, k, v):
        local_heads = q.shape[-1] // width
        return _kernel(q, local_heads)(q, k, v, local_heads, None)[0]

    return sharding.shard_map(attend, in_specs=(video, text, text), out_specs=video)(q, k, v)


def _attend_in_pieces(q, k, v, heads: int, length: int | None, axes: tuple[str, ...]):
    """Ulysses as far as the heads divide, rings for the rest (arXiv:2405.07719).

    Ulysses gets the neighbours, with the faster links: it moves more at once and cannot hide it.
    """
    parts = jax.lax.axis_size(axes) if axes else 1
    degree = math.gcd(heads, parts)
    local = _kernel(q, heads, merged=degree < parts)

    def attend(q, k, v):
        if degree == parts:
            return local(q, k, v, heads // degree, length)[0]
        return ring_attention(local, q, k, v, heads // degree, length, axes, stride=degree)[0]

    return ulysses_attention(attend, q, k, v, axes, degree)


def _kernel(q, heads: int, merged: bool = False) -> Callable:
    """The kernel for these queries; `merged` says that its results are partial, and their sums needed."""
    if sharding.is_tpu() and q.shape[-1] // heads % 128 == 0:
        return flash_attention
    if sharding.is_nvidia() and q.dtype in (jnp.bfloat16, jnp.float16) and not merged:
        return cudnn_attention
    return chunked_attention
