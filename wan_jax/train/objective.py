"""What the denoiser learns: the velocity of straight paths, at noise levels that its expert is responsible for."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from wan_jax.conditioning import Conditioning
from wan_jax.diffusion import flow
from wan_jax.diffusion.inputs import network_inputs
from wan_jax.typing import Bool, Float, typechecked


@typechecked
def flow_matching_loss(
    predict: Callable,
    clean: Float["b f h w c"],
    noise: Float["b f h w c"],
    sigma: Float[" b"],
    conditioning: Conditioning,
) -> Float[" b"]:
    """The mean squared error of the predicted velocity, one number per clip, in float32 (arXiv:2210.02747).

    Args:
        predict: (latents, timestep [b r], text, row, context) → velocity, as `DiT.__call__`.
        clean: normalised latents of the clips.
        noise: standard normal.
        sigma: noise level of each clip; the network is told 1000 · sigma.
        conditioning: what else it is told.  Clean frames that are given stay as they are and do not count.
    """
    noisy = flow.interpolate(clean, noise, sigma[:, None, None, None, None])
    predicted = predicted_velocity(predict, noisy, sigma * flow.TRAIN_TIMESTEPS, conditioning)
    return mean_square(predicted - flow.velocity(clean, noise), conditioning)


@typechecked
def predicted_velocity(
    predict: Callable, noisy: Float["b f h w c"], timestep: Float[" b"], conditioning: Conditioning
) -> Float["b f h w c"]:
    """What a network that is told the conditioning predicts for noisy latents."""
    given = conditioning.clean, conditioning.channels, conditioning.shown
    inputs, timestep, row = network_inputs(noisy, timestep, *given)
    return predict(inputs, timestep, conditioning.text, row, conditioning.context)


@typechecked
def mean_square(error: Float["b f h w c"], conditioning: Conditioning) -> Float[" b"]:
    """Over each clip, but for latent frames that were given, in float32."""
    squares = jnp.square(error.astype(jnp.float32)).mean(axis=(2, 3, 4))
    return squares.mean(axis=1, where=_learned(conditioning, *squares.shape))


def _learned(conditioning: Conditioning, count: int, frames: int) -> Bool["b f"]:
    """Of each latent frame whether it had to be predicted: all but those that were given."""
    if conditioning.clean is None:
        return jnp.ones((count, frames), bool)
    shown = jnp.ones(count, bool) if conditioning.shown is None else conditioning.shown
    return (jnp.arange(frames) >= conditioning.clean.shape[1]) | ~shown[:, None]


@typechecked
def drop_captions(text: Float["b s d"], no_text: Float["1 s d"], key: jax.Array, share: float) -> Float["b s d"]:
    """Replaces the states of a random share of captions by those of the empty one (arXiv:2207.12598 §3.1)."""
    dropped = jax.random.bernoulli(key, share, (len(text), 1, 1))
    return jnp.where(dropped, no_text, text)
