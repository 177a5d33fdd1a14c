"""Low-rank updates for the experts of Wan2.2-T2V-A14B: a style, a person or a motion from tens of clips.

    python -m wan_jax data build --src clips --out data --model wan22_t2v_a14b --area 832x480 --frames 49 --validation 4
    python -m wan_jax train --config configs/train_wan22_t2v_lora.py data=data out=runs lora.rank=16

Each expert gets a file of its own, runs/lora_high/lora.safetensors and runs/lora_low/lora.safetensors, which ComfyUI
and Diffusers read as well (`pipe.load_lora_weights(path, load_into_transformer_2=True)` for the low-noise one).  The
high-noise expert blurs if it learns too fast, so its learning rate is lower.
"""

from configs import wan22_t2v_a14b
from wan_jax.lora import LoraConfig
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
            lora=LoraConfig(rank=32, alpha=32.0),
            steps=2000,
            batch=8,
            ema=None,
            optimizer=Optimizer(learning_rate=learning_rate, weight_decay=0.0, warmup_steps=100),
            save_every=250,
            validate_every=250,
        )
        for name, component, learning_rate in (("lora_high", "transformer", 3e-5), ("lora_low", "transformer_2", 1e-4))
    )
