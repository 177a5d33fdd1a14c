"""Trains the context branch of Wan2.1-VACE-1.3B and leaves the denoiser as it is (arXiv:2503.07598 §3.3).

    python -m wan_jax data build --src clips --units all --out data --model wan21_vace_1_3b --frames 81
    python -m wan_jax train --config configs/train_wan21_vace.py data=data out=runs
    python -m wan_jax generate --model runs/models/wan21_vace_1_3b --video clip.mp4 --box 200,80,160,120 --prompt "…"

The dataset says of each clip what is shown of it, by a task drawn at random; see `wan_jax.data.units`.  The branch is
0.73 of 2.15 thousand million weights.  To begin one for a model that has none: `init=wan21_t2v_1_3b`.
"""

from configs import wan21_vace_1_3b
from wan_jax.train.config import Optimizer, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        name="wan21_vace",
        model=wan21_vace_1_3b.get_config(),
        base="wan21_vace_1_3b",
        init="wan21_vace_1_3b",
        trainable="transformer/vace/.*",
        steps=5000,
        batch=8,
        ema=0.999,
        optimizer=Optimizer(learning_rate=1e-5, weight_decay=1e-3, warmup_steps=100),
    )
