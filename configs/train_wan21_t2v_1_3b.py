"""Fine-tunes all weights of Wan2.1-T2V-1.3B; `init=None` trains it from scratch.

    python -m wan_jax data build --src clips --out data --model wan21_t2v_1_3b --frames 81
    python -m wan_jax train --config configs/train_wan21_t2v_1_3b.py data=data out=runs
    python -m wan_jax generate --model runs/models/wan21_t2v_1_3b --prompt "…"

Weights, moments and average take 23 GB in float32, so one 80 GB GPU will do.
"""

from configs import wan21_t2v_1_3b
from wan_jax.train.config import Optimizer, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        name="wan21_t2v_1_3b",
        model=wan21_t2v_1_3b.get_config(),
        base="wan21_t2v_1_3b",
        init="wan21_t2v_1_3b",
        steps=5000,
        batch=8,
        ema=0.999,
        optimizer=Optimizer(learning_rate=1e-5, weight_decay=1e-3, warmup_steps=100),
    )
