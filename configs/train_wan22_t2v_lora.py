"""Low-rank updates for the experts of Wan2.2-T2V-A14B: a style, a person or a motion from tens of clips.

    python -m wan_jax data build --src clips --out data --model wan22_t2v_a14b --area 832x480 --frames 49 --validation 4
    python -m wan_jax train --config configs/train_wan22_t2v_lora.py data=data out=runs lora.rank=16

Each expert gets a file of its own, runs/lora_high/lora.safetensors and runs/lora_low/lora.safetensors, which ComfyUI
and Diffusers read as well (`pipe.load_lora_weights(path, load_into_transformer_2=True)` for the low-noise one).  The
high-noise expert blurs if it learns too fast, so its learning rate is lower.
"""

from dataclasses import replace

from configs import train_wan22_t2v_finetune
from wan_jax.lora import LoraConfig
from wan_jax.train.config import Optimizer, TrainConfig

_LEARNING_RATES = {"transformer": 3e-5, "transformer_2": 1e-4}


def get_config() -> tuple[TrainConfig, ...]:
    return tuple(
        replace(
            run,
            name=run.name.replace("finetune", "lora"),
            lora=LoraConfig(rank=32, alpha=32.0),
            batch=8,
            ema=None,
            optimizer=Optimizer(learning_rate=_LEARNING_RATES[run.component], weight_decay=0.0, warmup_steps=100),
        )
        for run in train_wan22_t2v_finetune.get_config()
    )
