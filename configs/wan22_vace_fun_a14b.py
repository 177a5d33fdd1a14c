"""Wan2.2-VACE-Fun-A14B: VACE with two 14B experts over denoising time, by Alibaba PAI.

    python -m wan_jax generate --model wan22_vace_fun_a14b --reference cat.png --prompt "The cat sails a paper boat"

The high-noise expert works while the timestep is at least 875.  Each expert is of the size of Wan2.1-VACE-14B.  Needs
about 70 GB for both in bfloat16, 11.4 GB for umT5 and 0.5 GB for the VAE.
"""

from configs import wan21_vace_14b
from wan_jax.config import Sampling, WanConfig


def get_config() -> WanConfig:
    return WanConfig(
        name="wan22_vace_fun_a14b",
        hub_id="alibaba-pai/Wan2.2-VACE-Fun-A14B",
        transformer=wan21_vace_14b.get_config().transformer,
        boundary_ratio=0.875,
        # VideoX-Fun, examples/wan2.2_vace_fun
        sampling=Sampling(height=720, width=1280, flow_shift=12.0, guidance_scale=5.0, guidance_scale_2=5.0),
    )
