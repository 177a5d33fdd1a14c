"""Wan2.1-T2V-1.3B: the smallest released text-to-video model (arXiv:2503.20314).

    python -m wan_jax generate --model wan21_t2v_1_3b --prompt "A corgi runs along a beach"

Needs about 2.9 GB for the transformer in bfloat16, 11.4 GB for umT5 and 0.5 GB for the VAE.  Trained at 480p.
"""

from wan_jax.config import DiTConfig, WanConfig


def get_config() -> WanConfig:
    return WanConfig(
        name="wan21_t2v_1_3b",
        hub_id="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        transformer=DiTConfig(num_layers=30, num_attention_heads=12, ffn_dim=8960),
    )
