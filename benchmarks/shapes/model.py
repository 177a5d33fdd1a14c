"""The model of the little world: Wan's architecture at toy size, with an autoencoder and all else still random."""

import shutil

import jax
from etils import epath

from benchmarks.shapes.world import FPS, FRAMES, SIDE
from wan_jax import checkpoint
from wan_jax.byte_tokenizer import VOCAB_SIZE, write_byte_tokenizer
from wan_jax.config import DiTConfig, Sampling, UMT5Config, VAEConfig, WanConfig
from wan_jax.models import dit, umt5
from wan_jax.typing import Params

START = "shapes_start"


def start_config(vae: VAEConfig) -> WanConfig:
    """One expert of 19 million parameters, umT5 of two layers on bytes, and this autoencoder."""
    return WanConfig(
        name=START,
        hub_id=None,
        transformer=DiTConfig(num_layers=8, num_attention_heads=6, attention_head_dim=64, ffn_dim=1536, text_dim=256),
        vae=vae,
        text_encoder=UMT5Config(vocab_size=VOCAB_SIZE, d_model=256, d_kv=64, d_ff=512, num_layers=2, num_heads=4),
        sampling=Sampling(
            height=SIDE,
            width=SIDE,
            num_frames=FRAMES,
            fps=FPS,
            num_inference_steps=20,
            flow_shift=3.0,
            guidance_scale=3.0,
            guidance_scale_2=3.0,
            negative_prompt="",
        ),
    )


def write_start(folder: epath.PathLike, vae: VAEConfig, params: Params, seed: int = 0):
    """Writes a whole model folder, in place of an older one: this autoencoder, a random umT5 and a random expert."""
    folder, config = epath.Path(folder), start_config(vae)
    if folder.exists():
        shutil.rmtree(folder)
    keys = jax.random.split(jax.random.key(seed))
    weights = {
        "vae": params,
        "text_encoder": jax.jit(lambda key: umt5.initial_params(config.text_encoder, key))(keys[0]),
        "transformer": jax.jit(lambda key: dit.initial_params(config.transformer, key))(keys[1]),
    }
    for name, part in checkpoint.components(config).items():
        checkpoint.write_component(folder / name, part, weights[name])
    write_byte_tokenizer(folder / "tokenizer")
    checkpoint.write_model_index(folder, config, {"trained": "vae", "by": "benchmarks/shapes/vae.py"})
