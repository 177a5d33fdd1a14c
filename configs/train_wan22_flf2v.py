"""Makes a model of what happens between a first and a last frame out of Wan2.2-I2V-A14B, which knows first ones.

    python -m wan_jax data build --src clips --units ends --out ends --model wan22_i2v_a14b --area 832x480
    python -m wan_jax train --config configs/train_wan22_flf2v.py data=ends out=runs
    python -m wan_jax generate --model runs/models/wan22_flf2v_a14b --image bud.jpg --last-image rose.jpg --prompt "…"

As train_wan22_i2v.py, but the mask and the latents of every clip in the dataset are those of both its ends.
"""

from dataclasses import replace

from configs import train_wan22_i2v
from wan_jax.train.config import TrainConfig


def get_config() -> tuple[TrainConfig, ...]:
    return tuple(
        replace(run, name=run.name.replace("i2v", "flf2v"), model=replace(run.model, name="wan22_flf2v_a14b"))
        for run in train_wan22_i2v.get_config()
    )
