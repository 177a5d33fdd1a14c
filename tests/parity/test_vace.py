"""VACE against Diffusers' WanVACETransformer3DModel and WanVACEPipeline, float32."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from convert.dit import dit_rules
from tests.compare import relative_error
from tests.parity import reference
from wan_jax.config import DiTConfig
from wan_jax.models.dit import Context, DiT, abstract_params


@pytest.mark.parametrize("layers, scale", [((0, 2), (1.0, 1.0)), ((0, 1, 3), (0.3, 1.7, -0.6))])
@pytest.mark.parametrize("remat", ["all", "nothing"])
def test_velocity(layers, scale, remat):
    """Of a guided batch: one context for the prompts and their negatives."""
    module = reference.vace_dit(num_layers=4, vace_layers=list(layers))
    config = DiTConfig.from_json(dict(module.config), "transformer/config.json")
    assert config.vace_layers == layers
    params = reference.params_of(module, dit_rules(config), abstract_params(config))
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, 3, 4, 6, 16), np.float32)
    frames = rng.standard_normal((1, 3, 4, 6, 96), np.float32)
    text = rng.standard_normal((2, 12, config.text_dim), np.float32)
    timestep = np.array([999, 437])
    first = [torch.from_numpy(x).permute(0, 4, 1, 2, 3) for x in (latents, frames.repeat(2, 0))]
    with torch.no_grad():
        theirs = module(
            hidden_states=first[0],
            control_hidden_states=first[1],
            control_hidden_states_scale=torch.tensor(scale),
            timestep=torch.from_numpy(timestep),
            encoder_hidden_states=torch.from_numpy(text),
            return_dict=False,
        )[0]
    dit = DiT(config, jnp.float32, remat)
    context = Context(frames, jnp.asarray(scale))
    ours = dit.apply({"params": params}, latents, timestep[:, None].astype(np.float32), text, None, context)
    assert relative_error(ours, theirs.permute(0, 2, 3, 4, 1)) <= 1e-5
