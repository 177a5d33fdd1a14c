"""The optimiser, as optax has it."""

import jax
import optax

from wan_jax.train.config import Optimizer
from wan_jax.typing import Params

_DECAYING = ("kernel", "lora_a", "lora_b")


def learning_rate(config: Optimizer, steps: int) -> optax.Schedule:
    """The learning rate of each of `steps` steps: a linear warm-up, then the schedule."""
    peak, rest = config.learning_rate, max(steps - config.warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
    }[config.schedule]
    # The first step should move: it has the rate of one, not of none.
    warmup = optax.linear_schedule(peak / max(config.warmup_steps, 1), peak, max(config.warmup_steps - 1, 1))
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def make_optimizer(config: Optimizer, steps: int) -> optax.GradientTransformation:
    """Clips the whole gradient, then AdamW."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            mu_dtype=config.moments,
            weight_decay=config.weight_decay,
            mask=decays,
        ),
    )


def decays(params: Params) -> Params:
    """Which parameters decay: the matrices."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in _DECAYING, params)
