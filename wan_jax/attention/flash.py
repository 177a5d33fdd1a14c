"""Attention for TPU: the forward and the backward kernel as one differentiable function."""

import functools

import jax
import jax.numpy as jnp

from wan_jax import sharding
from wan_jax.attention.flash_backward import flash_backward
from wan_jax.attention.flash_forward import flash_forward
from wan_jax.remat import ATTENTION, keep
from wan_jax.typing import Float, Int, typechecked


@typechecked
def flash_attention(
    q: Float["b n c"], k: Float["b s c"], v: Float["b s c"], heads: int, length: int | Int[""] | None = None
) -> tuple[Float["b n c"], Float["b k n"]]:
    """The kernel protocol of this package, for heads a multiple of 128 wide; simulated where there is no TPU."""
    return _flash(heads, q, k, v, jnp.int32(k.shape[1] if length is None else length))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _flash(heads, q, k, v, length):
    return flash_forward(q, k, v, heads, length, interpret=not sharding.is_tpu())


def _forward(heads, q, k, v, length):
    out, lse = (keep(x, ATTENTION) for x in _flash(heads, q, k, v, length))
    return (out, lse), (q, k, v, out, lse, length)


def _backward(heads, saved, gradients):
    q, k, v, out, lse, length = saved
    return *flash_backward(q, k, v, out, lse, *gradients, length, interpret=not sharding.is_tpu()), None


_flash.defvjp(_forward, _backward)
