"""Low-rank updates that teach wan_mini a look from sixteen clips, in a few minutes on a laptop; see notebooks/lora.

    python -m wan_jax data build --src clips --out data --model wan_mini --size 128x128 --frames 5 --units text
    python -m wan_jax train --config configs/train_wan_mini_lora.py data=data out=runs
    python -m wan_jax generate --lora runs/lora_high/lora.safetensors --lora-2 runs/lora_low/lora.safetensors

The small brother of `train_wan22_t2v_lora`.  Short clips will do for a look, and what is learned of them holds for
longer videos.
"""

from dataclasses import replace

from configs import train_wan_mini_vace
from wan_jax.lora import LoraConfig
from wan_jax.train.config import Optimizer, TrainConfig


def get_config() -> tuple[TrainConfig, ...]:
    return tuple(
        replace(
            run,
            name=run.name.replace("vace", "lora"),
            base="wan_mini",
            init="wan_mini",
            init_component=run.component,
            data="data",
            lora=LoraConfig(rank=8, alpha=8.0),
            steps=50,
            batch=4,
            ema=None,
            optimizer=Optimizer(learning_rate=2e-3, schedule="cosine", warmup_steps=4, weight_decay=0.0),
            log_every=1,
            save_every=25,
            validate_every=0,
        )
        for run in train_wan_mini_vace.get_config()
    )
