"""Rotary position embedding over frame, row and column (arXiv:2104.09864; Wan2.2, wan/modules/model.py).

A head of d features is d/2 complex pairs.  The pairs are shared out over the three axes (22, 21 and 21 of 64 for
d = 128), and every axis has its own ladder of frequencies.

Wan's PyTorch weights pair neighbouring features (2j, 2j+1).  Ours pair feature j with feature j + d/2: `convert`
permutes the output columns of the query and key projections to match, which leaves q·k unchanged.  The rotation of
a head x is then x · cos + swap(x) · sin, where swap exchanges its halves and sin is negative in the first: on a TPU,
one turn of the 128 lanes by 64, where neighbours would have to be shuffled.
"""

import jax.numpy as jnp
import numpy as np

from wan_jax.kernels.qk_norm import Rope
from wan_jax.typing import Float


def pairs_per_axis(head_dim: int) -> tuple[int, int, int]:
    """How many of the head's complex pairs encode frame, row and column."""
    spatial = head_dim // 6
    return head_dim // 2 - 2 * spatial, spatial, spatial


def rope_table(grid: tuple[int, int, int], head_dim: int) -> Rope:
    """Cosines and signed sines for every token of a (frames, rows, columns) grid, in that token order.

    The angles of each axis are computed in float64 on the host; the full table is broadcast from them on the device,
    so that no constant of the size of the video is compiled in.
    """
    angles = []
    for axis, (length, pairs) in enumerate(zip(grid, pairs_per_axis(head_dim))):
        frequencies = 10000.0 ** (-np.arange(pairs) / pairs)
        table = np.arange(length)[:, None] * frequencies
        shape = [1, 1, 1, pairs]
        shape[axis] = length
        angles.append(table.reshape(shape))

    def over_grid(first, second) -> Float["n d"]:
        halves = [f(a).astype(np.float32) for f in (first, second) for a in angles]
        parts = [jnp.broadcast_to(part, (*grid, part.shape[-1])) for part in halves]
        return jnp.concatenate(parts, axis=-1).reshape(-1, head_dim)

    return over_grid(np.cos, np.cos), over_grid(lambda a: -np.sin(a), np.sin)
