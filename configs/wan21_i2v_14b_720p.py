"""Wan2.1-I2V-14B-720P: as the 480p model (configs/wan21_i2v_14b_480p.py), trained at 1280×720.

python -m wan_jax generate --model wan21_i2v_14b_720p --image cat.jpg --prompt "The cat looks up"
"""

import dataclasses

from configs import wan21_i2v_14b_480p
from wan_jax.config import WanConfig


def get_config() -> WanConfig:
    smaller = wan21_i2v_14b_480p.get_config()
    return dataclasses.replace(
        smaller,
        name="wan21_i2v_14b_720p",
        hub_id="Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
        sampling=dataclasses.replace(smaller.sampling, height=720, width=1280, flow_shift=5.0),
    )
