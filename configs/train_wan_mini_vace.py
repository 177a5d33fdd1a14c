"""Teaches wan_mini, experts frozen, to take frames and masks: image to video, filling in, going on with a clip.

    python -m wan_jax data build --src world:16000:1 --units all --no-text --out units --model wan_mini --validation 64
    python -m wan_jax train --config configs/train_wan_mini_vace.py data=units out=runs

VACE for the little world (wan_jax/world): each expert gets a context branch, which begins as copies of every other one
of its blocks.  The dataset says of each clip what is shown of it; see `wan_jax.data.units`.
"""

from dataclasses import replace

from configs import train_wan_mini
from wan_jax.train.config import TrainConfig


def get_config() -> tuple[TrainConfig, ...]:
    *_, high, low = train_wan_mini.get_config()
    layers = tuple(range(0, high.model.transformer.num_layers, 2))
    model = replace(high.model, transformer=replace(high.model.transformer, vace_layers=layers))
    shared = dict(
        model=model,
        base="wan_mini",
        init="wan_mini",
        data="units",
        steps=8000,
        optimizer=replace(high.optimizer, learning_rate=5e-4),
    )
    return (
        replace(high, **shared, init_component="transformer", trainable="transformer/vace/.*"),
        replace(low, **shared, init_component="transformer_2", trainable="transformer_2/vace/.*"),
    )
