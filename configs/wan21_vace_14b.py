"""Wan2.1-VACE-14B: video from text, frames, masks and references, one 14B transformer (arXiv:2503.07598).

    python -m wan_jax generate --model wan21_vace_14b --image first.png --last-image last.png --prompt "Clouds gather"

Every fifth of the 40 blocks gets a hint from one of 8 context blocks.  Needs about 35 GB for the transformer in
bfloat16, 11.4 GB for umT5 and 0.5 GB for the VAE.
"""

from wan_jax.config import DiTConfig, Sampling, WanConfig


def get_config() -> WanConfig:
    return WanConfig(
        name="wan21_vace_14b",
        hub_id="Wan-AI/Wan2.1-VACE-14B-diffusers",
        transformer=DiTConfig(vace_layers=tuple(range(0, 40, 5))),
        sampling=Sampling(height=720, width=1280, flow_shift=16.0),  # VACE, vace/vace_wan_inference.py
    )
