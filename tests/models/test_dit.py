"""The denoiser against stored outputs of Diffusers, and its own invariants."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from convert.dit import dit_rules
from convert.rules import flat
from tests.compare import relative_error
from tests.rearrange import to_jax
from wan_jax.config import DiTConfig
from wan_jax.kernels.qk_norm import qk_norm
from wan_jax.models.dit import DiT, abstract_params, patchify, unpatchify
from wan_jax.models.rope import pairs_per_axis, rope_table

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "dit.npz"  # written by make_goldens.py
CONFIG = DiTConfig(num_layers=2, num_attention_heads=2, attention_head_dim=24, ffn_dim=40, text_dim=32)


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


@pytest.fixture(scope="module")
def params(golden):
    shapes = flat(abstract_params(CONFIG))
    get = lambda name: golden[f"weights/{name}"]  # noqa: E731
    rules = dit_rules(CONFIG)
    return unflatten_dict(
        {rule.path: to_jax(rule, "diffusers", shapes[rule.path].shape, np.float32, get) for rule in rules}, sep="/"
    )


@pytest.fixture(scope="module")
def inputs(golden):
    """(latents [b f h w c], timestep [b 1], text)."""
    return np.moveaxis(golden["latents"], 1, -1), golden["timestep"][:, None].astype(np.float32), golden["text"]


def velocity(params, *inputs, dtype=jnp.float32):
    return jax.jit(DiT(CONFIG, dtype).apply)({"params": params}, *inputs)


def test_velocity_is_that_of_diffusers(golden, params, inputs):
    assert relative_error(velocity(params, *inputs), np.moveaxis(golden["velocity"], 1, -1)) <= 1e-5


def test_bfloat16_keeps_the_residual_in_float32(golden, params, inputs):
    coarse = velocity(params, *inputs, dtype=jnp.bfloat16)
    assert coarse.dtype == jnp.float32
    assert relative_error(coarse, np.moveaxis(golden["velocity"], 1, -1)) <= 0.03


def test_rows_of_one_timestep_are_one_timestep(params, inputs):
    """Two rows that hold the same timestep, spread over the tokens, change nothing."""
    latents, timestep, text = inputs
    row = np.arange(3 * 2 * 3, dtype=np.int32) % 2
    both = velocity(params, latents, np.repeat(timestep, 2, axis=1), text, row)
    assert relative_error(both, velocity(params, latents, timestep, text)) <= 1e-6


def test_text_is_encoded_once(params, inputs):
    """`velocity` on `encode_text` is the one-call form."""
    latents, timestep, text = inputs
    dit = DiT(CONFIG, jnp.float32)
    kv = dit.apply({"params": params}, text, method="encode_text")
    assert kv.keys.shape == (CONFIG.num_layers, 2, 7, 48)
    apart = dit.apply({"params": params}, latents, timestep, kv, method="velocity")
    assert relative_error(apart, velocity(params, *inputs)) <= 1e-6


def test_patches_round_trip():
    latents = np.arange(2 * 3 * 4 * 6 * 5, dtype=np.float32).reshape(2, 3, 4, 6, 5)
    tokens = patchify(latents)
    np.testing.assert_array_equal(tokens[0, 1], latents[0, 0, 0:2, 2:4].reshape(-1))  # row, column, channel
    np.testing.assert_array_equal(unpatchify(tokens, (3, 2, 3)), latents)


def test_released_rope_split():
    assert pairs_per_axis(128) == (22, 21, 21)


def test_rope_depends_on_relative_position_alone():
    """q·k of two tokens is the same wherever the pair of them stands in the grid."""
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 24), np.float32)
    grid = (4, 5, 6)
    tokens = 4 * 5 * 6
    rope = rope_table(grid, 24)
    spread = lambda x: np.broadcast_to(x, (1, tokens, 24))  # noqa: E731
    qs, ks = (qk_norm(spread(x), np.ones(24, np.float32), rope, 1, 0.0, np.float32) for x in (q, k))
    qs, ks = qs.reshape(*grid, 24), ks.reshape(*grid, 24)
    scores = np.einsum("fhwd,fhwd->fhw", qs[:-1, :-2, :-1], ks[1:, 2:, 1:])
    np.testing.assert_allclose(scores, scores[0, 0, 0], rtol=1e-4)
    other = np.einsum("fhwd,fhwd->fhw", qs[:-1, :-1, :-2], ks[1:, 1:, 2:])
    assert abs(other[0, 0, 0] - scores[0, 0, 0]) > 0.1  # rows and columns are told apart
