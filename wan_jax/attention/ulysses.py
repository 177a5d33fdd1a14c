"""Heads for sequence: every device gets some heads of a longer piece (DeepSpeed-Ulysses, arXiv:2309.14509).

Runs inside `jax.shard_map`.
"""

from collections.abc import Callable

import jax

from wan_jax.kernels.relayout import join_features, part_features
from wan_jax.typing import Float, typechecked


@typechecked
def ulysses_attention(
    attend: Callable, q: Float["b n c"], k: Float["b n c"], v: Float["b n c"], axes: tuple[str, ...], degree: int
) -> Float["b n c"]:
    """`attend(q, k, v)`, where each of `degree` neighbours has 1/degree of the heads and all of their sequence.

    Args:
        axes: the mesh axes along which the sequence lies in pieces; neighbours are the innermost on them.
    """
    if degree == 1:
        return attend(q, k, v)
    size = jax.lax.axis_size(axes)
    groups = [list(range(start, start + degree)) for start in range(0, size, degree)]

    def exchange(pieces: Float["b p n d"]) -> Float["b p n d"]:
        return jax.lax.all_to_all(pieces, axes, split_axis=1, concat_axis=1, axis_index_groups=groups, tiled=True)

    def to_heads(x: Float["b n c"]) -> Float["b n c"]:
        pieces = exchange(part_features(x, degree))
        return pieces.reshape(len(x), -1, pieces.shape[-1])

    out = attend(to_heads(q), to_heads(k), to_heads(v))
    return join_features(exchange(out.reshape(len(q), degree, -1, out.shape[-1])))
