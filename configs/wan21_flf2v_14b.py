"""Wan2.1-FLF2V-14B: what happens between a first and a last frame, at 1280×720 (arXiv:2503.20314).

    python -m wan_jax generate --model wan21_flf2v_14b --image bud.jpg --last-image rose.jpg --prompt "A rose opens"

As image to video, but CLIP's tokens of both frames are shown, with positions that tell them apart.
"""

import dataclasses

from configs import wan21_i2v_14b_720p
from wan_jax.config import WanConfig


def get_config() -> WanConfig:
    """Sampled as Wan2.1's generate.py and wan/configs have it."""
    one = wan21_i2v_14b_720p.get_config()
    return dataclasses.replace(
        one,
        name="wan21_flf2v_14b",
        hub_id="Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers",
        transformer=dataclasses.replace(one.transformer, pos_embed_seq_len=2 * one.image_encoder.num_tokens),
        sampling=dataclasses.replace(
            one.sampling,
            num_inference_steps=50,
            flow_shift=16.0,
            negative_prompt="镜头切换，" + one.sampling.negative_prompt,
        ),
    )
