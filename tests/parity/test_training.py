"""The training loss and its gradient against PyTorch's, through Diffusers' WanTransformer3DModel, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from convert.dit import dit_rules
from convert.rules import flat
from tests.parity import reference
from tests.rearrange import to_jax
from wan_jax.conditioning import Conditioning
from wan_jax.config import DiTConfig
from wan_jax.models.dit import Context, DiT, abstract_params
from wan_jax.train.objective import flow_matching_loss

BATCH, FRAMES, HEIGHT, WIDTH, CHANNELS = 2, 3, 4, 6, 16
SIGMA = np.array([0.93, 0.31], np.float32)


def batch(text_dim, extra_channels):
    """Clean latents, noise, text and what is appended to the latents, [b f h w c]."""
    rng = np.random.default_rng(0)
    size = (BATCH, FRAMES, HEIGHT, WIDTH)
    clean, noise = (rng.standard_normal((*size, CHANNELS), np.float32) for _ in range(2))
    text = rng.standard_normal((BATCH, 12, text_dim), np.float32)
    text[:, 7:] = 0
    return clean, noise, text, rng.standard_normal((*size, extra_channels), np.float32)


def theirs(module, clean, noise, text, channels, clean_frames, **more):
    """Loss, and gradients by Diffusers' names, as a PyTorch trainer would write them."""
    x0, eps, extra = (torch.from_numpy(x).permute(0, 4, 1, 2, 3) for x in (clean, noise, channels))
    sigma = torch.from_numpy(SIGMA)
    noisy = (1 - sigma.view(-1, 1, 1, 1, 1)) * x0 + sigma.view(-1, 1, 1, 1, 1) * eps
    timestep = 1000 * sigma
    if clean_frames:  # as WanPipeline has it for TI2V-5B: a timestep for every token
        noisy[:, :, :clean_frames] = x0[:, :, :clean_frames]
        noised = torch.ones(FRAMES, HEIGHT // 2, WIDTH // 2)
        noised[:clean_frames] = 0
        timestep = timestep[:, None] * noised.flatten()[None]
    prediction = module(
        hidden_states=torch.cat([noisy, extra], dim=1),
        timestep=timestep,
        encoder_hidden_states=torch.from_numpy(text),
        return_dict=False,
        **more,
    )[0]
    error = (prediction - (eps - x0))[:, :, clean_frames:]
    loss = torch.nn.functional.mse_loss(error, torch.zeros_like(error))
    loss.backward()
    return loss.item(), {name: p.grad.numpy() for name, p in module.named_parameters()}


@pytest.mark.parametrize(
    "clean_frames, extra_channels, remat",
    [(0, 0, "all"), (1, 0, "all"), (0, 20, "all"), (0, 0, "nothing"), (1, 20, "attention"), (0, 0, "products")],
)
def test_loss_and_gradient(clean_frames, extra_channels, remat):
    module = reference.dit(in_channels=CHANNELS + extra_channels)
    config = DiTConfig.from_json(dict(module.config), "transformer/config.json")
    params = reference.params_of(module, dit_rules(config), abstract_params(config))
    clean, noise, text, channels = batch(config.text_dim, extra_channels)
    their_loss, their_gradient = theirs(module, clean, noise, text, channels, clean_frames)

    given = clean[:, :clean_frames] if clean_frames else None
    conditioning = Conditioning(text, channels=channels if extra_channels else None, clean=given)

    compare(config, params, clean, noise, conditioning, remat, their_loss, their_gradient)


@pytest.mark.parametrize("remat", ["all", "nothing"])
def test_loss_and_gradient_of_vace(remat):
    """The base's gradient, through its own blocks and through the hints, and that of the branch."""
    module = reference.vace_dit(num_layers=4, vace_layers=[0, 3])
    config = DiTConfig.from_json(dict(module.config), "transformer/config.json")
    params = reference.params_of(module, dit_rules(config), abstract_params(config))
    clean, noise, text, shown = batch(config.text_dim, config.vace_in_channels)
    context, nothing = Context(jnp.asarray(shown), jnp.ones(())), shown[..., :0]
    control = torch.from_numpy(shown).permute(0, 4, 1, 2, 3)
    their_loss, their_gradient = theirs(module, clean, noise, text, nothing, 0, control_hidden_states=control)
    conditioning = Conditioning(text, context=context)
    compare(config, params, clean, noise, conditioning, remat, their_loss, their_gradient)


def compare(config, params, clean, noise, conditioning, remat, their_loss, their_gradient):
    def loss(params):
        def predict(*inputs):
            return DiT(config, jnp.float32, remat).apply({"params": params}, *inputs)

        return flow_matching_loss(predict, clean, noise, SIGMA, conditioning).mean()

    our_loss, our_gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert abs(our_loss - their_loss) <= 1e-5 * their_loss

    rules, shapes = dit_rules(config), flat(abstract_params(config))
    expected = {r.path: to_jax(r, "diffusers", shapes[r.path].shape, np.float64, their_gradient.get) for r in rules}
    size = {path: np.linalg.norm(g) for path, g in expected.items()}
    error = {path: np.linalg.norm(np.asarray(g, np.float64) - expected[path]) for path, g in flat(our_gradient).items()}
    whole = np.linalg.norm(list(size.values()))
    assert np.linalg.norm(list(error.values())) <= 1e-5 * whole
    assert [path for path in size if error[path] > 1e-4 * size[path] + 1e-6 * whole] == []
