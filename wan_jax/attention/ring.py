"""Attention to keys that pass from device to device (Ring Attention, arXiv:2310.01889).

Runs inside `jax.shard_map`.  Each device keeps its queries and attends to one piece of the keys after the other, while
the next piece is on its way; partial results are merged by their sums.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from wan_jax.typing import Float, Int, typechecked

Partial = tuple[Float["b n c"], Float["b k n"]]  # attention to some of the keys: out, lse


@typechecked
def ring_attention(
    local: Callable,
    q: Float["b n c"],
    k: Float["b s c"],
    v: Float["b s c"],
    heads: int,
    length: int | Int[""] | None,
    axes: tuple[str, ...],
    stride: int,
) -> tuple[Float["b n c"], Float["b k n"]]:
    """Attends to all pieces of a sequence with a kernel that attends to one.

    Args:
        local: the kernel, in the protocol of this package.
        length: valid keys in the whole sequence, which may be padded at its end.
        axes: the mesh axes along which the pieces lie.
        stride: this many neighbours hold the same piece, with other heads; rings run through every `stride`-th device.
    """
    size, index = jax.lax.axis_size(axes), jax.lax.axis_index(axes)
    steps = size // stride
    forward = [(i, (i + stride) % size) for i in range(size)]
    partials = []
    for step in range(steps):
        held, keys, values = (index // stride - step) % steps, k, v
        if step < steps - 1:  # asked for before it is needed, so that it travels during the computation
            k, v = (jax.lax.ppermute(x, axes, forward) for x in (k, v))
        valid = None if length is None else jnp.clip(length - held * keys.shape[1], 0, keys.shape[1])
        out, lse = local(q, keys, values, heads, valid)
        partials.append((out.astype(jnp.float32), lse))
    out, lse = functools.reduce(merge, partials)
    return out.astype(q.dtype), lse


def merge(a: Partial, b: Partial) -> Partial:
    """The result over both sets of keys; either may be empty, with a sum of 2^-inf."""
    (out_a, lse_a), (out_b, lse_b) = a, b
    peak = jax.lax.stop_gradient(jnp.maximum(lse_a, lse_b))
    peak = jnp.where(peak == -jnp.inf, 0.0, peak)
    weight_a, weight_b = jnp.exp2(lse_a - peak), jnp.exp2(lse_b - peak)
    total = weight_a + weight_b
    some = total > 0
    total = jnp.where(some, total, 1.0)
    out = _weigh(out_a, weight_a / total) + _weigh(out_b, weight_b / total)
    return out, jnp.where(some, peak + jnp.log2(total), -jnp.inf)


def _weigh(out: Float["b n c"], weight: Float["b k n"]) -> Float["b n c"]:
    """A head's weight on all of its features; spread by a product, at half of what a reshape costs on a TPU."""
    heads = weight.shape[1]
    spread = jnp.repeat(jnp.eye(heads), out.shape[2] // heads, axis=1)
    return out * jnp.einsum("bkn,kc->bnc", weight, spread, precision=jax.lax.Precision.HIGHEST)
