"""Wan2.2-T2V-A14B: text to video, two 14B experts over denoising time (Wan2.2, wan/configs/wan_t2v_A14B.py).

    python -m wan_jax generate --model wan22_t2v_a14b --size 832x480 --prompt "Two cats box on a lit stage"

The high-noise expert works while the timestep is at least 875, then the low-noise expert takes over: 26 and 14 of the
40 default steps.  Needs about 57 GB for both experts in bfloat16, 11.4 GB for umT5 and 0.5 GB for the VAE.
"""

from wan_jax.config import DiTConfig, Sampling, WanConfig


def get_config() -> WanConfig:
    return WanConfig(
        name="wan22_t2v_a14b",
        hub_id="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        transformer=DiTConfig(),
        boundary_ratio=0.875,
        sampling=Sampling(
            height=720,
            width=1280,
            num_inference_steps=40,
            flow_shift=12.0,
            guidance_scale=4.0,
            guidance_scale_2=3.0,
        ),
    )
