"""Wan2.1-I2V-14B-480P: a picture to video, one 14B transformer that also sees it through CLIP (arXiv:2503.20314).

    python -m wan_jax generate --model wan21_i2v_14b_480p --image cat.jpg --prompt "The cat looks up"

Needs about 33 GB for the transformer in bfloat16, 11.4 GB for umT5, 1.3 GB for CLIP and 0.5 GB for the VAE.  The size
is that of the picture's shape at the area of 832×480.
"""

from wan_jax.config import NEGATIVE_PROMPT, CLIPConfig, DiTConfig, Sampling, WanConfig


def get_config() -> WanConfig:
    """Sampled as Wan2.1's generate.py and wan/configs/wan_i2v_14B.py have it."""
    return WanConfig(
        name="wan21_i2v_14b_480p",
        hub_id="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        transformer=DiTConfig(in_channels=36, image_dim=1280, added_kv_proj_dim=5120),
        image_encoder=CLIPConfig(),
        sampling=Sampling(num_inference_steps=40, flow_shift=3.0, negative_prompt="镜头晃动，" + NEGATIVE_PROMPT),
    )
