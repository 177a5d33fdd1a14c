"""Wan-VAE 2.1 and 2.2 by themselves: cutting, cache, names, memory.  The comparison with PyTorch is in tests/parity."""

import json
import pathlib
import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert.rules import torch_shapes
from convert.vae import vae_rules
from tests.compare import relative_error
from wan_jax.config import VAEConfig
from wan_jax.errors import WanError
from wan_jax.models import streaming
from wan_jax.models.vae_layers import ChannelNorm
from wan_jax.models.wan_vae import WanVAE, abstract_params

KEYS = pathlib.Path(__file__).parents[1] / "goldens" / "keys" / "vae21.json"  # of Wan-AI/Wan2.2-T2V-A14B-Diffusers
TINY = VAEConfig(base_dim=6, dim_mult=(1, 2, 2, 2), num_res_blocks=1)
OF_22 = dict(is_residual=True, decoder_base_dim=8, patch_size=2, in_channels=12, out_channels=12)


def random_params(config, std=0.15):
    """Large enough for every path to matter; norms around one."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        value = rng.standard_normal(leaf.shape, np.float32) * std
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.startswith("decoder/conv_out"):
            value /= 3  # keeps most pixels off the clamp
        return jnp.asarray(value + ("norm" in name))

    return jax.tree_util.tree_map_with_path(draw, abstract_params(config))


@partial(jax.jit, static_argnums=(0, 3))
def apply(vae, params, clip, method):
    """A whole clip in one piece."""
    return vae.apply({"params": params}, clip, method=method)[0]


@pytest.fixture(scope="module")
def vae():
    return WanVAE(TINY)


@pytest.fixture(scope="module")
def params():
    return random_params(TINY)


@pytest.fixture(scope="module")
def whole(vae, params):
    """Five latent frames, encoded and decoded in one piece: (video, latents, decoded)."""
    video = np.random.default_rng(1).uniform(-1, 1, (2, 17, 16, 24, 3)).astype(np.float32)
    latents = apply(vae, params, video, "encode")
    decoded = apply(vae, params, latents, "decode")
    assert latents.shape == (2, 5, 2, 3, 16) and decoded.shape == video.shape
    assert np.mean(np.abs(decoded) < 1) > 0.9
    return video, latents, decoded


def test_streaming_of_22_equals_the_whole_clip():
    """Its shortcuts count frames from the clip's first one on."""
    config = replace(TINY, **OF_22)
    vae, params = WanVAE(config), random_params(config)
    video = np.random.default_rng(1).uniform(-1, 1, (1, 17, 32, 48, 3)).astype(np.float32)
    latents = apply(vae, params, video, "encode")
    decoded = apply(vae, params, latents, "decode")
    assert latents.shape == (1, 5, 2, 3, 16) and decoded.shape == video.shape
    for frames_per_chunk in (1, 3):
        assert relative_error(streaming.encode(vae, params, video, frames_per_chunk), latents) <= 1e-5
        assert relative_error(streaming.decode(vae, params, latents, frames_per_chunk), decoded) <= 1e-5


@pytest.mark.parametrize("frames_per_chunk", [1, 2, 3])
def test_streaming_equals_the_whole_clip(vae, params, whole, frames_per_chunk):
    video, latents, decoded = whole
    assert relative_error(streaming.encode(vae, params, video, frames_per_chunk), latents) <= 1e-5
    assert relative_error(streaming.decode(vae, params, latents, frames_per_chunk), decoded) <= 1e-5


def test_pieces_of_any_length(vae, params, whole):
    video, latents, _ = whole
    pieces = iter(np.split(video, [2, 2, 3, 9, 16], axis=1))
    chunks = list(streaming.encode_chunks(vae, params, pieces))
    assert [chunk.shape[1] for chunk in chunks] == [1, 1, 1, 1, 1]
    assert relative_error(np.concatenate(chunks, axis=1), latents) <= 1e-5


def test_no_frame_looks_ahead(vae, params, whole):
    """A clip's beginning does not depend on what follows."""
    video, latents, decoded = whole
    assert relative_error(streaming.encode(vae, params, video[:, :9]), latents[:, :3]) <= 1e-5
    assert relative_error(streaming.decode(vae, params, latents[:, :3]), decoded[:, :9]) <= 1e-5


