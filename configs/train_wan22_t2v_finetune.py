"""Fine-tunes all weights of the experts of Wan2.2-T2V-A14B, or with `--run` of one of them.

    python -m wan_jax data build --src clips --out data --model wan22_t2v_a14b --area 832x480 --frames 81
    python -m wan_jax train --config configs/train_wan22_t2v_finetune.py --run finetune_low data=data out=runs
    python -m wan_jax generate --model runs/models/wan22_t2v_a14b --prompt "…"

An expert that is not trained is copied from the released model.
"""

from configs import wan22_t2v_a14b
from wan_jax.train.config import Optimizer, TrainConfig


def get_config() -> tuple[TrainConfig, ...]:
    return tuple(
        TrainConfig(
            name=name,
            model=wan22_t2v_a14b.get_config(),
            component=component,
            base="wan22_t2v_a14b",
            init="wan22_t2v_a14b",
            init_component=component,
            steps=2000,
            batch=16,
            ema=0.999,
            optimizer=Optimizer(learning_rate=1e-5, weight_decay=1e-3, warmup_steps=100),
            save_every=250,
            validate_every=250,
        )
        for name, component in (("finetune_high", "transformer"), ("finetune_low", "transformer_2"))
    )
