"""Wan-VAE 2.1 and 2.2 against Diffusers' AutoencoderKLWan, float32."""

import diffusers
import jax
import numpy as np
import pytest
import torch

from convert.vae import vae_rules
from tests.compare import relative_error
from tests.parity import reference
from tests.rearrange import to_jax, to_torch
from wan_jax.config import VAEConfig
from wan_jax.models import streaming
from wan_jax.models.wan_vae import WanVAE, abstract_params

TOLERANCE = 1e-5
TINY = dict(base_dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1, temperal_downsample=[False, True, True])
# Other numbers of levels, blocks and shortcuts, which the table of names must follow.
UNEVEN = TINY | dict(dim_mult=[1, 1, 3], num_res_blocks=3, temperal_downsample=[True, True])
REAL: dict = {}
# Of 2.2: shortcuts around the levels, patches of pixels, and a decoder of another width.
TINY_22 = TINY | dict(
    base_dim=12,
    z_dim=48,
    decoder_base_dim=20,
    is_residual=True,
    patch_size=2,
    in_channels=12,
    out_channels=12,
    latents_mean=np.linspace(-1, 1, 48).tolist(),
    latents_std=np.linspace(0.5, 2, 48).tolist(),
)
UNEVEN_22 = TINY_22 | dict(dim_mult=[1, 2, 2], num_res_blocks=2, temperal_downsample=[True, False])
REAL_22 = TINY_22 | dict(base_dim=160, decoder_base_dim=256, num_res_blocks=2)


def torch_vae(config: dict) -> diffusers.AutoencoderKLWan:
    """Random weights; those of the last convolution are small, so that few pixels reach the clamp at ±1."""
    vae = reference.randomize(diffusers.AutoencoderKLWan(**config), seed=0, std=0.1)
    vae.decoder.conv_out.weight.data *= 1 / vae.config.base_dim**0.5
    return vae


def both(config: dict):
    """(theirs, ours, our parameters)."""
    theirs = torch_vae(config)
    ours = VAEConfig.from_json(dict(theirs.config), "vae/config.json")
    return theirs, WanVAE(ours), reference.params_of(theirs, vae_rules(ours), abstract_params(ours))


def channels_last(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 4, 1).numpy()


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


CLIPS = {
    "tiny": (TINY, (2, 13, 16, 24)),
    "uneven": (UNEVEN, (1, 9, 12, 8)),
    "real": (REAL, (1, 5, 32, 24)),
    "tiny 2.2": (TINY_22, (2, 13, 32, 48)),
    "uneven 2.2": (UNEVEN_22, (1, 9, 24, 16)),
    "real 2.2": (REAL_22, (1, 5, 48, 32)),
}


@pytest.mark.parametrize("config, clip", CLIPS.values(), ids=CLIPS)
def test_encode_and_decode(config, clip):
    theirs, vae, params = both(config)
    rng = np.random.default_rng(0)
    video = rng.uniform(-1, 1, (*clip, 3)).astype(np.float32)
    center, spread = np.float32(theirs.config.latents_mean), np.float32(theirs.config.latents_std)

    with torch.no_grad():
        posterior = theirs.encode(channels_first(video)).latent_dist
    mean, log_variance = channels_last(posterior.mean), channels_last(posterior.logvar)
    whole_clip = jax.jit(lambda p, x: vae.apply({"params": p}, x, method="moments")[0])
    ours_mean, ours_log_variance = whole_clip(params, video)
    assert relative_error(ours_mean, mean) <= TOLERANCE
    # Diffusers clips it to [-30, 20].
    assert relative_error(np.clip(ours_log_variance, -30, 20), log_variance) <= TOLERANCE
    latents = streaming.encode(vae, params, video)
    assert relative_error(latents, (mean - center) / spread) <= TOLERANCE

    latents = rng.standard_normal(latents.shape, np.float32)
    with torch.no_grad():
        decoded = channels_last(theirs.decode(channels_first(latents * spread + center)).sample)
    assert np.mean(np.abs(decoded) < 1) > 0.95
    assert relative_error(streaming.decode(vae, params, latents), decoded) <= TOLERANCE


def test_original_names_give_the_same_parameters():
    """Through the original names and back to PyTorch under the Diffusers names, bit for bit."""
    tensors = {name: t.numpy(force=True) for name, t in torch_vae(TINY).state_dict().items()}
    config = VAEConfig.from_json(TINY, "vae/config.json")
    rules = vae_rules(config)
    original = {rule.original: tensors[rule.diffusers] for rule in rules}
    shapes = {
        "/".join(k.key for k in path): leaf.shape
        for path, leaf in jax.tree_util.tree_flatten_with_path(abstract_params(config))[0]
    }
    for rule in rules:
        array = to_jax(rule, "original", shapes[rule.path], np.float32, original.__getitem__)
        ((name, back),) = to_torch(rule, "diffusers", array)
        np.testing.assert_array_equal(back, tensors[name])
