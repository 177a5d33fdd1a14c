"""How far back an autoencoder looks, found out by changing its input; and that a stream begun there is the same."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_wan_vae import OF_22, random_params
from wan_jax.config import VAEConfig
from wan_jax.models import streaming
from wan_jax.models.reach import decoder_reach, encoder_reach, restart_chunk
from wan_jax.models.wan_vae import WanVAE

TINY = VAEConfig(base_dim=2, z_dim=2, dim_mult=(1, 1, 1, 1), num_res_blocks=1, latents_mean=(0, 0), latents_std=(1, 1))
CONFIGS = {
    "tiny": TINY,
    "other rates": VAEConfig(
        base_dim=2, z_dim=2, dim_mult=(1, 1, 1), num_res_blocks=2, temporal_downsample=(True, False),
        latents_mean=(0, 0), latents_std=(1, 1),
    ),
    "2.2": replace(TINY, **OF_22),
}  # fmt: skip


def test_released_models():
    assert (encoder_reach(VAEConfig()), decoder_reach(VAEConfig())) == (28, 38)


@pytest.mark.parametrize("method", ["encode", "decode"])
@pytest.mark.parametrize("name", CONFIGS)
def test_reach_is_exact(name, method):
    """The derivative by every input frame is zero before the reach, and is not at it.

    Weights are random, as equal ones would leave the norms nothing to change.
    """
    config = CONFIGS[name]
    reach = {"encode": encoder_reach, "decode": decoder_reach}[method](config)
    last, time = reach + 3, config.temporal_factor
    size = (config.spatial_factor, config.spatial_factor, 3) if method == "encode" else (1, 1, 2)
    frames = 1 + time * last if method == "encode" else 1 + last
    params = random_params(config)
    step = partial(WanVAE(config).apply, {"params": params}, method=method)

    @jax.jit
    @jax.grad
    def influence(clip):
        out = step(clip)[0]
        own = out[:, last:] if method == "encode" else out[:, out.shape[1] - time :]
        return jnp.sum(own)

    clip = jax.random.uniform(jax.random.key(0), (1, frames, *size), minval=-1, maxval=1)
    seen = np.abs(influence(clip)).max(axis=(0, 2, 3, 4)) > 0
    if method == "encode":  # pixel frames to latent frames
        seen = np.concatenate([seen[:1], seen[1:].reshape(-1, time).any(axis=1)])
    assert np.flatnonzero(seen).min() == last - reach


@pytest.mark.parametrize("method, frames_per_chunk", [("encode", 1), ("decode", 3)])
def test_a_stream_begun_before_the_cut_has_the_same_bits(method, frames_per_chunk):
    vae, params = WanVAE(TINY), random_params(TINY)
    chunks = -(-60 // frames_per_chunk)
    rng, time = np.random.default_rng(0), TINY.temporal_factor if method == "encode" else 1
    size = (16, 16, 3) if method == "encode" else (2, 2, 2)
    clip = rng.uniform(-1, 1, (1, 1 + time * frames_per_chunk * (chunks - 1), *size)).astype(np.float32)
    stream = streaming.encode_chunks if method == "encode" else streaming.decode_chunks
    whole = [np.asarray(chunk) for chunk in stream(vae, params, clip, frames_per_chunk)]
    cut = chunks - 4
    begin = restart_chunk(TINY, method, cut, frames_per_chunk)
    assert 0 < begin < cut
    again = [np.asarray(c) for c in stream(vae, params, clip[:, begin * frames_per_chunk * time :], frames_per_chunk)]
    again = dict(enumerate(again, begin))
    for chunk in range(cut, chunks):
        np.testing.assert_array_equal(again[chunk], whole[chunk])
    assert not np.array_equal(again[begin + 1], whole[begin + 1])
    assert restart_chunk(TINY, method, 0) == restart_chunk(TINY, method, 5) == 0
