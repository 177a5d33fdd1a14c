"""Queries and keys from their projections: normalised, turned by position, rounded."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from wan_jax import sharding
from wan_jax.kernels import LANES, fused
from wan_jax.typing import Float, typechecked

_ROWS = 256  # tokens per step: in and out, twice each, about 10 MB of a 14B model

Rope = tuple[Float["n d"], Float["n d"]]  # cosines and signed sines for the d features of a head


@typechecked
def qk_norm(
    x: Float["b n c"], scale: Float[" c"], rope: Rope | None, heads: int, eps: float, dtype: DTypeLike
) -> Float["b n c"]:
    """x / √(mean x² + eps) · scale, over all heads together; then each head turned by its token's angles, if any.

    A head x turns into x · cos + swap(x) · sin, where swap exchanges its halves; see `wan_jax.models.rope`.  All is
    float32 until the result.
    """
    head_dim = x.shape[-1] // heads
    # XLA sums the squares as the projection writes them; heads on several devices are its business, too.
    inverse = jax.lax.rsqrt(jnp.square(x.astype(jnp.float32)).mean(-1, keepdims=True) + eps)

    def formula(x, inverse, scale, *rope):
        x = x.astype(jnp.float32) * inverse * scale
        if rope:
            cos, sin = rope[0][:, None], rope[1][:, None]
            heads = x.reshape(*x.shape[:2], -1, head_dim)
            x = (heads * cos + jnp.roll(heads, head_dim // 2, axis=-1) * sin).reshape(x.shape)
        return x.astype(dtype)

    def kernel(x, inverse, scale, *rope):
        cut = sharding.token_spec(x.shape)
        features = sharding.dividing("tensor", heads)
        tokens, angles = P(*cut, features), P(cut[1])
        return sharding.shard_map(
            partial(qk_norm_kernel, dtype=dtype),
            in_specs=(tokens, cut, P(features), *(angles for _ in rope)),
            out_specs=tokens,
        )(x, inverse, scale, *rope)

    return fused(formula, kernel, head_dim)(x, inverse, scale, *(rope or ()))


def qk_norm_kernel(x, inverse, scale, *rope, dtype, interpret=False):
    b, n, c = x.shape
    rows = min(_ROWS, n)
    token = lambda width: pl.BlockSpec((1, rows, width), lambda i, j: (i, j, 0))  # noqa: E731
    angle = pl.BlockSpec((rows, LANES), lambda i, j: (j, 0))
    grid = (b, pl.cdiv(n, rows))
    return pl.pallas_call(
        _turned if rope else _scaled,
        grid=grid,
        in_specs=[token(c), token(1), pl.BlockSpec((1, c), lambda i, j: (0, 0)), *(angle for _ in rope)],
        out_specs=token(c),
        out_shape=jax.ShapeDtypeStruct(x.shape, dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        name=f"qk{'rope' if rope else 'norm'}_n{rows}_c{c}_x{b * grid[1]}",
        interpret=interpret,
    )(x, inverse, scale[None], *rope)


def _turned(x_ref, inverse_ref, scale_ref, cos_ref, sin_ref, out_ref):
    inverse, cos, sin = inverse_ref[0], cos_ref[...], sin_ref[...]
    for start in range(0, x_ref.shape[-1], LANES):
        head = slice(start, start + LANES)
        x = x_ref[0, :, head].astype(jnp.float32) * inverse * scale_ref[:, head]
        out_ref[0, :, head] = (x * cos + pltpu.roll(x, LANES // 2, axis=1) * sin).astype(out_ref.dtype)


def _scaled(x_ref, inverse_ref, scale_ref, out_ref):
    out_ref[0] = (x_ref[0].astype(jnp.float32) * inverse_ref[0] * scale_ref[...]).astype(out_ref.dtype)
