"""Low-rank updates with which wan_mini samples in 4 steps without guidance, as Lightning does for Wan2.2-T2V-A14B.

    python -m wan_jax data build --src world:24000:1 --units all --no-text --out units --model wan_mini --validation 64
    python -m wan_jax train --config configs/train_wan_mini_lightning.py data=units out=runs
    python -m wan_jax eval-mini --model wan_mini --lora runs/lightning_high/lora.safetensors \
        --lora-2 runs/lightning_low/lora.safetensors --steps 4 --solver euler --shift 5 --guidance 1

About 20 minutes an expert on one H200, where a step costs eleven forward passes beside the gradient.  The first two of
the four steps, at timesteps 1000 and 937, are the high-noise expert's, those at 833 and 625 the low-noise one's.  So
they are with the model's own shift of 3, too, but then the high-noise expert would go on down to a noise level of 0.75,
far below the 0.875 that it knows.  The dataset has units, so that the updates also hold for frames and masks; captions
are not dropped, as nobody guides the student.
"""

from dataclasses import replace

from configs import train_wan_mini_vace
from wan_jax.lora import LoraConfig
from wan_jax.train.config import Optimizer, TrainConfig
from wan_jax.train.distillation import Distil


def get_config() -> tuple[TrainConfig, ...]:
    return tuple(
        replace(
            run,
            name=run.name.replace("vace", "lightning"),
            base="wan_mini",
            init="wan_mini",
            init_component=run.component,
            lora=LoraConfig(
                rank=16, alpha=16.0, targets=r"(vace/)?blocks/((self_attn|cross_attn)/[qkvo]|ffn_(in|out))"
            ),
            distil=Distil(steps=4, flow_shift=5.0, substeps=5),
            caption_dropout=0.0,
            steps=8000,
            optimizer=Optimizer(
                learning_rate=1e-3, schedule="cosine", warmup_steps=200, b2=0.99, weight_decay=0.0, clip_norm=1.0
            ),
        )
        for run in train_wan_mini_vace.get_config()
    )
