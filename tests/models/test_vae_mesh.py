"""The VAE in strips on a mesh of virtual CPU devices equals the VAE on one device."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compare import relative_error
from tests.models.test_wan_vae import OF_22, apply, random_params
from wan_jax.config import VAEConfig
from wan_jax.models import space, streaming
from wan_jax.models.wan_vae import WanVAE
from wan_jax.sharding import make_mesh

TINY = VAEConfig(base_dim=6, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,))  # every kind of layer
VAE = WanVAE(TINY)
HEIGHT, WIDTH = 9, 3  # latents: no device count below divides 9; on 6 devices the last has no row, on 7 the last two

MESHES = [dict(data=2), dict(context=5), dict(data=2, context=3), dict(fsdp=7), dict(data=2, fsdp=2, tensor=2)]


def mesh_of(sizes):
    count = int(np.prod(list(sizes.values())))
    return make_mesh(**sizes, devices=jax.devices("cpu")[:count])


@pytest.fixture(scope="module")
def params():
    return random_params(TINY)


@pytest.fixture(scope="module")
def clip():
    shape = (1, 5, TINY.spatial_factor * HEIGHT, TINY.spatial_factor * WIDTH, 3)
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture(scope="module")
def alone(params, clip):
    """Latents and their decoding on one device, in one piece."""
    latents = apply(VAE, params, clip, "encode")
    decoded = apply(VAE, params, latents, "decode")
    assert np.mean(np.abs(decoded) < 1) > 0.8
    return np.asarray(latents), np.asarray(decoded)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_whole_clip_equals_one_device(params, clip, alone, sizes):
    with jax.set_mesh(mesh_of(sizes)):
        latents = apply(VAE, params, clip, "encode")
        decoded = apply(VAE, params, alone[0], "decode")
    assert relative_error(latents, alone[0]) <= 1e-5
    assert relative_error(decoded, alone[1]) <= 1e-5


def test_chunks_equal_one_device(params, clip, alone):
    latents, decoded = alone
    with jax.set_mesh(mesh_of(dict(data=2, context=3))):
        assert relative_error(streaming.encode(VAE, params, clip), latents) <= 1e-5
        chunks = list(streaming.decode_chunks(VAE, params, latents))
    assert all(chunk.is_fully_replicated for chunk in chunks)
    assert relative_error(np.concatenate(chunks, axis=1), decoded) <= 1e-5


def test_22_in_tiles_equals_one_device(monkeypatch):
    """Its shortcuts and patches stay within a tile."""
    config = replace(TINY, dim_mult=(1, 1), **OF_22)
    vae, params = WanVAE(config), random_params(config)
    shape = (1, 5, config.spatial_factor * HEIGHT, config.spatial_factor * WIDTH, 3)
    video = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    latents = apply(vae, params, video, "encode")
    decoded = apply(vae, params, latents, "decode")
    monkeypatch.setattr(space, "cut", lambda axes, devices, *frame: space.Tiles(axes, devices, frame, (1, 2)))
    with jax.set_mesh(mesh_of(dict(data=2))):
        assert relative_error(apply(vae, params, video, "encode"), latents) <= 1e-5
        assert relative_error(apply(vae, params, latents, "decode"), decoded) <= 1e-5


def test_tiles_equal_one_device(params, clip, alone, monkeypatch):
    """As on a TPU, which takes many tiles to a strip.  Here the last ones reach beyond the frame, right and below."""
    latents, decoded = alone
    monkeypatch.setattr(space, "cut", lambda axes, devices, *frame: space.Tiles(axes, devices, frame, (1, 2)))
    assert relative_error(streamed(params, clip, "encode"), latents) <= 1e-5
    with jax.set_mesh(mesh_of(dict(data=2))):
        assert relative_error(streamed(params, latents, "decode"), decoded) <= 1e-5


def streamed(params, x, method):
    """The first frame, then the others.  `streaming` would keep programs for the next test."""
    step = jax.jit(lambda params, x, cache: VAE.apply({"params": params}, x, cache, method=method))
    start, cache = step(params, x[:, :1], None)
    return np.concatenate([start, step(params, x[:, 1:], cache)[0]], axis=1)


@pytest.mark.parametrize("devices, height, width", [(8, 90, 160), (8, 60, 104), (1, 90, 160), (4, 60, 104)])
def test_tiles_fill_the_vectors_of_a_tpu(monkeypatch, devices, height, width):
    """The latents of 720p and 480p."""
    monkeypatch.setattr(space, "vector_length", lambda: 128)
    tiles = space.cut(("data",), devices, height, width)
    assert np.all(np.array(tiles.covered) >= (height, width))
    vectors = -(-np.prod(tiles.grid) // 128)
    assert devices * vectors * 128 * np.prod(tiles.tile) <= 1.15 * height * width


def test_gradient_equals_one_device(params, alone):
    gradient = jax.jit(jax.grad(lambda params, x: jnp.sum(VAE.apply({"params": params}, x, method="decode")[0] ** 2)))
    expected = gradient(params, alone[0])["decoder"]
    with jax.set_mesh(mesh_of(dict(context=5))):
        found = gradient(params, alone[0])["decoder"]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        assert relative_error(a, b) <= 1e-4


def test_memory_shrinks_with_the_devices(params):
    """Each holds its strip of the cache, and nothing else of it."""
    latents = np.zeros((1, 1, 16, WIDTH, TINY.z_dim), np.float32)
    with jax.set_mesh(mesh_of(dict(data=2, context=4))):
        _, cache = jax.jit(lambda p, x: VAE.apply({"params": p}, x, method="decode"))(params, latents)
    for array in jax.tree.leaves(cache):
        assert array.addressable_shards[0].data.size * 8 == array.size
