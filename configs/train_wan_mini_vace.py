"""Teaches wan_mini_t2v to take frames and masks: image to video, filling in, going on with a clip.

    python -m wan_jax data build --src world:24000:1 --units all --no-text --out units --model wan_mini --validation 64
    python -m wan_jax train --config configs/train_wan_mini_vace.py data=units out=runs
    python -m wan_jax eval-mini --model runs/models/wan_mini --tasks --prompts 50

VACE for the little world (wan_jax/world): each expert gets a context branch, which begins as copies of every other one
of its blocks.  All weights are then trained, where VACE freezes the denoiser: what the denoiser learned from is at hand
here, and first frames are kept 2 dB better.  The dataset says of each clip what is shown of it; see
`wan_jax.data.units`.  What came of it is wan_jax/weights/wan_mini.
"""

from dataclasses import replace

from configs import train_wan_mini
from wan_jax.train.config import TrainConfig


def get_config() -> tuple[TrainConfig, ...]:
    *_, high, low = train_wan_mini.get_config()
    text_to_video = high.model.name
    layers = tuple(range(0, high.model.transformer.num_layers, 2))
    shared = dict(
        model=replace(high.model, name="wan_mini", transformer=replace(high.model.transformer, vace_layers=layers)),
        base=text_to_video,
        init=text_to_video,
        data="units",
        steps=14000,
        optimizer=replace(high.optimizer, learning_rate=5e-4),
    )
    return (
        replace(high, **shared, name="vace_high", init_component="transformer"),
        replace(low, **shared, name="vace_low", init_component="transformer_2"),
    )
