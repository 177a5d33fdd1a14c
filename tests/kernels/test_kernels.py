"""The TPU kernels between matrix products, interpreted on CPU, against NumPy in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compare import relative_error
from wan_jax.kernels import fused
from wan_jax.kernels.layer_norm import layer_norm, layer_norm_kernel
from wan_jax.kernels.qk_norm import qk_norm, qk_norm_kernel
from wan_jax.kernels.relayout import join_features, part_features, relayout_kernel

HEADS, TOKENS = 3, 300  # tokens that fill no whole block
FEATURES = HEADS * 128
rng = np.random.default_rng(0)


def normal(*shape) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


X, SCALE = normal(2, TOKENS, FEATURES) + 3, normal(FEATURES)
ANGLES = rng.uniform(0, 6, (TOKENS, 64))
ROPE = tuple(x.astype(np.float32) for x in (np.tile(np.cos(ANGLES), 2), np.hstack([-np.sin(ANGLES), np.sin(ANGLES)])))


@pytest.mark.parametrize("rows", [1, TOKENS])
def test_layer_norm(rows):
    scale, shift = normal(2, rows, FEATURES), normal(2, rows, FEATURES)
    x = X.astype(np.float64)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + shift
    kernel = layer_norm_kernel(X, scale, shift, eps=1e-6, dtype=np.float32, interpret=True)
    assert relative_error(kernel, expected) <= 1e-6
    assert relative_error(layer_norm(X, scale, shift, 1e-6, np.float32), expected) <= 1e-6


@pytest.mark.parametrize("rope", [None, ROPE])
def test_qk_norm(rope):
    x = X.astype(np.float64)
    inverse = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    expected = (x * inverse * SCALE).reshape(2, TOKENS, HEADS, 2, 64)
    if rope:
        turned = (expected[..., 0, :] + 1j * expected[..., 1, :]) * np.exp(1j * ANGLES)[:, None]
        expected = np.stack([turned.real, turned.imag], axis=-2)
    expected = expected.reshape(X.shape)
    kernel = qk_norm_kernel(X, inverse.astype(np.float32), SCALE, *(rope or ()), dtype=np.float32, interpret=True)
    assert relative_error(kernel, expected) <= 1e-6
    assert relative_error(qk_norm(X, SCALE, rope, HEADS, 1e-6, np.float32), expected) <= 1e-6


def test_features_are_parted_and_joined():
    parted = relayout_kernel(X, pieces=HEADS, interpret=True)
    np.testing.assert_array_equal(parted, X.reshape(2, TOKENS, HEADS, 128).transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(parted, part_features(X, HEADS))
    np.testing.assert_array_equal(relayout_kernel(parted, pieces=HEADS, interpret=True), X)
    np.testing.assert_array_equal(join_features(parted), X)


def test_a_kernel_takes_its_gradient_from_the_formula(monkeypatch):
    scale, shift = normal(2, 1, FEATURES), normal(2, 1, FEATURES)

    def formula(x, scale, shift):
        return layer_norm(x, scale, shift, 1e-6, np.float32)

    kernel = partial(layer_norm_kernel, eps=1e-6, dtype=np.float32, interpret=True)

    def loss(f, *args):
        return jnp.sum(jnp.sin(f(*args)))

    expected = jax.grad(partial(loss, formula), argnums=(0, 1, 2))(X, scale, shift)
    monkeypatch.setattr("wan_jax.sharding.is_tpu", lambda: True)
    run = fused(formula, kernel, FEATURES)
    monkeypatch.undo()
    for a, b in zip(jax.grad(partial(loss, run), argnums=(0, 1, 2))(X, scale, shift), expected):
        assert relative_error(a, b) <= 1e-5
