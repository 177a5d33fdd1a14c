"""A real run in ten minutes on one GPU: both experts of a toy model, on clips of coloured shapes that move.

    python -m benchmarks.shapes.world --out clips --clips 3000
    python -m wan_jax data build --src clips --out frames --size 64x64 --frames 17 --validation 64
    python -m benchmarks.shapes.vae --data frames --out runs/models/shapes_start
    python -m wan_jax data build --src frames --out latents --model runs/models/shapes_start --no-text
    python -m wan_jax train --config benchmarks/shapes/recipe.py data=latents
    python -m benchmarks.shapes.measure --model runs/models/shapes --out docs/shapes
    python -m benchmarks.shapes.curves --runs runs --out docs/shapes/curves.png

The autoencoder is a quick one, trained with L1 and squared error alone.  umT5 has two layers on bytes and is trained
from random weights together with a first transformer, "base", that knows all noise levels.  Then come the experts: the
high-noise one from random weights with that umT5 frozen, the low-noise one from the base.  A third of the combinations
of colour, shape and direction is never trained on; `measure` asks for those.
"""

from dataclasses import replace

from wan_jax.pipelines.loading import read_config
from wan_jax.train.config import Optimizer, TrainConfig
from wan_jax.train.timesteps import Density

_START = "runs/models/shapes_start"  # the autoencoder's statistics are part of the model, so it must be there


def get_config() -> tuple[TrainConfig, ...]:
    start = read_config(_START)
    base = TrainConfig(
        name="base",
        model=replace(start, name="shapes_base"),
        base=_START,
        trainable="(transformer|text_encoder)/.*",
        data="latents",
        steps=2500,
        batch=128,
        density=Density(kind="uniform", shift=3.0),
        optimizer=Optimizer(learning_rate=5e-4, schedule="cosine", warmup_steps=200, b2=0.99, weight_decay=1e-2),
        ema=0.998,
        remat="all",
        log_every=50,
        save_every=500,
        validate_every=250,
        validation_clips=64,
        keep=1,
    )
    expert = replace(
        base,
        model=replace(start, name="shapes", boundary_ratio=0.875),
        base="shapes_base",
        trainable="transformer(_2)?/.*",
    )
    low = replace(base.optimizer, learning_rate=2e-4)
    return (
        base,
        replace(expert, name="high", component="transformer", steps=2000),
        replace(expert, name="low", component="transformer_2", init="shapes_base", steps=1000, optimizer=low, seed=1),
    )
