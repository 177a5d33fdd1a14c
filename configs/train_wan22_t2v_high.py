"""The high-noise expert of Wan2.2-T2V-A14B from scratch: layout and motion (arXiv:2503.20314 §4.2; Wan2.2 README).

    python -m wan_jax data build --src clips --out data --model wan21_t2v_14b --area 1280x720 --frames 81
    python -m wan_jax train --config configs/train_wan22_t2v_high.py data=data out=runs

AdamW with learning rate 1e-4 and weight decay 1e-3 are the paper's.  Batch, warm-up, averaging, shift and the share of
dropped captions are not published; these are what others use.

Modelled for 1280×720, 81 frames, each half of a step: 35.8 s on v5p:4x4x4 with mesh=data=4,fsdp=8,context=2, and 8.8 s
on v6e:16x16 with mesh=data=8,fsdp=4,context=8 (python -m wan_jax plan --train).

The expert sees timesteps of 875 and more alone, so a video needs the other one as well: train_wan22_t2v.py trains both.
"""

from configs import wan22_t2v_a14b
from wan_jax.train.config import Optimizer, TrainConfig
from wan_jax.train.timesteps import Density


def get_config() -> TrainConfig:
    return TrainConfig(
        name="high",
        model=wan22_t2v_a14b.get_config(),
        component="transformer",
        base="wan21_t2v_14b",  # lends the autoencoder, the text encoder and the tokenizer
        steps=100_000,
        batch=64,
        accumulate=2,
        density=Density(kind="logit_normal", shift=5.0),
        optimizer=Optimizer(learning_rate=1e-4, weight_decay=1e-3, warmup_steps=1000),
        save_every=500,
        keep_every=10_000,
        validate_every=1000,
    )