@pytest.mark.parametrize("method, chunk_frames", [("encode", [1, 4, 12]), ("encode", [5, 4]), ("decode", [1, 1, 3])])
def test_cache_keeps_its_structure(vae, method, chunk_frames):
    """So that all later chunks of a length share one compiled step."""
    size = (16, 24, 3) if method == "encode" else (2, 3, 16)
    caches = [None]
    for frames in chunk_frames:
        chunk = jax.ShapeDtypeStruct((2, frames, *size), jnp.float32)
        step = partial(vae.apply, method=method)
        caches.append(jax.eval_shape(step, {"params": abstract_params(TINY)}, chunk, caches[-1])[1])
    assert all(cache == caches[1] for cache in caches[2:])


def test_bfloat16_keeps_norms_and_latents_in_float32(vae, params, whole):
    video, latents, _ = whole
    coarse = streaming.encode(WanVAE(TINY, jnp.bfloat16), params, video)
    assert coarse.dtype == jnp.float32
    assert relative_error(coarse, latents) <= 0.05


def test_reconstruction_is_encode_then_decode(vae, params, whole):
    video, _, decoded = whole
    assert relative_error(jax.jit(vae.apply)({"params": params}, video), decoded) <= 1e-5


def test_gradient_of_the_norm_at_zero_is_finite():
    """Where all channels are zero, the norm's floor holds."""
    norm, x = ChannelNorm(), jnp.zeros((1, 1, 1, 1, 4))
    gradient = jax.grad(lambda x: jnp.sum(norm.apply({"params": {"scale": jnp.ones(4)}}, x)))(x)
    assert jnp.all(jnp.isfinite(gradient))


@pytest.mark.parametrize("shape", [(1, 4, 16, 16, 3), (1, 0, 16, 16, 3), (1, 5, 12, 16, 3)])
def test_wrong_sizes_are_refused(vae, params, shape):
    with pytest.raises(WanError, match=r"divide into latents|no frame"):
        streaming.encode(vae, params, np.zeros(shape, np.float32))


def test_released_checkpoint_has_exactly_these_tensors():
    config = VAEConfig()
    shapes = torch_shapes(vae_rules(config), "diffusers", abstract_params(config))
    assert shapes == {name: tuple(shape) for name, shape in json.loads(KEYS.read_text()).items()}


def test_original_names():
    """194 tensors under Wan2.1_VAE.pth's own names, numbered without a gap."""
    names = [rule.original for rule in vae_rules(VAEConfig())]
    assert len(set(names)) == 194
    numbers = lambda part: sorted({int(n) for name in names for n in re.findall(rf"{part}\.(\d+)\.", name)})  # noqa: E731
    assert numbers("encoder.downsamples") == list(range(11))
    assert numbers("decoder.upsamples") == list(range(15))
    assert "decoder.upsamples.4.shortcut.weight" in names and "encoder.downsamples.2.resample.1.bias" in names


def test_memory_does_not_grow_with_the_clip(vae, params):
    """321 frames: at every chunk, the same bytes are alive.

    The process's peak would not tell: what compiling needs once hides many kept frames.
    """
    latents = np.zeros((1, 81, 2, 2, 16), np.float32)
    live, frames = [], 0
    for pixels in streaming.decode_chunks(vae, params, latents):
        frames += pixels.shape[1]
        live.append(sum(array.nbytes for array in jax.live_arrays()))
    assert frames == 321
    assert len(set(live[1:])) == 1


def test_chunks_keep_a_device_busy(monkeypatch):
    """Up to a 480p frame on a GPU, in equal chunks after the first frame."""
    assert streaming.best_chunk(21, 64, 64) == 1  # on CPU
    monkeypatch.setattr(streaming.sharding, "device_kind", lambda: "NVIDIA H100")
    assert [streaming.best_chunk(21, height, 832) for height in (720, 480, 240, 120)] == [1, 1, 2, 4]
    assert [streaming.best_chunk(frames, 128, 128) for frames in (1, 2, 9, 30)] == [1, 1, 8, 1]
    monkeypatch.setattr(streaming.sharding, "device_kind", lambda: "TPU v6 lite")
    monkeypatch.setattr(streaming.sharding, "ambient_mesh", lambda: SimpleNamespace(size=8))
    assert streaming.best_chunk(21, 720, 1280) == 2
