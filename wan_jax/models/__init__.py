"""The networks: `dit` (denoiser), `wan_vae` (video ↔ latents), `umt5` (text → states), `clip` (picture → tokens)."""

import jax
import jax.numpy as jnp

from wan_jax.config import CLIPConfig, ComponentConfig, DiTConfig, UMT5Config, VAEConfig
from wan_jax.models import clip, dit, umt5, wan_vae
from wan_jax.precision import storage_dtype
from wan_jax.typing import Params


def abstract_params(config: ComponentConfig, dtype) -> Params:
    """The parameter tree of a network as shapes, with the dtypes in which `dtype` has it stored."""
    network = {DiTConfig: dit, VAEConfig: wan_vae, UMT5Config: umt5, CLIPConfig: clip}[type(config)]

    def stored(path, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name = "/".join(key.key for key in path)
        quantized = x.dtype != jnp.float32  # which the network says itself
        return jax.ShapeDtypeStruct(x.shape, x.dtype if quantized else storage_dtype(name, dtype))

    return jax.tree_util.tree_map_with_path(stored, network.abstract_params(config))
