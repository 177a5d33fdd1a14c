"""The attention kernels against a float64 softmax."""

import numpy as np
import pytest

from wan_jax.attention import chunked
from wan_jax.attention.chunked import chunked_attention
from wan_jax.attention.reference import reference_attention


def inputs(n, s, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((2, length, 3, 16)).astype(dtype) for length in (n, s, s)]


def float64(q, k, v):
    scores = np.einsum("bnkd,bskd->bkns", q.astype(np.float64), k.astype(np.float64)) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bkns,bskd->bnkd", weights / weights.sum(-1, keepdims=True), v.astype(np.float64))


def test_reference():
    q, k, v = inputs(33, 47)
    np.testing.assert_allclose(reference_attention(q, k, v), float64(q, k, v), atol=2e-6)


@pytest.mark.parametrize("n", [1, 7, 64, 65, 100])
def test_chunks_of_queries(monkeypatch, n):
    """With a bound that allows seven queries at a time."""
    q, k, v = inputs(n, 40)
    monkeypatch.setattr(chunked, "_SCORE_BYTES", 4 * 2 * 3 * 40 * 7)
    np.testing.assert_allclose(chunked_attention(q, k, v), float64(q, k, v), atol=2e-6)
