"""Wan-VAE 2.1 and 2.2 (Wan2.2, wan/modules/vae2_1.py and vae2_2.py; arXiv:2503.20314, §4.1).

A causal video autoencoder: 1 + 4n frames of h×w pixels ↔ 1 + n frames of h/8 × w/8 latents; in 2.2 of h/16 × w/16,
made from patches of 2×2 pixels, and with shortcuts around the levels.  The official code feeds it one chunk at a time
(1 pixel frame, then 4, 4, …; one latent frame each); here a chunk may be of any length, up to the whole clip, and the
result does not depend on the cut (see `vae_layers`).  `wan_jax.models.streaming` does the cutting.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from wan_jax.config import VAEConfig
from wan_jax.errors import WanError
from wan_jax.models.space import in_tiles
from wan_jax.models.vae_layers import (
    Cache,
    ChannelNorm,
    Downsample,
    Level,
    Middle,
    ResidualBlock,
    Upsample,
    causal,
    causal_conv,
    part,
    pointwise,
)
from wan_jax.models.vae_shortcuts import average_down, duplicate_up, from_patches, to_patches
from wan_jax.typing import Float, Params, typechecked


def encoder_levels(config: VAEConfig) -> list[Level]:
    """The encoder's resolutions, from pixels to latents."""
    widths = [config.base_dim * mult for mult in (1, *config.dim_mult)]
    temporal = (*config.temporal_downsample, False)
    last = len(temporal) - 1
    return [
        Level(
            in_channels=widths[i],
            channels=widths[i + 1],
            out_channels=widths[i + 1],
            resample=i != last,
            temporal=temporal[i],
            shortcut=config.is_residual,
        )
        for i in range(last + 1)
    ]


def decoder_levels(config: VAEConfig) -> list[Level]:
    """The decoder's resolutions, from latents to pixels.  Each upsampling halves the channels, but in 2.2."""
    widths = [(config.decoder_base_dim or config.base_dim) * mult for mult in reversed(config.dim_mult)]
    out = [width if config.is_residual else width // 2 for width in widths[:-1]] + widths[-1:]
    temporal = (*reversed(config.temporal_downsample), False)
    last = len(temporal) - 1
    return [
        Level(
            in_channels=out[i - 1] if i else widths[0],
            channels=widths[i],
            out_channels=out[i],
            resample=i != last,
            temporal=temporal[i],
            shortcut=config.is_residual and i != last,
        )
        for i in range(last + 1)
    ]


class Encoder(nn.Module):
    """Pixels in [-1, 1] to mean and log-variance, before `quant_conv`."""

    config: VAEConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, cache: Cache | None) -> tuple[jax.Array, Cache]:
        new = {}
        x, new["conv_in"] = causal(causal_conv(self.config.base_dim, self.dtype, "conv_in"), x, part(cache, "conv_in"))
        for i, level in enumerate(encoder_levels(self.config)):
            name = f"level_{i}"
            x, new[name] = _DownLevel(level, self.config.num_res_blocks, self.dtype, name=name)(x, part(cache, name))
        x, new["mid"] = Middle(self.dtype, name="mid")(x, part(cache, "mid"))
        x = nn.silu(ChannelNorm(name="norm_out")(x))
        x, new["conv_out"] = causal(
            causal_conv(2 * self.config.z_dim, self.dtype, "conv_out"), x, part(cache, "conv_out")
        )
        return x, new


class Decoder(nn.Module):
    """Latents, after `post_quant_conv`, to pixels in about [-1, 1]."""

    config: VAEConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, cache: Cache | None) -> tuple[jax.Array, Cache]:
        new = {}
        levels = decoder_levels(self.config)
        width = levels[0].in_channels
        x, new["conv_in"] = causal(causal_conv(width, self.dtype, "conv_in"), x, part(cache, "conv_in"))
        x, new["mid"] = Middle(self.dtype, name="mid")(x, part(cache, "mid"))
        for i, level in enumerate(levels):
            name = f"level_{i}"
            x, new[name] = _UpLevel(level, self.config.num_res_blocks + 1, self.dtype, name=name)(x, part(cache, name))
        x = nn.silu(ChannelNorm(name="norm_out")(x))
        x, new["conv_out"] = causal(
            causal_conv(self.config.out_channels, self.dtype, "conv_out"), x, part(cache, "conv_out")
        )
        return x, new


class _DownLevel(nn.Module):
    level: Level
    num_blocks: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, cache: Cache | None) -> tuple[jax.Array, Cache]:
        new, before = {}, x
        for name in [f"res_{i}" for i in range(self.num_blocks)]:
            x, new[name] = ResidualBlock(self.level.channels, self.dtype, name=name)(x, part(cache, name))
        if self.level.resample:
            x, new["down"] = Downsample(self.level.temporal, self.dtype, name="down")(x, part(cache, "down"))
        if self.level.shortcut:
            x += average_down(before, self.level.out_channels, *self.level.factors)
        return x, new


