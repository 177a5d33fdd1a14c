"""The low-noise expert of Wan2.2-T2V-A14B from the weights of Wan2.1-T2V-14B: texture.

    python -m wan_jax train --config configs/train_wan22_t2v_low.py data=data out=runs

It sees timesteps below 875 alone.  That Wan2.2's own low-noise expert began as Wan2.1 is reported, not published; the
validation losses in Wan2.2's README fit it.  Data and settings as in train_wan22_t2v_high.py, with a lower learning
rate, since these weights are trained already.
"""

from dataclasses import replace

from configs import train_wan22_t2v_high
from wan_jax.train.config import Optimizer, TrainConfig


def get_config() -> TrainConfig:
    return replace(
        train_wan22_t2v_high.get_config(),
        name="low",
        component="transformer_2",
        init="wan21_t2v_14b",
        steps=20_000,
        optimizer=Optimizer(learning_rate=2e-5, weight_decay=1e-3, warmup_steps=1000),
    )
