"""Fine-tunes all weights of Wan2.2-TI2V-5B for both of its tasks: half of the clips show their first latent frame.

    python -m wan_jax data build --src clips --out data --model wan22_ti2v_5b --size 1280x704 --frames 121 --fps 24
    python -m wan_jax train --config configs/train_wan22_ti2v_5b.py data=data out=runs
    python -m wan_jax generate --model runs/models/wan22_ti2v_5b --image cat.jpg --prompt "…"

A frame that is shown stays clean, at timestep 0, and is not learned.  Sizes are multiples of 32, as this autoencoder
makes one latent of 16×16 pixels.  Weights, moments and average take 80 GB in float32, over all devices.
"""

from dataclasses import replace

from configs import train_wan22_t2v_finetune, wan22_ti2v_5b
from wan_jax.conditioning import text_image_to_video
from wan_jax.train.config import TrainConfig


def get_config() -> TrainConfig:
    model, (high, _) = wan22_ti2v_5b.get_config(), train_wan22_t2v_finetune.get_config()
    return replace(high, name=model.name, model=model, base=model.name, init=model.name, condition=text_image_to_video)
