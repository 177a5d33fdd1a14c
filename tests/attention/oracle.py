"""Attention and its gradients in float64 NumPy, and inputs to compare kernels on."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.compare import relative_error
from wan_jax.attention import query_scale


def inputs(n: int, s: int, heads: int, d: int, dtype=np.float32, batch: int = 1, seed: int = 0):
    """q, k, v and the cotangents of out and lse; q is scaled, and large enough for weights far from uniform."""
    rng = np.random.default_rng(seed)
    q, k, v, d_out = (rng.standard_normal((batch, length, heads * d)) for length in (n, s, s, n))
    q *= 2 * query_scale(d)
    return *(jnp.asarray(x, dtype) for x in (q, k, v, d_out)), rng.standard_normal((batch, heads, n), np.float32)


def float64(q, k, v, d_out, d_lse, heads: int, length: int | None = None):
    """out, lse, and the gradients with respect to q, k and v.

    With s = q·k, lse = log2 Σ 2^s and P = 2^(s - lse), out = P·v: the gradient of s is P·(ln 2·(dP - Σ P·dP) + dlse).
    """
    q, k, v, d_out = (_split(x, heads) for x in (q, k, v, d_out))
    length = k.shape[1] if length is None else length
    scores = np.einsum("bnkd,bskd->bkns", q, k)
    scores[..., length:] = -np.inf
    peak = np.maximum(scores.max(-1, keepdims=True), -1e9)
    with np.errstate(divide="ignore"):
        lse = peak + np.log2(np.exp2(scores - peak).sum(-1, keepdims=True))
    weights = np.exp2(scores - np.maximum(lse, -1e9))
    out = np.einsum("bkns,bskd->bnkd", weights, v)
    d_weights = np.einsum("bnkd,bskd->bkns", d_out, v)
    centred = d_weights - (weights * d_weights).sum(-1, keepdims=True)
    d_scores = weights * (np.log(2) * centred + np.asarray(d_lse, np.float64)[..., None])
    d_q = np.einsum("bkns,bskd->bnkd", d_scores, k)
    d_k = np.einsum("bkns,bnkd->bskd", d_scores, q)
    d_v = np.einsum("bkns,bnkd->bskd", weights, d_out)
    return _merge(out), lse[..., 0], _merge(d_q), _merge(d_k), _merge(d_v)


def results(kernel, q, k, v, d_out, d_lse, heads: int, length=None):
    """The same five from a kernel."""

    @jax.jit
    def run(q, k, v, d_out, d_lse, traced):
        (out, lse), pull = jax.vjp(
            lambda q, k, v: kernel(q, k, v, heads, length if traced is None else traced), q, k, v
        )
        return out, lse, *pull((d_out.astype(out.dtype), d_lse))

    return run(q, k, v, d_out, d_lse, length if isinstance(length, jax.Array) else None)


def errors(ours, theirs) -> list[float]:
    """Relative errors; what is all zero, or all minus infinity, must be met exactly."""
    found = []
    for a, b in zip(ours, theirs):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        exact = np.isneginf(b).all() or not b.any()
        error = float(not np.array_equal(a, b)) if exact else relative_error(a, b)
        found.append(np.inf if np.isnan(error) else error)  # max() would pass over it
    return found


def _split(x, heads: int):
    x = np.asarray(x, np.float64)
    return x.reshape(*x.shape[:2], heads, -1)


def _merge(x):
    return x.reshape(*x.shape[:2], -1)
