"""What the Wan video autoencoders are made of (Wan2.2, wan/modules/vae2_1.py and vae2_2.py; arXiv:2503.20314, §4.1).

Every module that looks back in time is `(x, cache) -> (y, cache)`: `cache` holds the frames before this chunk that its
convolutions still need, in a nested dict that mirrors the modules.  None begins a clip: convolutions then see zeros,
and temporal resampling lets the very first frame pass by itself.  A chunk may have any number of frames, so a whole
clip is nothing but a long first chunk.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wan_jax.models import space
from wan_jax.models.convolution import Conv, in_order
from wan_jax.precision import matmul_precision
from wan_jax.typing import Float, typechecked

Cache = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Level:
    """The residual blocks at one resolution, and the change of resolution after them.

    Attributes:
        in_channels: channels that reach the first block.
        channels: channels of every block.
        out_channels: channels that leave the level.
        resample: whether height and width change by 2 at the end.
        temporal: whether the frame rate changes by 2 as well.
        shortcut: whether the level's input is added to its output, brought to the same size.
    """

    in_channels: int
    channels: int
    out_channels: int
    resample: bool
    temporal: bool
    shortcut: bool

    @property
    def factors(self) -> tuple[int, int]:
        """By how much the frame rate and the sides of frames change."""
        return 1 + self.temporal, 1 + self.resample


def part(cache: Cache | None, name: str) -> Any:
    """What the module `name` left of the chunk before; None where the clip begins."""
    return None if cache is None else cache[name]


@typechecked
def causal(
    conv: nn.Module, x: Float["b f h w c"], history: Float["b past h w c"] | None
) -> tuple[Float["b g h w d"], Float["b past h w c"]]:
    """Runs `conv`, which does not pad time, over the frames of `history` (two of zeros if None) and then of `x`.

    Returns the result and the last frames seen, as many as in `history`: the history of the next chunk.
    """
    if history is None:
        history = jnp.zeros((x.shape[0], 2, *x.shape[2:]), x.dtype)
    y = conv(jnp.concatenate([history, x], axis=1))
    # Once `y` is there, the old history is not needed any more, and the new one may have its memory.
    y, x, history = in_order(y, x, history)
    return y, jnp.concatenate([history, x], axis=1)[:, x.shape[1] :]


@typechecked
def split_first(x: Float["b f h w c"], begins: bool) -> tuple[jax.Array, jax.Array]:
    """The clip's very first frame, if it begins in `x` (else no frame), and the other frames."""
    return x[:, : int(begins)], x[:, int(begins) :]


