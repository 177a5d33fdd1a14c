"""The vision tower of CLIP ViT-H/14, by which Wan2.1 image to video sees its pictures.

Wan2.1, wan/modules/clip.py; CLIP, arXiv:2103.00020; the weights are those of open_clip's xlm-roberta-large-vit-huge-14.

A picture is cut into squares, which with a class token in front go through the blocks of a transformer.  Wan is shown
all tokens as they enter the last block.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from wan_jax import sharding
from wan_jax.config import CLIPConfig
from wan_jax.images import stretch
from wan_jax.models.layers import LayerNorm, dense
from wan_jax.precision import matmul_precision
from wan_jax.typing import Float, Params, UInt8, typechecked

# Of the pixels that CLIP was trained on, in [0, 1].
_MEAN = np.float32([0.48145466, 0.4578275, 0.40821073])
_STD = np.float32([0.26862954, 0.26130258, 0.27577711])


@typechecked
def preprocess(image: UInt8["h w 3"], size: int) -> Float["s s 3"]:
    """A picture of any shape, stretched to a square and normalised, as the official code does it.

    That is bicubic, without smoothing and without a crop; the processors of transformers keep the shape, smooth, and
    crop to the middle, which leaves the ends of a wide picture unseen.
    """
    return (stretch(image, size, size) / 2 + np.float32(0.5) - _MEAN) / _STD


class Attention(nn.Module):
    """Every token to every other."""

    config: CLIPConfig
    dtype: jnp.dtype

    def setup(self):
        self.q, self.k, self.v, self.o = (dense(self.config.hidden_size, self.dtype) for _ in range(4))

    def __call__(self, x: Float["b n c"]) -> Float["b n c"]:
        heads = (*x.shape[:2], self.config.num_attention_heads, -1)
        q, k, v = (project(x).reshape(heads) for project in (self.q, self.k, self.v))
        precision = matmul_precision(self.dtype)
        scores = jnp.einsum("bikd,bjkd->bkij", q, k, precision=precision, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5).astype(self.dtype)
        return self.o(jnp.einsum("bkij,bjkd->bikd", weights, v, precision=precision).reshape(x.shape))


class Block(nn.Module):
    """Attention, then a feed-forward, each on what was normalised before; the sum is float32."""

    config: CLIPConfig
    dtype: jnp.dtype

    def setup(self):
        config = self.config
        self.norm_attn, self.norm_ffn = (LayerNorm(config.layer_norm_eps, self.dtype) for _ in range(2))
        self.attn = Attention(config, self.dtype)
        self.ffn_in = dense(config.intermediate_size, self.dtype)
        self.ffn_out = dense(config.hidden_size, self.dtype)

    def __call__(self, carry: tuple[jax.Array, jax.Array]) -> tuple[tuple[jax.Array, jax.Array], None]:
        """(what comes in, anything) → (what goes out, what came in)."""
        x, _ = carry
        h = x + self.attn(self.norm_attn(x))
        h = h + self.ffn_out(nn.gelu(self.ffn_in(self.norm_ffn(h)), approximate=False))
        return (h, x), None


class CLIPVision(nn.Module):
    """Normalised pixels to tokens.  Matrix products run in `dtype`; norms, softmax and the residual are float32."""

    config: CLIPConfig
    dtype: jnp.dtype = jnp.bfloat16

    def setup(self):
        config = self.config
        width = config.hidden_size
        self.patch_embedding = dense(width, self.dtype, use_bias=False)
        self.class_embedding = self.param("class_embedding", nn.initializers.normal(width**-0.5), (width,))
        self.position = self.param("position", nn.initializers.normal(width**-0.5), (config.num_tokens, width))
        self.norm_in, self.norm_out = (LayerNorm(config.layer_norm_eps, jnp.float32) for _ in range(2))
        self.blocks = nn.scan(
            Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=config.num_hidden_layers
        )(config, self.dtype)

    @typechecked
    def __call__(self, pixels: Float["b s s 3"]) -> tuple[Float["b n c"], Float["b c"]]:
        """The tokens as they enter the last block, and CLIP's own summary of the picture, which Wan has no use for."""
        b, side, patch = len(pixels), self.config.image_size // self.config.patch_size, self.config.patch_size
        x = pixels.reshape(b, side, patch, side, patch, 3).swapaxes(2, 3).reshape(b, side**2, -1)
        first = jnp.broadcast_to(self.class_embedding, (b, 1, self.config.hidden_size))
        x = jnp.concatenate([first, self.patch_embedding(x)], axis=1).astype(jnp.float32) + self.position
        x = self.norm_in(x)
        (x, before_last), _ = self.blocks((x, x))
        return before_last, self.norm_out(x[:, :1])[:, 0]


@partial(jax.jit, static_argnames=("config", "dtype"))
def encode_images(params: Params, pixels: Float["b s s 3"], *, config: CLIPConfig, dtype) -> Float["b n c"]:
    """The tokens of normalised pictures, whole on every device."""
    return sharding.constrain(CLIPVision(config, dtype).apply({"params": params}, pixels)[0])


def initial_params(config: CLIPConfig, key: jax.Array) -> dict:
    """Random parameters, float32."""
    return CLIPVision(config).init(key, jnp.zeros((1, config.image_size, config.image_size, 3)))["params"]


def abstract_params(config: CLIPConfig) -> dict:
    """The parameter tree as float32 shapes; nothing is computed."""
    return jax.eval_shape(partial(initial_params, config), jax.random.key(0))
