"""The TPU kernel in interpret mode against a float64 softmax, and its cost as the table has it."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wan_jax.attention import flash_forward as module
from wan_jax.attention import tiles
from wan_jax.attention.flash_forward import flash_forward

D = 128
LENGTHS = [1, 127, 128, 129, 1000, 4095, 5000]
run = jax.jit(functools.partial(flash_forward, interpret=True), static_argnames=("heads", "blocks"))


def inputs(n, s, heads=1, std=1.0, dtype=np.float32):
    """q already holds the scale; scores to base 2 have a deviation of about `std`."""
    rng = np.random.default_rng(n + s)
    q, k, v = (rng.standard_normal((1, length, heads * D)) for length in (n, s, s))
    return [jnp.asarray(x, dtype) for x in (q * std / D**0.5, k, v)]


def float64(q, k, v, heads=1):
    q, k, v = (np.asarray(x, np.float64).reshape(*x.shape[:2], heads, D).swapaxes(1, 2) for x in (q, k, v))
    scores = q @ k.swapaxes(2, 3)
    top = scores.max(-1, keepdims=True)
    weights = np.exp2(scores - top)
    total = weights.sum(-1, keepdims=True)
    out = (weights @ v / total).swapaxes(1, 2)
    return out.reshape(*out.shape[:2], heads * D), (top + np.log2(total))[..., 0]


def check(q, k, v, heads=1, **options):
    """In float32."""
    out, lse = run(q, k, v, heads, **options)
    expected_out, expected_lse = float64(q, k, v, heads)
    np.testing.assert_allclose(out, expected_out, atol=2e-5)
    np.testing.assert_allclose(lse, expected_lse, atol=2e-5, rtol=1e-6)


@pytest.mark.parametrize(("n", "s"), [*zip(LENGTHS, LENGTHS), (1, 5000), (129, 1000), (4095, 128)])
def test_lengths(n, s):
    check(*inputs(n, s, std=4), blocks=(1024, 2048))


def test_heads_and_batch():
    q, k, v = (jnp.concatenate([x, 0.5 * x[:, ::-1]]) for x in inputs(200, 700, heads=3, std=4))
    check(q, k, v, heads=3, blocks=(128, 256))


def test_chosen_tile():
    check(*inputs(150, 600, std=4))


@pytest.mark.parametrize("length", LENGTHS)
def test_bfloat16_is_as_good_as_xla(length):
    """Over enough queries for their errors to average."""
    q, k, v = inputs(2000, length, std=2, dtype=jnp.bfloat16)
    out, lse = run(q, k, v, 1, blocks=(1024, 2048))
    scores = jnp.einsum("bnd,bsd->bns", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * np.log(2), axis=-1).astype(jnp.bfloat16)
    xla = jnp.einsum("bns,bsd->bnd", weights, v, preferred_element_type=jnp.float32).astype(jnp.bfloat16)
    expected_out, expected_lse = float64(q, k, v)
    ours, theirs = (np.linalg.norm(np.asarray(x, np.float64) - expected_out) for x in (out, xla))
    assert out.dtype == jnp.bfloat16
    assert ours <= 1.01 * theirs
    np.testing.assert_allclose(lse, expected_lse, atol=1e-4)


def test_length(monkeypatch):
    """What lies past the length looks like keys or is no number; the last tile has all its groups, some, or none."""
    monkeypatch.setattr(module, "_GROUP", 128)
    q, k, v = inputs(130, 1013, std=4)
    cut = lambda q, k, v, length: flash_forward(q, k, v, 1, length, blocks=(128, 512), interpret=True)  # noqa: E731
    traced = jax.jit(cut)

    def check_length(run, length, garbage):
        out, lse = run(q, k.at[:, length:].set(garbage), v.at[:, length:].set(garbage), length)
        expected_out, expected_lse = float64(q, k[:, :length], v[:, :length])
        np.testing.assert_allclose(out, expected_out, atol=2e-5)
        np.testing.assert_allclose(lse, expected_lse, atol=2e-5)

    for length in (1, 100, 256, 257, 500, 511, 512, 513, 640, 641, 900, 1000, 1013):
        check_length(traced, length, garbage=np.nan)
        check_length(traced, length, garbage=1.0)
    for length in (512, 1000):
        check_length(cut, length, garbage=np.nan)


def test_no_keys():
    q, k, v = inputs(130, 300)
    for length in (0, jnp.int32(0)):
        out, lse = flash_forward(q, jnp.full_like(k, jnp.nan), v, 1, length, blocks=(128, 128), interpret=True)
        assert not out.any()
        assert (lse == -jnp.inf).all()


def along(scores):
    """Inputs with these scores [s] for every query, and a little more; exact in float32."""
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.integers(-1, 2, (1, length, D)) / 8, jnp.float32) for length in (130, len(scores)))
    v = inputs(1, len(scores))[2]
    return q.at[..., 0].set(1), k.at[..., 0].set(jnp.asarray(scores, jnp.float32)), v


S = 1100
ADVERSARIAL = {
    "growing by hundreds a tile": np.arange(S) * 1.0,
    "growing, then falling": 600.0 - np.abs(np.arange(S) - 700.0),
    "falling": -np.arange(S) * 1.0,
    "one huge key late": np.where(np.arange(S) == 1000, 3000.0, 0.0),
    "one huge key last": np.where(np.arange(S) == S - 1, 200.0, 0.0),
    "hugely negative": np.full(S, -1e4),
    "hugely negative at first": np.where(np.arange(S) < 300, -1e30, 0.0),
    "just below the limit": np.where(np.arange(S) < 256, 0.0, 51.0),
    "just above the limit": np.where(np.arange(S) < 256, 0.0, 61.0),
}


@pytest.mark.parametrize("scores", ADVERSARIAL.values(), ids=ADVERSARIAL)
@pytest.mark.parametrize("s", [1024, S])
def test_adversarial(scores, s):
    check(*along(scores[:s]), blocks=(128, 256))


def test_equal_scores_and_constant_rows():
    q, k, v = inputs(130, 700)
    check(jnp.zeros_like(q), k, v, blocks=(128, 256))
    check(q, jnp.ones_like(k), v, blocks=(128, 256))


def test_minus_infinity_is_a_weight_of_zero():
    q, k, v = inputs(130, 700, std=4)
    q = jnp.abs(q)  # so that a key of -inf has a score of -inf
    for hidden in (slice(0, 300), slice(300, 700), slice(250, 520)):
        out, lse = run(q, k.at[:, hidden].set(-jnp.inf), v, 1, blocks=(128, 256))
        seen = np.r_[tuple(set(range(700)) - set(range(700)[hidden]))]
        expected_out, expected_lse = float64(q, k[:, seen], v[:, seen])
        np.testing.assert_allclose(out, expected_out, atol=2e-5)
        np.testing.assert_allclose(lse, expected_lse, atol=2e-5)
    out, lse = run(q, jnp.full_like(k, -jnp.inf), v, 1, blocks=(128, 256))
    assert not out.any()
    assert (lse == -jnp.inf).all()


@pytest.mark.parametrize("length", [32760, 75600])
def test_modelled_cost(length):
    """Bundles per query and key that exist, on v6e."""
    block_q, block_kv = tiles.choose("TPU v6 lite", length, length)
    steps = 10 * -(-length // block_q) * -(-length // block_kv)
    name = tiles.name(block_q, block_kv, length, steps)
    assert tiles.is_measured("v6e", name)
    assert tiles.bundles("v6e", f"jit(f)/{name}/pallas_call") <= 1.60e-3 * 10 * length**2


def test_tiles_of_every_size():
    for generation in ("v5e", "v5p", "v6e"):
        for n, s in [(1, 1), (18900, 512), (4725, 75600), (100, 3000)]:
            block_q, block_kv = tiles.choose(generation, n, s)
            assert block_q % 128 == 0 and block_q < n + 128 * -(-n // block_q)
            assert block_kv % 256 == 0 and block_kv < s + 256
    assert tiles.choose("cpu", 5000, 5000) == tiles.choose("TPU v6e", 5000, 5000)
    assert tiles.bundles("v6e", "fusion.3") is None
    assert tiles.bundles("v9", tiles.name(1024, 512, 512, 1)) is None


COMPILE = """
import jax
from jax.experimental import topologies
from wan_jax.attention.flash_forward import flash_forward
chip = topologies.get_topology_desc(platform="tpu", topology_name="v6e:1x1", chips_per_host_bounds=[1, 1, 1])
sharding = jax.sharding.SingleDeviceSharding(chip.devices[0])
for n, s, dtype in [(1, 1, "bfloat16"), (129, 1000, "bfloat16"), (200, 300, "float32")]:
    q, k = (jax.ShapeDtypeStruct((1, m, 256), dtype, sharding=sharding) for m in (n, s))
    length = jax.ShapeDtypeStruct((), "int32", sharding=sharding)
    compiled = jax.jit(lambda q, k, v, length: flash_forward(q, k, v, 2, length)).lower(q, k, k, length).compile()
    assert "flash_" in compiled.as_text()
"""


@pytest.mark.libtpu
def test_compiles_for_tpu():
    env = {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v6e-8",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    subprocess.run([sys.executable, "-c", COMPILE], check=True, env=os.environ | env)
