"""The denoising loop: one compiled function for every step, segment and expert."""

from functools import partial

import jax
import jax.numpy as jnp

from wan_jax import sharding
from wan_jax.config import DiTConfig
from wan_jax.diffusion.guidance import guided_velocity
from wan_jax.diffusion.inputs import impose, network_inputs
from wan_jax.diffusion.solvers import SolverState, Steps, solver_step
from wan_jax.diffusion.step_cache import StepCache, cached
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


@partial(jax.jit, static_argnames=("config", "dtype"), donate_argnames=("state", "cache"))
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
    cache: StepCache | None = None,
    *,
    config: DiTConfig,
    dtype,
) -> tuple[SolverState, StepCache | None]:
    """Steps `start` … `stop` − 1 with one expert.

    The bounds are ordinary arguments, so that a single step, a whole segment and the other expert's segment all run
    the same executable.  `state` and `cache` are donated.  A `guidance_scale` of None means one prediction a step,
    without negative prompt.  `clean`, `channels` and `context`: see `wan_jax.conditioning`; the sample gets its clean
    frames back after every step.  With a `cache`, some steps do without the network: see
    `wan_jax.diffusion.step_cache`.
    """
    dit = DiT(config, dtype)

    def step(i, carry: tuple[SolverState, StepCache | None]) -> tuple[SolverState, StepCache | None]:
        state, cache = carry

        def apply(method: str, latents: Float["b f h w c"], text: TextKV, *context) -> jax.Array:
            timestep = jnp.full(len(latents), steps.timestep[i], jnp.float32)
            latents, timestep, row = network_inputs(latents, timestep, clean, channels)
            return dit.apply({"params": params}, latents, timestep, text, row, *context, method=method)

        def predict(latents: Float["b f h w c"], text: TextKV = text) -> Float["b f h w c"]:
            return apply("velocity", latents, text, context)

        def compute() -> Float["b f h w c"]:
            return guided_velocity(predict, state.sample, guidance_scale)

        def first_block() -> Float["b n d"]:
            return apply("first_block", repeated(state.sample, text.keys.shape[1]), text)

        if cache is None:
            velocity = compute()
        elif cache.method == "guidance":
            half = len(state.sample)
            cond = predict(state.sample, jax.tree.map(lambda x: x[:, :half], text))

            def difference() -> Float["b f h w c"]:
                return cond - predict(state.sample, jax.tree.map(lambda x: x[:, half:], text))

            towards, cache = cached(cache, difference, first_block, steps.sigma[i], i)
            velocity = cond + (guidance_scale - 1) * towards
        else:
            velocity, cache = cached(cache, compute, first_block, steps.sigma[i], i)
        state = solver_step(state, velocity, steps, i)
        state = state.replace(sample=impose(state.sample, clean))
        return jax.tree.map(sharding.constrain_latents, state), cache

    return jax.lax.fori_loop(start, stop, step, (state, cache))
