"""Low-rank updates with which Wan2.2-T2V-A14B samples in 4 steps without guidance, two of them by each expert.

    python -m wan_jax data build --src clips --out data --model wan22_t2v_a14b --frames 81 --validation 16
    python -m wan_jax train --config configs/train_wan22_t2v_lightning.py --run lightning_high data=data out=runs
    python -m wan_jax train --config configs/train_wan22_t2v_lightning.py --run lightning_low data=data out=runs
    python -m wan_jax generate --model wan22_t2v_a14b --prompt "…" --lora runs/lightning_high/lora.safetensors \
        --lora-2 runs/lightning_low/lora.safetensors --steps 4 --solver euler --shift 5 --guidance 1

The teacher is the expert without its update, so each run holds one expert.  A step costs fourteen forward passes, where
other training costs three; `python -m wan_jax plan --train --config train_wan22_t2v_lightning` says what that takes.
The teacher's guidance leads away from the empty caption, not from Wan's negative prompt.  Not tried yet: the recipe
that was is `train_wan_mini_lightning`.
"""

from dataclasses import replace

from configs import train_wan22_t2v_lora
from wan_jax.lora import LoraConfig
from wan_jax.train.config import Optimizer, TrainConfig
from wan_jax.train.distillation import Distil


def get_config() -> tuple[TrainConfig, ...]:
    return tuple(
        replace(
            run,
            name=run.name.replace("lora", "lightning"),
            lora=LoraConfig(rank=64, alpha=64.0),
            distil=Distil(steps=4, flow_shift=5.0, substeps=5),
            caption_dropout=0.0,
            batch=16,
            ema=0.99,
            optimizer=Optimizer(learning_rate=1e-4, schedule="cosine", weight_decay=0.0, warmup_steps=100),
        )
        for run in train_wan22_t2v_lora.get_config()
    )
