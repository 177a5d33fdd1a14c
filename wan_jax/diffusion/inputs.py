"""What the transformer sees of noisy latents: frames that are given stay clean, and conditions follow as channels."""

import jax.numpy as jnp

from wan_jax.models.dit import PATCH
from wan_jax.models.layers import repeated
from wan_jax.typing import Bool, Float, Int, typechecked


@typechecked
def impose(latents: Float["b f h w c"], clean: Float["a g h w c"] | None) -> Float["b f h w c"]:
    """The latents with their first frames replaced by those that are given, for each of b/a groups of samples."""
    return (
        latents if clean is None else jnp.concatenate([repeated(clean, len(latents)), latents[:, clean.shape[1] :]], 1)
    )


@typechecked
def network_inputs(
    noisy: Float["b f h w c"],
    timestep: Float[" b"],
    clean: Float["a g h w c"] | None,
    channels: Float["a f h w m"] | None,
    shown: Bool[" s"] | None = None,
) -> tuple[Float["b f h w n"], Float["b r"], Int[" t"] | None]:
    """The first arguments of `DiT`: latents, distinct timesteps, and which of them each token has.

    Args:
        noisy: the latents.
        timestep: of each sample, 0 … 1000.
        clean: latent frames at the start that are given; they are shown at timestep 0 (Wan2.2,
            wan/textimage2video.py).
        channels, shown: see `wan_jax.conditioning`; `shown` too may be of a group of samples, like the others.
    """
    _, frames, height, width, _ = noisy.shape
    timestep, row = timestep[:, None], None
    if clean is not None:
        shown = jnp.ones(len(noisy), bool) if shown is None else repeated(shown, len(noisy))
        noisy = jnp.where(shown[:, None, None, None, None], impose(noisy, clean), noisy)
        timestep = jnp.concatenate([jnp.where(shown[:, None], 0, timestep), timestep], axis=1)
        row = jnp.repeat(jnp.arange(frames) >= clean.shape[1], height * width // PATCH**2).astype(jnp.int32)
    if channels is not None:
        noisy = jnp.concatenate([noisy, repeated(channels, len(noisy))], axis=-1)
    return noisy, timestep, row
