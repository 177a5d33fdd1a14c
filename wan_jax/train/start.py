"""A model to begin training with: an autoencoder that is there already, and random weights for all else."""

import os
from dataclasses import replace

import jax
import jax.numpy as jnp
from etils import epath

from wan_jax import checkpoint
from wan_jax.byte_tokenizer import write_byte_tokenizer
from wan_jax.config import DiTConfig, UMT5Config, VAEConfig, WanConfig
from wan_jax.errors import WanError
from wan_jax.models import dit, umt5, wan_vae
from wan_jax.pipelines.loading import find_vae, load_vae, read_vae_config
from wan_jax.sharding import make_mesh
from wan_jax.world.tokens import write_tokenizer

_INITIAL = {DiTConfig: dit.initial_params, UMT5Config: umt5.initial_params, VAEConfig: wan_vae.initial_params}
_TOKENIZERS = {"bytes": write_byte_tokenizer, "world": write_tokenizer}


def write_start(
    config: WanConfig, out: epath.PathLike, vae: str | None = None, tokenizer: str = "bytes", seed: int = 0
) -> WanConfig:
    """Writes a whole model folder, float32 but for an autoencoder that is stored in our layout: it stays as it is.

    Args:
        config: the architecture.
        out: a new folder.
        vae: the model, or folder with nothing else, whose autoencoder is taken; its config becomes the model's, as
            the latents' statistics belong to it.  None: random weights.
        tokenizer: "bytes", an id for each byte; "world", the words of the little world; or a folder with a
            tokenizer.json.
        seed: of the random weights.

    Returns:
        the model's config.

    Raises:
        WanError: `out` is a model already, or what is to be taken is not there.
    """
    out = epath.Path(out)
    if checkpoint.is_checkpoint(out):
        raise WanError(f"{out} is a model already; name a new folder")
    if tokenizer not in _TOKENIZERS and not (epath.Path(tokenizer) / "tokenizer.json").exists():
        raise WanError(f"there is no {tokenizer}/tokenizer.json; name a folder that has one, or 'bytes' or 'world'")
    if vae is not None:
        config = replace(config, vae=read_vae_config(vae))
    out.mkdir(parents=True, exist_ok=True)
    for number, (name, part) in enumerate(checkpoint.components(config).items()):
        if name == "vae" and vae is not None:
            _lend_vae(vae, part, out / name)
            continue
        key = jax.random.fold_in(jax.random.key(seed), number)
        checkpoint.write_component(out / name, part, jax.jit(_INITIAL[type(part)], static_argnums=0)(part, key))
    if tokenizer in _TOKENIZERS:
        _TOKENIZERS[tokenizer](os.fspath(out / "tokenizer"))
    else:
        checkpoint.copy(tokenizer, out / "tokenizer")
    checkpoint.write_model_index(out, config, {"vae": vae or "random", "seed": seed})
    return config


def _lend_vae(model: str, config: VAEConfig, target: epath.Path):
    if (stored := find_vae(model)) is not None:
        checkpoint.copy(stored, target)
    else:
        checkpoint.write_component(
            target, config, load_vae(model, jnp.float32, make_mesh(devices=jax.devices()[:1]))[-1]
        )
