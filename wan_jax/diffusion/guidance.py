"""Classifier-free guidance (arXiv:2207.12598)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from wan_jax.typing import Float, typechecked


@typechecked
def guided_velocity(
    predict: Callable, latents: Float["b f h w c"], guidance_scale: float | Float[""] | None
) -> Float["b f h w o"]:
    """uncond + scale · (cond − uncond), the two predicted as one batch of 2·b.

    `predict` is made for that batch: its text holds the b prompts, then their b negative prompts.  With a scale of
    None it holds the prompts alone and there is one prediction.
    """
    if guidance_scale is None:
        return predict(latents)
    cond, uncond = jnp.split(predict(jnp.concatenate([latents, latents])).astype(jnp.float32), 2)
    return uncond + guidance_scale * (cond - uncond)


def is_guided(guidance_scale: float) -> bool:
    """A scale of 1 is the plain prediction; distilled models are asked for with 0 or 1, as in Diffusers."""
    return guidance_scale > 1


def prompt_batch(text, negative_text, guidance_scale: float) -> jax.Array:
    """The text states that `guided_velocity` wants: with their negatives if guided."""
    return jnp.concatenate([text, negative_text]) if is_guided(guidance_scale) else text
