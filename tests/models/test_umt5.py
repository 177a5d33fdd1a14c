"""The umT5 encoder: what holds without a reference, and the full-size parameter tree."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert.rules import torch_shapes
from convert.umt5 import UMT5_ALIASES, umt5_rules
from wan_jax.config import UMT5Config
from wan_jax.models.umt5 import UMT5Encoder, abstract_params, attend, relative_buckets

GOLDEN = Path(__file__).parents[1] / "goldens/keys/umt5_xxl.json"
TINY = UMT5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=24, num_layers=3, num_heads=2)


@pytest.fixture(scope="module")
def params():
    ids = jnp.zeros((1, 4), jnp.int32)
    return UMT5Encoder(TINY, jnp.float32).init(jax.random.key(0), ids, ids)


@pytest.fixture
def prompts():
    """Ids [3 12] of 12, 5 and 1 real tokens, with their mask."""
    ids = np.random.default_rng(0).integers(3, 64, (3, 12))
    return ids, np.arange(12) < np.array([[12], [5], [1]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_padding_is_not_seen(params, prompts, dtype):
    """The result depends neither on the ids of the padding nor on its length."""
    ids, mask = prompts
    encoder = UMT5Encoder(TINY, dtype)
    states = encoder.apply(params, np.where(mask, ids, 0), mask)
    assert states.dtype == jnp.float32
    np.testing.assert_array_equal(encoder.apply(params, ids, mask.astype(np.int32)), states)
    tolerance = 1e-5 if dtype == jnp.float32 else 5e-2  # other shapes sum in another order
    np.testing.assert_allclose(encoder.apply(params, ids[1:2, :5], mask[1:2, :5]), states[1:2, :5], atol=tolerance)


def test_padding_rows_are_zero(params, prompts):
    ids, mask = prompts
    states = np.asarray(UMT5Encoder(TINY, jnp.float32).apply(params, ids, mask))
    assert (states[~mask] == 0).all() and np.abs(states[mask]).min(-1).max() > 0


def test_order_matters(params, prompts):
    ids, mask = prompts
    encoder = UMT5Encoder(TINY, jnp.float32)
    forward = encoder.apply(params, ids[:1], mask[:1])
    backward = encoder.apply(params, ids[:1, ::-1], mask[:1])[:, ::-1]
    assert np.abs(forward - backward).max() > 0.1


def test_attention_is_unscaled_and_biased():
    rng = np.random.default_rng(1)
    q, k, v = rng.standard_normal((3, 1, 4, 2, 8)).astype(np.float32)
    bias = rng.standard_normal((2, 4, 4)).astype(np.float32)
    mask = np.array([[True, True, False, True]])
    for head in range(2):
        weights = np.exp(q[0, :, head] @ k[0, :, head].T + bias[head]) * mask
        expected = weights / weights.sum(-1, keepdims=True) @ v[0, :, head]
        np.testing.assert_allclose(attend(q, k, v, bias, mask)[0, :, head], expected, rtol=1e-4)


def test_buckets():
    """Values worked out from Wan2.2, wan/modules/t5.py, `T5RelativeEmbedding`."""
    buckets = relative_buckets(512, 32, 128)
    from_query_0 = {0: 0, 1: 17, 7: 23, 8: 24, 16: 26, 32: 28, 64: 30, 127: 31, 128: 31, 511: 31}
    from_key_0 = {1: 1, 8: 8, 16: 10, 64: 14, 128: 15, 511: 15}
    assert {d: buckets[0, d] for d in from_query_0} == from_query_0
    assert {d: buckets[d, 0] for d in from_key_0} == from_key_0
    assert set(np.unique(buckets)) == set(range(32)) - {16}  # 16 would be a key after the query at distance 0


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_full_size_tree(layout):
    """Every tensor of umT5-xxl, under both of its names, is accounted for."""
    rules, tree = umt5_rules(UMT5Config()), abstract_params(UMT5Config())
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype(np.float32)}
    golden = json.loads(GOLDEN.read_text())
    expected = {
        tensor[layout].replace("{i}", str(i)): tuple(tensor["shape"])
        for tensor in golden["tensors"]
        for i in range(golden["layers"])
    }
    assert torch_shapes(rules, layout, tree) == expected
    assert not set(UMT5_ALIASES) & set(expected)
    assert layout == "original" or set(UMT5_ALIASES.values()) <= set(expected)
