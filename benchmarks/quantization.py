"""Seconds of a denoising step, and how far the latents end, with a transformer's matrices in eight bits.

    python -m benchmarks.quantization --model wan22_t2v_a14b --size 832x480 --frames 81

Random weights of std 1/√fan_in, batch 1 without guidance, 8 steps, warm; all kinds in one process, from the same
bfloat16 weights and the same noise.  `error` is the relative distance of the final latents to those of bfloat16.
Prints JSON.
"""

import json
import time
from dataclasses import replace
from typing import Annotated

import jax
import jax.numpy as jnp
import tyro

from wan_jax import quantization, sharding
from wan_jax.config import QUANTIZATIONS, DiTConfig, get_config
from wan_jax.diffusion import sampling
from wan_jax.diffusion.solvers import SolverState, make_steps
from wan_jax.models import abstract_params
from wan_jax.pipelines.request import Request
from wan_jax.typing import Params

STEPS = 8


def main(
    model: str = "wan22_t2v_a14b",
    size: Annotated[str, tyro.conf.arg(metavar="WxH")] = "832x480",
    frames: int = 81,
    kinds: tuple[str, ...] = QUANTIZATIONS,
):
    config = get_config(model)
    width, height = map(int, size.split("x"))
    own = dict.fromkeys(("guidance_scale", "guidance_scale_2", "flow_shift"))
    video = {"height": height, "width": width, "num_frames": frames, "num_inference_steps": STEPS}
    request = Request.make(config, "", None, **video, **own, seed=0, solver="unipc", sigma_grid="wan")
    noise = jax.random.normal(jax.random.key(1), request.latent_shape(config))
    _, steps = make_steps(request.solver, STEPS, request.flow_shift, request.sigma_grid)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    params = random_params(config.transformer, mesh)
    result = {"model": model, "latents": noise.shape, "device": jax.devices()[0].device_kind, "jax": jax.__version__}
    exact = None
    for kind in (None, *kinds):
        transformer = replace(config.transformer, quantization=kind)
        wanted = sharding.place(abstract_params(transformer, jnp.bfloat16), mesh)
        weights = params if kind is None else quantization.quantize_params(jax.tree.map(jnp.copy, params), wanted, kind)
        with jax.set_mesh(mesh):
            told, latents = measure(weights, transformer, noise, steps)
        exact = latents if exact is None else exact
        error = jnp.linalg.norm((latents - exact).ravel()) / jnp.linalg.norm(exact.ravel())
        result[kind or "bfloat16"] = told | {"error": round(float(error), 5)}
        print(json.dumps({kind or "bfloat16": result[kind or "bfloat16"]}), flush=True)
        del weights
    print(json.dumps(result))


def random_params(config: DiTConfig, mesh, memory: str = sharding.DEVICE) -> Params:
    """Of std 1/√fan_in; norms scale by one.  Each is made on the device, and then goes to where it shall be."""
    places = sharding.place(abstract_params(config, jnp.bfloat16), mesh)
    leaves, tree = jax.tree.flatten(places)
    names = ["/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(places)]

    def draw(i: int, name: str, x: jax.ShapeDtypeStruct) -> jax.Array:
        def make() -> jax.Array:
            if name.endswith("scale"):
                return jnp.ones(x.shape, x.dtype)
            std = x.shape[-2] ** -0.5 if name.endswith("kernel") else 0.02
            keys = jax.random.split(jax.random.key(i), x.shape[0])  # row by row, or layer by layer
            return jax.lax.map(lambda key: std * jax.random.normal(key, x.shape[1:], x.dtype), keys).astype(x.dtype)

        return jax.block_until_ready(sharding.to_memory(jax.jit(make, out_shardings=x.sharding)(), memory))

    return tree.unflatten(draw(*each) for each in zip(range(len(leaves)), names, leaves))


def measure(params: Params, config: DiTConfig, noise: jax.Array, steps) -> tuple[dict, jax.Array]:
    """Seconds and gigabytes of a step, and the latents after all of them."""
    static = {"config": config, "dtype": jnp.dtype(jnp.bfloat16)}
    states = jax.random.normal(jax.random.key(2), (1, config.text_len, config.text_dim))
    text = sampling.encode_text(params, states, **static)
    begin = lambda: SolverState.init(jnp.array(noise))  # noqa: E731
    started = time.monotonic()
    compiled = sampling.denoise.lower(params, begin(), text, steps, 0, 1, None, **static).compile()
    compile_s = time.monotonic() - started
    jax.block_until_ready(compiled(params, begin(), text, steps, 0, 1, None))
    started = time.monotonic()
    state, _ = jax.block_until_ready(compiled(params, begin(), text, steps, 0, STEPS, None))
    seconds = (time.monotonic() - started) / STEPS
    memory = compiled.memory_analysis()
    told = {
        "step_s": round(seconds, 4),
        "compile_s": round(compile_s, 1),
        "weights_gb": round(sum(x.nbytes for x in jax.tree.leaves(params)) / 1e9, 2),
        "temp_gb": round(memory.temp_size_in_bytes / 1e9, 2),
    }
    return told, state.sample


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
