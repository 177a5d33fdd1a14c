"""Hints for the denoiser from frames that are given: the context branch of VACE (arXiv:2503.07598 §3.3).

A second, shorter stack of blocks reads the context beside the noisy video.  What each of them says is projected to a
hint, and the hint is added to the video after one of the denoiser's own blocks.  The first block sees the sum of the
embedded context and the embedded latents; nothing flows back, so all hints are known before the denoiser's first block.

Where the projections around the branch are zero, as at the start of its training, the denoiser is what it was.
"""

from dataclasses import replace

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from wan_jax.config import DiTConfig
from wan_jax.kernels.qk_norm import Rope
from wan_jax.models.dit import (
    Block,
    Context,
    TextKV,
    constrain_tokens,
    initial_params,
    pad_tokens,
    patchify,
    stacked_blocks,
)
from wan_jax.models.layers import dense, repeated
from wan_jax.typing import Float, Int, Params


@flax.struct.dataclass
class HintAt:
    """Of every block of the denoiser: which hint is added after it, −1 for none, and how strongly."""

    index: Int[" l"]
    scale: Float[" l"]

    @classmethod
    def layers(cls, config: DiTConfig, scale: Float["*k"]) -> "HintAt":
        count = len(config.vace_layers)
        index = np.full(config.num_layers, -1, np.int32)
        index[list(config.vace_layers)] = np.arange(count)
        return cls(jnp.asarray(index), jnp.broadcast_to(scale, count).astype(jnp.float32)[index])


class HintedBlock(Block):
    """A block of the denoiser, and then the hint that belongs to it."""

    def __call__(
        self,
        x: Float["b n c"],
        text: TextKV,
        time: Float["b r 6 c"],
        row: Int[" n"] | None,
        rope: Rope,
        length: int,
        at: HintAt | None,
        hints: Float["k b n c"] | None,
    ) -> tuple[Float["b n c"], None]:
        x, _ = super().__call__(x, text, time, row, rope, length)
        if hints is None:
            return x, None
        # A branch, so that blocks without a hint do not read one.
        x = jax.lax.cond(at.index >= 0, lambda: x + at.scale * hints[at.index], lambda: x)
        return constrain_tokens(x), None


class ContextBlock(Block):
    """A block that passes its tokens on, and says a hint."""

    def setup(self):
        super().setup()
        self.after_proj = dense(
            self.config.dim, self.dtype, quantization=self.config.quantization, kernel_init=nn.initializers.zeros
        )

    def __call__(
        self,
        x: Float["b n c"],
        text: TextKV,
        time: Float["b r 6 c"],
        row: Int[" n"] | None,
        rope: Rope,
        length: int,
    ) -> tuple[Float["b n c"], Float["b n c"]]:
        x, _ = super().__call__(x, text, time, row, rope, length)
        return x, constrain_tokens(self.after_proj(x))


class Hints(nn.Module):
    """From the context to one hint for each of `config.vace_layers`."""

    config: DiTConfig
    dtype: jnp.dtype
    remat: str

    def setup(self):
        dim = self.config.dim
        self.patch_embedding = dense(dim, self.dtype)
        self.before_proj = dense(dim, self.dtype, kernel_init=nn.initializers.zeros)
        self.blocks = stacked_blocks(ContextBlock, len(self.config.vace_layers), self)

    def encode_text(self, text: Float["b s c"]) -> TextKV:
        """The keys and values of the context blocks, from the projected text."""
        return self.blocks.text_kv(None, text, None)[1]

    def __call__(
        self,
        x: Float["b n c"],
        context: Context | None,
        text: TextKV,
        time: Float["b r 6 c"],
        row: Int[" n"] | None,
        rope: Rope,
        length: int,
    ) -> tuple[HintAt | None, Float["k b n c"] | None]:
        """What `HintedBlock` takes after the arguments of `Block`; `x` are the embedded latents."""
        if context is None:
            return None, None
        tokens = constrain_tokens(pad_tokens(patchify(repeated(context.frames, len(x))), len(x)))
        seen = self.before_proj(self.patch_embedding(tokens)).astype(jnp.float32) + x
        _, hints = self.blocks(constrain_tokens(seen), text, time, row, rope, length)
        return HintAt.layers(self.config, context.scale), hints


def without_branch(config: DiTConfig) -> DiTConfig:
    """The denoiser alone."""
    plain = DiTConfig()
    return replace(config, vace_layers=plain.vace_layers, vace_in_channels=plain.vace_in_channels)


def with_new_branch(denoiser: Params, config: DiTConfig, key: jax.Array) -> Params:
    """Weights to begin the training of a branch with: its blocks are copies of the denoiser's, as VACE's were.

    The projections around it are zero, so that the denoiser is what it was; the embedding of the context is random.

    Args:
        denoiser: the parameters of `without_branch(config)`.
        config: with the branch.
        key: of the random weights.
    """
    branch = initial_params(config, key)["vace"]
    layers = np.array(config.vace_layers)
    copies = jax.tree.map(lambda x: x[layers], denoiser["blocks"])
    return denoiser | {"vace": branch | {"blocks": branch["blocks"] | copies}}
