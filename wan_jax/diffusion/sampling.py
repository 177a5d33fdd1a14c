"""The denoising loop: one compiled function for every step, segment and expert."""

from functools import partial

import jax
import jax.numpy as jnp

from wan_jax import sharding
from wan_jax.config import DiTConfig
from wan_jax.diffusion.guidance import guided_velocity
from wan_jax.diffusion.inputs import impose, network_inputs
from wan_jax.diffusion.solvers import SolverState, Steps, solver_step
from wan_jax.models.dit import Context, DiT, TextKV
from wan_jax.models.layers import repeated
from wan_jax.typing import Float, Params


@partial(jax.jit, static_argnames=("config", "dtype"))
def encode_text(
    params: Params, text: Float["b s d"], image: Float["a i d"] | None = None, *, config: DiTConfig, dtype
) -> TextKV:
    """The text keys and values of one expert, and those of CLIP's tokens, computed once for all of its steps."""
    image = None if image is None else repeated(image, len(text))
    text = DiT(config, dtype).apply({"params": params}, text, image, method="encode_text")
    return jax.tree.map(lambda x: sharding.constrain(x, *sharding.text_spec(x.shape)), text)


@partial(jax.jit, static_argnames=("config", "dtype"), donate_argnames="state")
def denoise(
    params: Params,
    state: SolverState,
    text: TextKV,
    steps: Steps,
    start: int,
    stop: int,
    guidance_scale: float | None,
    clean: Float["b g h w c"] | None = None,
    channels: Float["b f h w m"] | None = None,
    context: Context | None = None,
    *,
    config: DiTConfig,
    dtype,
) -> SolverState:
    """Steps `start` … `stop` − 1 with one expert.

    The bounds are ordinary arguments, so that a single step, a whole segment and the other expert's segment all run
    the same executable.  `state` is donated.  A `guidance_scale` of None means one prediction a step, without
    negative prompt.  `clean`, `channels` and `context`: see `wan_jax.conditioning`; the sample gets its clean frames
    back after every step.
    """
    dit = DiT(config, dtype)

    def step(i, state: SolverState) -> SolverState:
        def predict(latents: Float["b f h w c"]) -> Float["b f h w c"]:
            timestep = jnp.full(len(latents), steps.timestep[i], jnp.float32)
            latents, timestep, row = network_inputs(latents, timestep, clean, channels)
            return dit.apply({"params": params}, latents, timestep, text, row, context, method="velocity")

        state = solver_step(state, guided_velocity(predict, state.sample, guidance_scale), steps, i)
        state = state.replace(sample=impose(state.sample, clean))
        return jax.tree.map(sharding.constrain_latents, state)

    return jax.lax.fori_loop(start, stop, step, state)
