"""LayerNorm, modulation and rounding."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from wan_jax import sharding
from wan_jax.kernels import fused
from wan_jax.typing import Float, typechecked

_ROWS = 128  # tokens per step; with a scale and shift per token 20 MB are in flight for a 14B model
_VMEM = 48 << 20


@typechecked
def layer_norm(
    x: Float["b n c"], scale: Float["b r c"], shift: Float["b r c"], eps: float, dtype: DTypeLike
) -> Float["b n c"]:
    """LayerNorm, times `scale`, plus `shift`, one each per token or one for all (r); float32 until the result."""

    def formula(x, scale, shift):
        return (_normalise(x, eps) * scale + shift).astype(dtype)

    def kernel(x, scale, shift):
        tokens = sharding.token_spec(x.shape)
        table = tokens if scale.shape[1] > 1 else P(tokens[0])
        run = partial(layer_norm_kernel, eps=eps, dtype=dtype)
        return sharding.shard_map(run, in_specs=(tokens, table, table), out_specs=tokens)(x, scale, shift)

    return fused(formula, kernel, x.shape[-1])(x, scale, shift)


def layer_norm_kernel(x, scale, shift, *, eps, dtype, interpret=False):
    b, n, c = x.shape
    rows = min(_ROWS, n)
    tokens = pl.BlockSpec((1, rows, c), lambda i, j: (i, j, 0))
    table = tokens if scale.shape[1] > 1 else pl.BlockSpec((1, 1, c), lambda i, j: (i, 0, 0))
    grid = (b, pl.cdiv(n, rows))
    return pl.pallas_call(
        partial(_kernel, eps=eps),
        grid=grid,
        in_specs=[tokens, table, table],
        out_specs=tokens,
        out_shape=jax.ShapeDtypeStruct(x.shape, dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=_VMEM),
        name=f"layernorm_n{rows}_c{c}_x{b * grid[1]}",
        interpret=interpret,
    )(x, scale, shift)


def _kernel(x_ref, scale_ref, shift_ref, out_ref, *, eps):
    out_ref[0] = (_normalise(x_ref[0], eps) * scale_ref[0] + shift_ref[0]).astype(out_ref.dtype)


def _normalise(x, eps):
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)
