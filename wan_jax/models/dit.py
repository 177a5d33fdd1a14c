"""The denoiser: a diffusion transformer over video tokens (arXiv:2503.20314 §4.2; Wan2.2, wan/modules/model.py).

Read it from the bottom: `DiT` embeds patches, time and text, scans over the stacked blocks, and projects back to a
velocity.  Work that depends on less than the current latents is done less often: the text keys and values once per
prompt (`encode_text`), the modulation once per distinct timestep (`r` rows, not one per token).

The residual stream, norms, modulation, time path and head are float32; matrix products run in `dtype`.
"""

from functools import partial

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from wan_jax import sharding
from wan_jax.attention import cross_attention, query_scale, self_attention
from wan_jax.config import DiTConfig
from wan_jax.kernels.layer_norm import layer_norm
from wan_jax.kernels.qk_norm import Rope, qk_norm
from wan_jax.models.layers import LayerNorm, dense, timestep_embedding
from wan_jax.models.rope import rope_table
from wan_jax.remat import BLOCK_INPUT, keep, remat
from wan_jax.typing import Float, Int, typechecked

PATCH = 2  # pixels of latent per token, along height and width
_IMAGE_EPS = 1e-5  # of the norms around the projection of CLIP's tokens: not that of the others


@flax.struct.dataclass
class TextKV:
    """The prompt as every block's cross-attention sees it; and the pictures, of a model that is shown some."""

    keys: Float["l b s c"]
    values: Float["l b s c"]
    image: "TextKV | None" = None  # CLIP's tokens, in a model that is shown pictures
    vace: "TextKV | None" = None  # for the blocks that make hints, in a model that has them


@flax.struct.dataclass
class Context:
    """What a VACE model keeps, follows or resembles: `wan_jax.vcu` makes it.

    Attributes:
        frames: inactive and reactive latents and the folded mask, references in front; one for all samples, or one for
            each of the b/a groups of a batch.
        scale: factor of every hint, or one for all.
    """

    frames: Float["a f h w m"]
    scale: Float["*k"]


@typechecked
def patchify(latents: Float["b f h w c"]) -> Float["b n d"]:
    """Tokens in (frame, row, column) order; a token's features in (row, column, channel) order."""
    b, f, h, w, c = latents.shape
    x = latents.reshape(b, f, h // PATCH, PATCH, w // PATCH, PATCH, c)
    return x.swapaxes(3, 4).reshape(b, -1, PATCH * PATCH * c)


@typechecked
def unpatchify(tokens: Float["b n d"], grid: tuple[int, int, int]) -> Float["b f h w c"]:
    """The inverse of `patchify`."""
    f, rows, columns = grid
    x = tokens.reshape(tokens.shape[0], f, rows, columns, PATCH, PATCH, -1)
    return x.swapaxes(3, 4).reshape(tokens.shape[0], f, rows * PATCH, columns * PATCH, -1)


@typechecked
def per_token(rows: Float["b r d"], row: Int[" n"] | None) -> Float["b n d"]:
    """The modulation row of every token; a single row is left to broadcast."""
    return rows if row is None else rows[:, row]


def pad_tokens(x: jax.Array, batch: int, axis: int = 1) -> jax.Array:
    """Adds tokens until the mesh cuts the sequence into equal pieces; attention looks past them."""
    missing = -x.shape[axis] % sharding.sequence_multiple(batch)
    return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])


def constrain_tokens(x: Float["b n d"]) -> Float["b n d"]:
    split = sharding.split(x.shape[0])
    return sharding.constrain(x, split.batch, split.sequence)


