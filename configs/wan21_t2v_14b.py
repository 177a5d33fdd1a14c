"""Wan2.1-T2V-14B: text to video with one 14B transformer (arXiv:2503.20314).

    python -m wan_jax generate --model wan21_t2v_14b --size 832x480 --prompt "A lighthouse in a storm"

Needs about 29 GB for the transformer in bfloat16, 11.4 GB for umT5 and 0.5 GB for the VAE.
"""

from wan_jax.config import DiTConfig, Sampling, WanConfig


def get_config() -> WanConfig:
    return WanConfig(
        name="wan21_t2v_14b",
        hub_id="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        transformer=DiTConfig(),
        sampling=Sampling(height=720, width=1280),
    )