class _UpLevel(nn.Module):
    level: Level
    num_blocks: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, cache: Cache | None) -> tuple[jax.Array, Cache]:
        new, before = {}, x
        for name in [f"res_{i}" for i in range(self.num_blocks)]:
            x, new[name] = ResidualBlock(self.level.channels, self.dtype, name=name)(x, part(cache, name))
        if self.level.resample:
            up = Upsample(self.level.out_channels, self.level.temporal, self.dtype, name="up")
            x, new["up"] = up(x, part(cache, "up"))
        if self.level.shortcut:
            x += duplicate_up(before, self.level.out_channels, *self.level.factors, begins=cache is None)
        return x, new


class WanVAE(nn.Module):
    """The autoencoder.  `dtype` is that of its matrix products; norms and latent statistics are in float32.

    `encode` and `decode` take one chunk of a clip, and the cache that the chunk before it left; without a cache the
    chunk begins a clip.
    """

    config: VAEConfig
    dtype: Any = jnp.float32

    def setup(self):
        self.encoder = Encoder(self.config, self.dtype)
        self.quant_conv = pointwise(2 * self.config.z_dim, self.dtype)
        self.post_quant_conv = pointwise(self.config.z_dim, self.dtype)
        self.decoder = Decoder(self.config, self.dtype)

    @typechecked
    def __call__(self, video: Float["b f h w 3"]) -> Float["b f h w 3"]:
        """The reconstruction of a whole clip, in one piece."""
        latents, _ = self.encode(video)
        return self.decode(latents)[0]

    @typechecked
    def encode(self, video: Float["b f h w 3"], cache: Cache | None = None) -> tuple[Float["b g i j z"], Cache]:
        """Normalised latents (the posterior's mean, float32) of a chunk of pixels in [-1, 1], and the cache.

        Raises:
            WanError: the chunk does not divide into latents; see `moments`.
        """
        (mean, _), cache = self.moments(video, cache)
        center, spread = self._statistics()
        return (mean - center) / spread, cache

    @typechecked
    def moments(
        self, video: Float["b f h w 3"], cache: Cache | None = None
    ) -> tuple[tuple[Float["b g i j z"], Float["b g i j z"]], Cache]:
        """Mean and log-variance of the posterior before normalisation, both float32, and the cache.

        Raises:
            WanError: there are not 1 + 4n frames (4n after the first chunk), or height or width is no multiple of 8
                (16 in 2.2).
        """
        first = cache is None
        _, f, h, w, _ = video.shape
        time, space = self.config.temporal_factor, self.config.spatial_factor
        if f < first or (f - first) % time or h % space or w % space:
            frames = f"1 + {time}n" if first else f"{time}n"
            raise WanError(
                f"{f} frames of {h}×{w} do not divide into latents: "
                f"there must be {frames} frames, with height and width multiples of {space}"
            )
        side = self.config.patch_size or 1
        x = to_patches(video.astype(self.dtype), side)
        x, cache = in_tiles(self.encoder, x, cache, pixels_per_latent=space // side)
        mean, log_variance = jnp.split(self.quant_conv(x).astype(jnp.float32), 2, axis=-1)
        return (mean, log_variance), cache

    @typechecked
    def decode(self, latents: Float["b f h w z"], cache: Cache | None = None) -> tuple[Float["b g i j 3"], Cache]:
        """Pixels in [-1, 1], float32, of a chunk of normalised latents, and the cache.

        n frames of latents make 4n frames, 4n - 3 in the first chunk.
        """
        center, spread = self._statistics()
        x, cache = self.decode_sample(latents.astype(jnp.float32) * spread + center, cache)
        return jnp.clip(x, -1.0, 1.0), cache

    @typechecked
    def decode_sample(self, sample: Float["b f h w z"], cache: Cache | None = None) -> tuple[Float["b g i j 3"], Cache]:
        """As `decode`, of a sample of the posterior that `moments` tells, and without the limits -1 and 1."""
        x = self.post_quant_conv(sample.astype(self.dtype))
        x, cache = in_tiles(self.decoder, x, cache, pixels_per_latent=1)
        return from_patches(x.astype(jnp.float32), self.config.patch_size or 1), cache

    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each latent channel."""
        return np.float32(self.config.latents_mean), np.float32(self.config.latents_std)


def initial_params(config: VAEConfig, key: jax.Array) -> Params:
    """Random parameters to train from, float32."""
    space = config.spatial_factor
    return WanVAE(config).init(key, jnp.zeros((1, 1, space, space, 3)))["params"]


def abstract_params(config: VAEConfig) -> Params:
    """The shapes of the parameters, without making them (float32)."""
    return jax.eval_shape(partial(initial_params, config), jax.random.key(0))