class QKNorm(nn.Module):
    """RMSNorm over all heads together, times `factor`, then the turn by position where `rope` is given."""

    config: DiTConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float["b n c"], rope: Rope | None = None, factor: float = 1.0) -> Float["b n c"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        return qk_norm(x, factor * scale, rope, self.config.num_attention_heads, self.config.eps, self.dtype)


class Attention(nn.Module):
    """The projections of one attention.  Heads stay side by side in the last axis: a TPU would copy to part them."""

    config: DiTConfig
    dtype: jnp.dtype

    def setup(self):
        self.q, self.k, self.v, self.o = (
            dense(self.config.dim, self.dtype, quantization=self.config.quantization) for _ in range(4)
        )
        self.norm_q, self.norm_k = (QKNorm(self.config, self.dtype) for _ in range(2))

    def queries(self, x: Float["b n c"], rope: Rope | None = None) -> Float["b n c"]:
        return self.norm_q(self.q(x), rope, query_scale(self.config.attention_head_dim))

    def keys(self, x: Float["b n c"], rope: Rope | None = None) -> Float["b n c"]:
        return self.norm_k(self.k(x), rope)

    def values(self, x: Float["b n c"]) -> Float["b n c"]:
        return self.v(x)


class Block(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; the first and last are modulated by time."""

    config: DiTConfig
    dtype: jnp.dtype

    def setup(self):
        dim = self.config.dim
        self.modulation = self.param("modulation", nn.initializers.normal(dim**-0.5), (6, dim))
        self.self_attn = Attention(self.config, self.dtype)
        self.norm_cross = LayerNorm(self.config.eps, self.dtype)
        self.cross_attn = Attention(self.config, self.dtype)
        self.image_attn = Attention(self.config, self.dtype)  # its keys and values only, and where there are pictures
        self.ffn_in = dense(self.config.ffn_dim, self.dtype, quantization=self.config.quantization)
        self.ffn_out = dense(dim, self.dtype, quantization=self.config.quantization)

    def text_kv(self, carry: None, text: Float["b s c"], image: Float["b i c"] | None) -> tuple[None, TextKV]:
        pictures = None if image is None else TextKV(self.image_attn.keys(image), self.image_attn.values(image))
        return carry, TextKV(self.cross_attn.keys(text), self.cross_attn.values(text), pictures)

    def __call__(
        self,
        x: Float["b n c"],
        text: TextKV,
        time: Float["b r 6 c"],
        row: Int[" n"] | None,
        rope: Rope,
        length: int,
    ) -> tuple[Float["b n c"], None]:
        heads = self.config.num_attention_heads
        x = keep(x, BLOCK_INPUT)
        table = self.modulation + time
        shift_sa, scale_sa, gate_sa, shift_ff, scale_ff, gate_ff = (per_token(table[:, :, i], row) for i in range(6))

        h = layer_norm(x, 1 + scale_sa, shift_sa, self.config.eps, self.dtype)
        q, k, v = self.self_attn.queries(h, rope), self.self_attn.keys(h, rope), self.self_attn.values(h)
        with jax.named_scope("self_attention"):  # by which the planner knows its kernel
            h = self_attention(q, k, v, heads, length)
        x = x + gate_sa * self.self_attn.o(h)

        q = self.cross_attn.queries(self.norm_cross(x))
        h = cross_attention(q, text.keys, text.values, heads)
        if text.image is not None:
            h = h + cross_attention(q, text.image.keys, text.image.values, heads)
        x = x + self.cross_attn.o(h)

        h = layer_norm(x, 1 + scale_ff, shift_ff, self.config.eps, self.dtype)
        x = x + gate_ff * self.ffn_out(nn.gelu(self.ffn_in(h), approximate=True))
        return constrain_tokens(x), None


class Head(nn.Module):
    """Modulated norm and projection from a token to its patch, in float32."""

    config: DiTConfig

    @nn.compact
    def __call__(self, x: Float["b n c"], time: Float["b r c"], row: Int[" n"] | None) -> Float["b n d"]:
        dim = self.config.dim
        table = self.param("modulation", nn.initializers.normal(dim**-0.5), (2, dim))
        shift, scale = (per_token(time + table[i], row) for i in range(2))
        x = layer_norm(x, 1 + scale, shift, self.config.eps, jnp.float32)
        return nn.Dense(
            self.config.out_channels * PATCH**2,
            kernel_init=nn.initializers.zeros,
            precision=jax.lax.Precision.HIGHEST,
            name="proj",
        )(x)


class ImageEmbedding(nn.Module):
    """CLIP's tokens in the width of the model (Wan2.1, wan/modules/model.py, MLPProj)."""

    config: DiTConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: Float["b i d"]) -> Float["b i c"]:
        if self.config.pos_embed_seq_len is not None:  # which tells the first picture from the last
            shape = (self.config.pos_embed_seq_len, self.config.image_dim)
            tokens = tokens + self.param("position", nn.initializers.zeros, shape)
        h = LayerNorm(_IMAGE_EPS, self.dtype, name="norm_in")(tokens)
        h = dense(self.config.image_dim, self.dtype, name="proj_in")(h)
        h = dense(self.config.dim, self.dtype, name="proj_out")(nn.gelu(h, approximate=False))
        return LayerNorm(_IMAGE_EPS, self.dtype, name="norm_out")(h)


def stacked_blocks(block: type[Block], length: int, dit: "DiT", extra_axes: tuple = ()) -> nn.Module:
    """So many blocks under one scan; those that wait in host memory each come to the device when their turn is near.

    `extra_axes`: of arguments that the block takes after those of `Block`.
    """
    stacked = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "length": length}
    block = remat(block, dit.remat, static_argnums=(6,))  # `length`
    if any(map(sharding.is_in_host_memory, jax.tree.leaves(dit.variables))):
        block = nn.map_variables(block, "params", sharding.fetch, methods=["text_kv", "__call__"])
    return nn.scan(
        block,
        methods={
            "text_kv": {**stacked, "in_axes": (nn.broadcast, nn.broadcast)},
            "__call__": {**stacked, "in_axes": (0, *[nn.broadcast] * 4, *extra_axes)},
        },
    )(dit.config, dit.dtype)


