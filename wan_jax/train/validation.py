"""The loss on held-out clips, noise level by noise level.

The training loss says little: it changes more with the timestep than with learning.  So the same clips are shown with
the same noise at the same eight noise levels every time, or in distillation at the start of each of the few steps.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from wan_jax import sharding
from wan_jax.diffusion.flow import TRAIN_TIMESTEPS
from wan_jax.train.config import TrainConfig
from wan_jax.train.step import Captions, Clips, Level, validation_losses
from wan_jax.typing import Params

LEVELS = 8
_SEED = 2**31 - 1  # none that a run would take


def noise_levels(noise_range: tuple[float, float]) -> list[float]:
    """The middles of eight equal parts of an expert's range."""
    low, high = noise_range
    return [float(low + (high - low) * (i + 0.5) / LEVELS) for i in range(LEVELS)]


def levels(config: TrainConfig) -> dict[int, Level]:
    """{timestep: what the loss calls it} of all that is measured."""
    if config.distil is not None:
        return {int(told): jnp.int32(k) for k, told in enumerate(config.intervals.timesteps[:, 0])}
    return {int(sigma * TRAIN_TIMESTEPS): jnp.float32(sigma) for sigma in noise_levels(config.noise_range)}


def validate(
    params: Params, frozen: Params, batches: Sequence[Clips], no_caption: Captions, config: TrainConfig
) -> dict[str, float]:
    """{"validation/loss": the mean, "validation/loss_t0062": that at timestep 62, …}."""
    losses = {}
    for timestep, level in levels(config).items():
        each = []
        for i, clips in enumerate(batches):
            key = jax.random.fold_in(jax.random.key(_SEED), i)
            each.append(validation_losses(params, frozen, clips, no_caption, level, key, config=config))
        losses[f"validation/loss_t{timestep:04}"] = float(np.mean(np.concatenate(list(map(_host, each)))))
    return {"validation/loss": float(np.mean(list(losses.values())))} | losses


def _host(x: jax.Array) -> np.ndarray:
    return sharding.to_host(x)
