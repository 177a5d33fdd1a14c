"""Inflated weights against an image autoencoder in PyTorch that has nothing but 2-D convolutions, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from torch.nn import functional

from tests.compare import relative_error
from wan_jax.config import VAEConfig
from wan_jax.errors import WanError
from wan_jax.models.inflation import image_params, inflate
from wan_jax.models.wan_vae import WanVAE, abstract_params

TOLERANCE = 1e-5
TINY = VAEConfig(base_dim=6, dim_mult=(1, 2, 2, 2), num_res_blocks=1)


@pytest.fixture(scope="module")
def image():
    """Random weights of an image autoencoder; those of the last convolution keep most pixels off the clamp."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        value = rng.standard_normal(leaf.shape, np.float32) * 0.2
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return jnp.asarray(value / 4 if "decoder/conv_out" in name else value + ("norm" in name))

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(image_params, abstract_params(TINY)))


class ImageVAE:
    """Wan's autoencoder without time: images [n c h w] of any number, weights by their paths."""

    def __init__(self, image):
        self.weights = {path: torch.tensor(np.asarray(x)) for path, x in flatten_dict(image, sep="/").items()}

    def conv(self, x, name, **options):
        kernel = self.weights[f"{name}/kernel"]
        kernel = kernel[None, None] if kernel.ndim == 2 else kernel
        return functional.conv2d(x, kernel.permute(3, 2, 0, 1), self.weights[f"{name}/bias"], **options)

    def norm(self, x, name):
        return functional.normalize(x, dim=1) * x.shape[1] ** 0.5 * self.weights[f"{name}/scale"].view(-1, 1, 1)

    def residual(self, x, name):
        skip = self.conv(x, f"{name}/shortcut") if f"{name}/shortcut/kernel" in self.weights else x
        for i in (1, 2):
            x = self.conv(functional.silu(self.norm(x, f"{name}/norm_{i}")), f"{name}/conv_{i}", padding=1)
        return skip + x

    def attention(self, x, name):
        q, k, v = (t.flatten(2).mT for t in self.conv(self.norm(x, f"{name}/norm"), f"{name}/qkv").chunk(3, dim=1))
        y = functional.scaled_dot_product_attention(q, k, v).mT.reshape(x.shape)
        return x + self.conv(y, f"{name}/out")

    def middle(self, x, name):
        return self.residual(self.attention(self.residual(x, f"{name}/res_0"), f"{name}/attn"), f"{name}/res_1")

    def blocks(self, x, level):
        for i in range(sum(f"{level}/res_{i}/conv_1/kernel" in self.weights for i in range(9))):
            x = self.residual(x, f"{level}/res_{i}")
        return x

    def tail(self, x, name):
        return self.conv(functional.silu(self.norm(x, f"{name}/norm_out")), f"{name}/conv_out", padding=1)

    def __call__(self, x):
        """(mean and log-variance, reconstruction)."""
        x = self.conv(x, "encoder/conv_in", padding=1)
        for level in (f"encoder/level_{i}" for i in range(4)):
            x = self.blocks(x, level)
            if f"{level}/down/conv/kernel" in self.weights:
                x = self.conv(functional.pad(x, (0, 1, 0, 1)), f"{level}/down/conv", stride=2)
        moments = self.conv(self.tail(self.middle(x, "encoder/mid"), "encoder"), "quant_conv")
        x = self.conv(moments.chunk(2, dim=1)[0], "post_quant_conv")
        x = self.middle(self.conv(x, "decoder/conv_in", padding=1), "decoder/mid")
        for level in (f"decoder/level_{i}" for i in range(4)):
            x = self.blocks(x, level)
            if f"{level}/up/conv/kernel" in self.weights:
                x = self.conv(functional.interpolate(x, scale_factor=2), f"{level}/up/conv", padding=1)
        return moments, self.tail(x, "decoder").clamp(-1, 1)


@pytest.mark.parametrize("frames", [1, 9])
def test_every_fourth_frame_is_an_image(image, frames):
    """Frame t of the reconstruction is the image autoencoder's of frame 4·⌈t/4⌉, and latents likewise."""
    video = np.random.default_rng(1).uniform(-1, 1, (2, frames, 16, 24, 3)).astype(np.float32)
    kept = torch.from_numpy(video[:, ::4].reshape(-1, 16, 24, 3)).permute(0, 3, 1, 2)
    moments, again = (t.permute(0, 2, 3, 1).numpy() for t in ImageVAE(image)(kept))
    moments, again = (x.reshape(2, -1, *x.shape[1:]) for x in (moments, again))
    assert np.mean(np.abs(again) < 1) > 0.9

    vae = WanVAE(TINY)

    @jax.jit
    def ours(image, video):
        params = {"params": inflate(image, TINY)}
        moments, _ = vae.apply(params, video, method="moments")
        latents = (moments[0] - np.float32(TINY.latents_mean)) / np.float32(TINY.latents_std)
        return moments, vae.apply(params, latents, method="decode")[0]

    found, video_again = ours(image, video)
    assert relative_error(np.concatenate(found, axis=-1), moments) <= TOLERANCE
    source = -(-np.arange(frames) // 4)
    assert relative_error(video_again, again[:, source]) <= TOLERANCE


def test_inflation_is_undone_and_its_gradient_is_the_image_s(image):
    """The images' parameters come back bit for bit; a gradient of the video's reaches them by the newest taps."""
    params, pull = jax.vjp(lambda image: inflate(image, TINY), image)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, abstract_params(TINY))
    jax.tree.map(np.testing.assert_array_equal, image_params(params), image)
    rng = np.random.default_rng(2)
    gradient = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), params)
    jax.tree.map(np.testing.assert_array_equal, pull(gradient)[0], image_params(gradient))


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_another_tree_is_refused(image, change):
    flat = flatten_dict(image)
    path = ("encoder", "level_0", "res_0", "conv_1", "kernel")
    changed = {
        "missing": {},
        "unknown": flat | {("encoder", "more"): flat[path]},
        "shape": flat | {path: flat[path][1:]},
    }
    given = changed[change] or {key: x for key, x in flat.items() if key != path}
    with pytest.raises(WanError, match=r"1 parameters .* encoder/(level_0/res_0/conv_1/kernel|more)"):
        inflate(unflatten_dict(given), TINY)