class DiT(nn.Module):
    """The diffusion transformer.  `dtype` is that of the matrix products; `remat` says what gradients keep."""

    config: DiTConfig
    dtype: jnp.dtype = jnp.bfloat16
    remat: str = "all"

    def setup(self):
        dim = self.config.dim
        self.patch_embedding = dense(dim, self.dtype)
        self.text_in, self.text_out = dense(dim, self.dtype), dense(dim, self.dtype)
        self.time_in, self.time_out = dense(dim, jnp.float32), dense(dim, jnp.float32)
        self.time_proj = dense(6 * dim, jnp.float32)
        self.image_embedding = ImageEmbedding(self.config, self.dtype)  # without parameters where it is not called
        if self.config.vace_layers:
            from wan_jax.models import vace  # which is made of our blocks

            self.blocks = stacked_blocks(vace.HintedBlock, self.config.num_layers, self, (0, nn.broadcast))
            self.vace = vace.Hints(self.config, self.dtype, self.remat)
        else:
            self.blocks = stacked_blocks(Block, self.config.num_layers, self)
        self.head = Head(self.config)

    @typechecked
    def encode_text(self, text: Float["b s d"], image: Float["b i e"] | None = None) -> TextKV:
        """Projects umT5 states, zero rows of padding included, to every block's keys and values.

        The padding is not masked: after the projection it is a constant vector that the released models attend to.

        Args:
            text: the states.
            image: CLIP's tokens of the pictures, one after the other, for a model with an `image_dim`.
        """
        text = self.text_out(nn.gelu(self.text_in(text), approximate=True))
        image = None if image is None else self.image_embedding(image)
        _, kv = self.blocks.text_kv(None, text, image)
        return kv.replace(vace=self.vace.encode_text(text)) if self.config.vace_layers else kv

    @typechecked
    def velocity(
        self,
        latents: Float["b f h w c"],
        timestep: Float["b r"],
        text: TextKV,
        row: Int[" n"] | None = None,
        context: Context | None = None,
    ) -> Float["b f h w o"]:
        """The predicted velocity, noise − x0, in float32.

        Args:
            latents: noisy latents, and after them any channels the model is conditioned on.
            timestep: the r distinct timesteps of each sample, in 0 … 1000.
            text: the prompts, from `encode_text`.
            row: which of the r timesteps each token has; None where all tokens share the only one.
            context: for a VACE model; without it no hints are added.
        """
        grid = latents.shape[1], latents.shape[2] // PATCH, latents.shape[3] // PATCH
        x, time, table, row, rope, length = self._embed(latents, timestep, row)
        hints = ()
        if self.config.vace_layers:
            hints = self.vace(x, context, text.vace, table, row, rope, length)
        x, _ = self.blocks(x, text.replace(vace=None), table, row, rope, length, *hints)
        return unpatchify(self.head(x, time, row)[:, :length], grid)

    @typechecked
    def first_block(
        self, latents: Float["b f h w c"], timestep: Float["b r"], text: TextKV, row: Int[" n"] | None = None
    ) -> Float["b m d"]:
        """What the first block adds to the tokens, padding included; the arguments are those of `velocity`."""
        x, _, table, row, rope, length = self._embed(latents, timestep, row)
        params, text = jax.tree.map(lambda x: x[0], (self.variables["params"]["blocks"], text.replace(vace=None)))
        block = Block(self.config, self.dtype, parent=None)
        return block.apply({"params": sharding.fetch(params)}, x, text, table, row, rope, length)[0] - x

    def _embed(self, latents: Float["b f h w c"], timestep: Float["b r"], row: Int[" n"] | None) -> tuple:
        """What the blocks and the head are given: tokens, time, modulation, its row of each token, rope, length."""
        b, f, h, w, _ = latents.shape
        grid = (f, h // PATCH, w // PATCH)
        length = f * grid[1] * grid[2]
        time = self.time_out(nn.silu(self.time_in(timestep_embedding(timestep, self.config.freq_dim))))
        table = self.time_proj(nn.silu(time)).reshape(*timestep.shape, 6, self.config.dim)
        rope = tuple(pad_tokens(angles, b, axis=0) for angles in rope_table(grid, self.config.attention_head_dim))
        row = None if row is None else pad_tokens(row, b, axis=0)
        tokens = constrain_tokens(pad_tokens(patchify(latents), b))
        x = constrain_tokens(self.patch_embedding(tokens).astype(jnp.float32))
        return x, time, table, row, rope, length

    def __call__(
        self,
        latents: Float["b f h w c"],
        timestep: Float["b r"],
        text: Float["b s d"],
        row: Int[" n"] | None = None,
        context: Context | None = None,
        image: Float["b i e"] | None = None,
    ) -> Float["b f h w o"]:
        """Velocity straight from umT5 states: `encode_text`, then `velocity`."""
        return self.velocity(latents, timestep, self.encode_text(text, image), row, context)


def initial_params(config: DiTConfig, key: jax.Array) -> dict:
    """Random parameters to train from, float32; the head is zero, and so is the velocity it predicts."""
    texts = 1, sharding.sequence_multiple(1), config.text_dim  # which a mesh cuts evenly
    latents, timestep, text = (jnp.zeros(x) for x in ((1, 1, PATCH, PATCH, config.in_channels), (1, 1), texts))
    context = image = None
    if config.vace_layers:
        context = Context(jnp.zeros((1, 1, PATCH, PATCH, config.vace_in_channels)), jnp.ones(()))
    if config.image_dim is not None:
        image = jnp.zeros((1, config.pos_embed_seq_len or 1, config.image_dim))
    return DiT(config).init(key, latents, timestep, text, context=context, image=image)["params"]


def abstract_params(config: DiTConfig) -> dict:
    """The parameter tree as float32 shapes; nothing is computed."""
    return jax.eval_shape(partial(initial_params, config), jax.random.key(0))
