"""The umT5 text encoder: Wan2.2, wan/modules/t5.py; T5, arXiv:1910.10683; umT5, arXiv:2304.09151.

T5's habits, where they differ from other transformers: attention scores are not divided by sqrt(d), positions enter
only as a bias on the scores (here, unlike in T5, each layer has its own table), norms subtract no mean, and no linear
layer has a bias.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from wan_jax import sharding
from wan_jax.config import UMT5Config
from wan_jax.models.layers import RMSNorm, dense
from wan_jax.precision import matmul_precision
from wan_jax.typing import Bool, Float, Int, Params, typechecked


@typechecked
def relative_buckets(length: int, num_buckets: int, max_distance: int) -> Int["s s"]:
    """The row of the bias table for every query (first axis) and key.

    Half of the buckets are for keys after the query.  Of each half, the first half counts single positions and the
    rest grow logarithmically up to `max_distance`, beyond which all share the last (T5, section 2.1).
    """
    position = np.arange(length)
    offset = position[None, :] - position[:, None]
    half = num_buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    growth = np.log(np.maximum(distance, exact) / exact) / np.log(max_distance / exact)
    coarse = np.minimum(exact + (growth * (half - exact)).astype(int), half - 1)
    return np.where(offset > 0, half, 0) + np.where(distance < exact, distance, coarse)


@typechecked
def attend(
    q: Float["b s k d"], k: Float["b s k d"], v: Float["b s k d"], bias: Float["k s s"], mask: Bool["b s"]
) -> Float["b s k d"]:
    """Unscaled attention over the keys where `mask` is true; scores and softmax are float32."""
    precision = matmul_precision(q.dtype)
    scores = jnp.einsum("bikd,bjkd->bkij", q, k, precision=precision, preferred_element_type=jnp.float32) + bias
    scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
    return jnp.einsum("bkij,bjkd->bikd", jax.nn.softmax(scores).astype(v.dtype), v, precision=precision)


class Attention(nn.Module):
    """Self-attention with a bias that depends on head and distance."""

    config: UMT5Config
    dtype: jnp.dtype

    def setup(self):
        config = self.config
        inner = config.num_heads * config.d_kv
        self.q, self.k, self.v = (dense(inner, self.dtype, use_bias=False) for _ in range(3))
        self.o = dense(config.d_model, self.dtype, use_bias=False)
        self.position_bias = self.param(
            "position_bias", nn.initializers.normal(1.0), (config.relative_attention_num_buckets, config.num_heads)
        )

    def __call__(self, x: Float["b s d"], buckets: Int["s s"], mask: Bool["b s"]) -> Float["b s d"]:
        heads = (*x.shape[:2], self.config.num_heads, self.config.d_kv)
        bias = self.position_bias.astype(jnp.float32)[buckets].transpose(2, 0, 1)
        q, k, v = (project(x).reshape(heads) for project in (self.q, self.k, self.v))
        return self.o(attend(q, k, v, bias, mask).reshape(*x.shape[:2], -1))


class Block(nn.Module):
    """Self-attention, then a gated feed-forward."""

    config: UMT5Config
    dtype: jnp.dtype

    def setup(self):
        config = self.config
        self.norm_attn, self.norm_ffn = RMSNorm(config.layer_norm_epsilon), RMSNorm(config.layer_norm_epsilon)
        self.attn = Attention(config, self.dtype)
        self.ffn_gate, self.ffn_in = (dense(config.d_ff, self.dtype, use_bias=False) for _ in range(2))
        self.ffn_out = dense(config.d_model, self.dtype, use_bias=False)

    def __call__(self, x: Float["b s d"], buckets: Int["s s"], mask: Bool["b s"]) -> tuple[Float["b s d"], None]:
        x = x + self.attn(self.norm_attn(x), buckets, mask)
        h = self.norm_ffn(x)
        x = x + self.ffn_out(nn.gelu(self.ffn_gate(h), approximate=True) * self.ffn_in(h))
        return x, None


class UMT5Encoder(nn.Module):
    """Token ids to text states.

    Matrix products run in `dtype`; norms, scores, softmax and the residual stream are float32.
    """

    config: UMT5Config
    dtype: jnp.dtype = jnp.bfloat16

    def setup(self):
        config = self.config
        self.token_embedding = nn.Embed(config.vocab_size, config.d_model)
        stacked = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=config.num_layers,
        )
        self.blocks = stacked(config, self.dtype)
        self.norm_out = RMSNorm(config.layer_norm_epsilon)

    @typechecked
    def __call__(self, ids: Int["b s"], mask: Bool["b s"] | Int["b s"]) -> Float["b s d"]:
        """Encodes padded prompts to float32 states; `mask` is true (or 1) at real tokens.

        The other tokens see no padding, and its rows come out as zeros: the official code cuts them off
        (Wan2.2, wan/modules/t5.py) and fills up with zeros again (wan/modules/model.py).
        """
        config, mask = self.config, mask.astype(bool)
        buckets = relative_buckets(
            ids.shape[1], config.relative_attention_num_buckets, config.relative_attention_max_distance
        )
        x, _ = self.blocks(self.token_embedding(ids).astype(jnp.float32), buckets, mask)
        return jnp.where(mask[:, :, None], self.norm_out(x), 0.0)


@partial(jax.jit, static_argnames=("config", "dtype"))
def encode_prompt(params: Params, ids: Int["b s"], mask: Bool["b s"], *, config: UMT5Config, dtype) -> Float["b s d"]:
    """The states of tokenised prompts, whole on every device."""
    return sharding.constrain(UMT5Encoder(config, dtype).apply({"params": params}, ids, mask))


def initial_params(config: UMT5Config, key: jax.Array) -> dict:
    """Random parameters to train from, float32."""
    params = UMT5Encoder(config).init(key, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))["params"]
    queries = params["blocks"]["attn"]["q"]
    queries["kernel"] *= config.d_kv**-0.5  # as T5 starts: its scores are not divided by √d
    return params


def abstract_params(config: UMT5Config) -> dict:
    """The parameter tree as float32 shapes; nothing is computed."""
    return jax.eval_shape(partial(initial_params, config), jax.random.key(0))