@typechecked
def interleave(x: Float["b f h w c"]) -> Float["b g h w d"]:
    """Two frames from one: frame 2t is the first half of the channels, frame 2t + 1 the second."""
    b, f, h, w, c = x.shape
    return jnp.moveaxis(x.reshape(b, f, h, w, 2, c // 2), 4, 2).reshape(b, 2 * f, h, w, c // 2)


@typechecked
def attend(q: Float["b n c"], k: Float["b m c"], v: Float["b m c"]) -> Float["b n c"]:
    """One-headed softmax(q·kᵀ/√c)·v, with the softmax in float32."""
    precision = matmul_precision(q.dtype)
    logits = jnp.einsum("bqc,bkc->bqk", q, k, precision=precision, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits * q.shape[-1] ** -0.5).astype(q.dtype)
    return jnp.einsum("bqk,bkc->bqc", weights, v, precision=precision)


def causal_conv(features: int, dtype, name: str) -> Conv:
    """A 3×3×3 convolution that pads space only; `causal` gives it its past."""
    return Conv(features, (3, 3, 3), dtype, name=name)


def time_conv(features: int, stride: int, dtype) -> Conv:
    """A convolution over three frames; `causal` gives it its past."""
    return Conv(features, (3, 1, 1), dtype, strides=(stride, 1, 1), margin=(0, 0), name="time_conv")


def pointwise(features: int, dtype, name: str | None = None) -> nn.Dense:
    """What the checkpoints store as a 1×1 or 1×1×1 convolution."""
    return nn.Dense(features, dtype=dtype, precision=matmul_precision(dtype), name=name)


class ChannelNorm(nn.Module):
    """x / ‖x‖ · √c · scale over the channels, in float32; the norm is at least 1e-12."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        # The floor is put on the square, so that the gradient at zero is finite.
        inverse = jax.lax.rsqrt(jnp.maximum(jnp.sum(wide * wide, axis=-1, keepdims=True), 1e-24))
        return (wide * inverse * x.shape[-1] ** 0.5 * scale.astype(jnp.float32)).astype(x.dtype)


class ResidualBlock(nn.Module):
    """Twice norm, SiLU and causal convolution, added to the input."""

    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, cache: Cache | None) -> tuple[jax.Array, Cache]:
        new = {}
        skip = x if x.shape[-1] == self.channels else pointwise(self.channels, self.dtype, "shortcut")(x)
        x = nn.silu(ChannelNorm(name="norm_1")(x))
        x, new["conv_1"] = causal(causal_conv(self.channels, self.dtype, "conv_1"), x, part(cache, "conv_1"))
        x = nn.silu(ChannelNorm(name="norm_2")(x))
        x, new["conv_2"] = causal(causal_conv(self.channels, self.dtype, "conv_2"), x, part(cache, "conv_2"))
        return skip + x, new


class FrameAttention(nn.Module):
    """Attention of all positions of a frame to each other; frames do not see one another."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        q, k, v = jnp.split(pointwise(3 * c, self.dtype, "qkv")(ChannelNorm(name="norm")(x)), 3, axis=-1)
        q = space.strip(q)
        frames = [_tokens(q), _tokens(space.whole_frames(k)), _tokens(space.whole_frames(v))]
        # Frame by frame: at 720p the logits of a single one take 0.8 GB.
        y = jax.lax.map(lambda qkv: attend(*qkv), frames)
        y = space.split(jnp.moveaxis(y, 0, 1).reshape(q.shape))
        return x + pointwise(c, self.dtype, "out")(y)


def _tokens(x: jax.Array) -> jax.Array:
    """[f b n c] from [b f h w c]."""
    b, f, h, w, c = x.shape
    return jnp.moveaxis(x, 1, 0).reshape(f, b, h * w, c)


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, cache: Cache | None) -> tuple[jax.Array, Cache]:
        new = {}
        x, new["res_0"] = ResidualBlock(x.shape[-1], self.dtype, name="res_0")(x, part(cache, "res_0"))
        x = FrameAttention(self.dtype, name="attn")(x)
        x, new["res_1"] = ResidualBlock(x.shape[-1], self.dtype, name="res_1")(x, part(cache, "res_1"))
        return x, new


class Downsample(nn.Module):
    """Halves height and width, and the frame rate where `temporal`: 1 + 2n frames become 1 + n."""

    temporal: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, cache: Cache | None) -> tuple[jax.Array, Cache]:
        c = x.shape[-1]
        # Padded on the right and at the bottom only.
        x = Conv(c, (3, 3), self.dtype, strides=(2, 2), margin=(0, 1), name="conv")(x)
        if not self.temporal:
            return x, {}
        # With a stride of two, neighbouring windows share one frame.
        alone, x = split_first(x, begins=cache is None)
        x, history = causal(time_conv(c, 2, self.dtype), x, alone if cache is None else cache["time_conv"])
        return jnp.concatenate([alone, x], axis=1), {"time_conv": history}


class Upsample(nn.Module):
    """Doubles the frame rate where `temporal`, 1 + n frames becoming 1 + 2n, then height and width."""

    features: int
    temporal: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, cache: Cache | None) -> tuple[jax.Array, Cache]:
        new = {}
        if self.temporal:
            # The clip's first frame is doubled by nothing and is no history either: the second one sees zeros.
            alone, x = split_first(x, begins=cache is None)
            x, new["time_conv"] = causal(time_conv(2 * x.shape[-1], 1, self.dtype), x, part(cache, "time_conv"))
            x = jnp.concatenate([alone, interleave(x)], axis=1)
        (x,) = in_order(x)  # or XLA takes what was added up in float32, doubles that and convolves it
        x = x.repeat(2, axis=3).repeat(2, axis=2)  # columns, the dearer, while there are fewer rows
        return Conv(self.features, (3, 3), self.dtype, name="conv")(x), new
