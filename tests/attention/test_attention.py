"""The attention kernels in plain XLA, and the door, against a float64 softmax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.oracle import errors, float64, inputs, results
from wan_jax.attention import chunked, cross_attention, self_attention
from wan_jax.attention.chunked import chunked_attention
from wan_jax.attention.cudnn import cudnn_attention
from wan_jax.attention.reference import reference_attention

HEADS = 3


@pytest.mark.parametrize("length", [None, 0, 1, 40])
def test_reference(length):
    x = inputs(33, 47, HEADS, 16, batch=2)
    theirs = float64(*x, HEADS, length)
    assert max(errors(results(reference_attention, *x, HEADS, length), theirs)) < 1e-6
    if length is not None:
        assert max(errors(results(reference_attention, *x, HEADS, jnp.int32(length)), theirs)) < 1e-6


@pytest.mark.parametrize("n, length", [(1, 29), (7, 0), (64, 29), (65, None)])
def test_chunks_of_queries(monkeypatch, n, length):
    """With a bound that allows seven queries at a time."""
    x = inputs(n, 40, HEADS, 16, batch=2)
    monkeypatch.setattr(chunked, "_SCORE_BYTES", 4 * 2 * HEADS * 40 * 7)
    assert max(errors(results(chunked_attention, *x, HEADS, length), float64(*x, HEADS, length))) < 1e-6


def test_chunked_memory_is_bounded(monkeypatch):
    """Of the forward pass and of the gradients: all scores would take 2 GiB."""
    monkeypatch.setattr(chunked, "_SCORE_BYTES", 2**24)
    x = jax.ShapeDtypeStruct((1, 16384, 2 * 8), jnp.float32)

    def loss(q, k, v):
        out, lse = chunked_attention(q, k, v, 2)
        return out.sum() + lse.sum()

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**27


@pytest.mark.parametrize("kernel", [reference_attention, chunked_attention])
def test_bfloat16(kernel):
    """Sums stay in float32: the error is that of rounding the inputs, weights and results."""
    x = inputs(33, 470, HEADS, 16, jnp.bfloat16)
    out, lse, *grads = errors(results(kernel, *x, HEADS), float64(*x, HEADS))
    assert out < 4e-3 and lse < 1e-6 and max(grads) < 1e-2


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("n, s, length", [(127, 129, None), (129, 4095, 3000), (128, 128, None)])
def test_cudnn(n, s, length):
    q, k, v, d_out, d_lse = inputs(n, s, 2, 128, jnp.bfloat16)
    out, pull = jax.vjp(lambda q, k, v: cudnn_attention(q, k, v, 2, length)[0], q, k, v)
    theirs, _, *grads = float64(q, k, v, d_out, 0 * d_lse, 2, length)
    assert max(errors([out, *pull(d_out)], [theirs, *grads])) < 3e-3


def test_door():
    q, k, v, d_out, d_lse = inputs(33, 33, HEADS, 16, batch=2)
    for length, attend in ((None, self_attention), (20, functools.partial(self_attention, length=20))):
        out = attend(q, k, v, HEADS)
        assert errors([out], float64(q, k, v, d_out, d_lse, HEADS, length))[0] < 1e-6
    out = cross_attention(q, k[:, :20], v[:, :20], HEADS)
    np.testing.assert_allclose(out, self_attention(q, k, v, HEADS, 20), atol=2e-6)
