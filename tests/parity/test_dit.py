"""The denoiser against Diffusers' WanTransformer3DModel, float32."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from convert.dit import dit_rules
from tests.compare import relative_error
from tests.parity import reference
from wan_jax.config import DiTConfig
from wan_jax.models.dit import DiT, abstract_params

TOLERANCE = 1e-5


def velocities(torch_dit, grid, timestep, token_timestep=None, row=None, batch=2, text_length=12, images=0):
    """(ours, theirs), both [b, f, h, w, c], for one random input."""
    config = DiTConfig.from_json(dict(torch_dit.config), "transformer/config.json")
    params = reference.params_of(torch_dit, dit_rules(config), abstract_params(config))
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((batch, *grid, config.in_channels), np.float32)
    text = rng.standard_normal((batch, text_length, config.text_dim), np.float32)
    text[:, text_length // 2 :] = 0  # the padding takes part in cross-attention
    given, shown = {}, {}
    if images:
        tokens = rng.standard_normal((batch * images, 7, config.image_dim), np.float32)
        tokens *= np.float32(0.05)  # so small that the norm's epsilon matters
        given["encoder_hidden_states_image"] = torch.from_numpy(tokens)
        shown["image"] = tokens.reshape(batch, -1, config.image_dim)
    with torch.no_grad():
        theirs = torch_dit(
            hidden_states=torch.from_numpy(latents).permute(0, 4, 1, 2, 3),
            timestep=torch.from_numpy(timestep[:, 0] if token_timestep is None else token_timestep),
            encoder_hidden_states=torch.from_numpy(text),
            return_dict=False,
            **given,
        )[0]
    ours = DiT(config, jnp.float32).apply({"params": params}, latents, timestep.astype(np.float32), text, row, **shown)
    return ours, theirs.permute(0, 2, 3, 4, 1)


@pytest.mark.parametrize(
    "config, grid",
    [
        ({}, (3, 4, 6)),
        # The released head: 22, 21 and 21 pairs, on a grid whose axes all differ.
        ({"attention_head_dim": 128, "num_layers": 2}, (5, 6, 14)),
    ],
)
def test_velocity(config, grid):
    ours, theirs = velocities(reference.dit(**config), grid, np.array([[999], [437]]))
    assert relative_error(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("images", [1, 2])
def test_pictures_through_clip(images):
    """As Wan2.1 image to video is shown them; Diffusers takes what is before the last 512 tokens for pictures."""
    positions = {"pos_embed_seq_len": 2 * 7} if images == 2 else {}
    config = {"in_channels": 36, "image_dim": 20, "added_kv_proj_dim": 24} | positions
    options = {"text_length": 512, "images": images}
    ours, theirs = velocities(reference.dit(**config), (3, 4, 6), np.array([[999], [437]]), **options)
    assert relative_error(ours, theirs) <= TOLERANCE


def test_per_token_timesteps():
    """One row per distinct timestep equals Diffusers' one timestep per token."""
    tokens_per_frame, frames = 2 * 3, 3
    row = np.repeat([0, 1, 1], tokens_per_frame).astype(np.int32)
    timestep = np.array([[0, 999], [0, 437]])
    ours, theirs = velocities(reference.dit(), (frames, 4, 6), timestep, timestep[:, row], row)
    assert relative_error(ours, theirs) <= TOLERANCE


def test_one_block_at_full_width():
    """14B width: 40 heads of 128, feed-forward 13,824."""
    wide = {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "text_dim": 4096, "num_layers": 1}
    ours, theirs = velocities(reference.dit(**wide), (3, 6, 10), np.array([[875]]), batch=1, text_length=24)
    assert relative_error(ours, theirs) <= TOLERANCE
