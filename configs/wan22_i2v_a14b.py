"""Wan2.2-I2V-A14B: a picture to video, two 14B experts over denoising time (Wan2.2, wan/configs/wan_i2v_A14B.py).

    python -m wan_jax generate --model wan22_i2v_a14b --image cat.jpg --prompt "The cat looks up"

The high-noise expert works while the timestep is at least 900: 15 of the 40 default steps.  The size is that of the
picture's shape at the area of 1280×720.  Needs what Wan2.2-T2V-A14B does.
"""

from wan_jax.config import DiTConfig, Sampling, WanConfig


def get_config() -> WanConfig:
    return WanConfig(
        name="wan22_i2v_a14b",
        hub_id="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
        transformer=DiTConfig(in_channels=36),
        boundary_ratio=0.9,
        sampling=Sampling(
            height=720,
            width=1280,
            num_inference_steps=40,
            flow_shift=5.0,
            guidance_scale=3.5,
            guidance_scale_2=3.5,
        ),
    )
