"""Wan2.1-VACE-1.3B: video from text, frames, masks and references, one small transformer (arXiv:2503.07598).

    python -m wan_jax generate --model wan21_vace_1_3b --video clip.mp4 --mask mask.mp4 --prompt "A red kite in the sky"

Every second of the 30 blocks gets a hint from one of 15 context blocks.  Needs about 4.4 GB for the transformer in
bfloat16, 11.4 GB for umT5 and 0.5 GB for the VAE.  Trained at 480p.
"""

from wan_jax.config import DiTConfig, Sampling, WanConfig


def get_config() -> WanConfig:
    return WanConfig(
        name="wan21_vace_1_3b",
        hub_id="Wan-AI/Wan2.1-VACE-1.3B-diffusers",
        transformer=DiTConfig(num_layers=30, num_attention_heads=12, ffn_dim=8960, vace_layers=tuple(range(0, 30, 2))),
        sampling=Sampling(flow_shift=16.0),  # VACE, vace/vace_wan_inference.py
    )
