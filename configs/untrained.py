"""A placeholder: the real layout at toy size with random weights, so that everything runs before a download.

    python -m wan_jax generate --prompt "a red ball rolls over grass"

Its videos are coloured noise.  It has two experts, as Wan2.2 does, and is written on first use
(wan_jax/placeholder.py).
"""

from wan_jax.config import DiTConfig, Sampling, UMT5Config, VAEConfig, WanConfig


def get_config() -> WanConfig:
    return WanConfig(
        name="untrained",
        hub_id=None,
        transformer=DiTConfig(num_layers=2, num_attention_heads=2, attention_head_dim=32, ffn_dim=128, text_dim=32),
        vae=VAEConfig(base_dim=8, num_res_blocks=1),
        text_encoder=UMT5Config(vocab_size=259, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4),
        boundary_ratio=0.875,
        sampling=Sampling(
            height=128,
            width=128,
            num_frames=33,
            num_inference_steps=20,
            flow_shift=5.0,
            guidance_scale=4.0,
            guidance_scale_2=3.0,
        ),
    )
