"""The optimiser against PyTorch's AdamW, with clipping, warm-up and weights that do not decay."""

import jax.numpy as jnp
import numpy as np
import optax
import torch

from tests.compare import relative_error
from wan_jax.train.config import Optimizer
from wan_jax.train.optimizer import learning_rate, make_optimizer

CONFIG = Optimizer(
    learning_rate=0.1, schedule="cosine", warmup_steps=3, b1=0.8, b2=0.95, eps=1e-6, weight_decay=0.3, clip_norm=1.5
)
STEPS = 9


def test_against_pytorch():
    rng = np.random.default_rng(0)
    shapes = {"kernel": (4, 3), "bias": (3,)}
    start = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    # Short gradients and long ones, which are clipped.
    gradients = [
        {name: (size * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
        for size in np.geomspace(0.1, 5, STEPS)
    ]
    theirs = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in start.items()}
    groups = [{"params": [theirs["kernel"]], "weight_decay": 0.3}, {"params": [theirs["bias"]], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.95), eps=1e-6)

    def rate(step: int) -> float:
        """Of the peak: a third more in each of the first three steps, then half a cosine down to zero."""
        return (step + 1) / 3 if step < 3 else (1 + np.cos(np.pi * (step - 3) / (STEPS - 3))) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(adamw, rate)
    ours = make_optimizer(CONFIG, STEPS)
    params = {name: jnp.asarray(value) for name, value in start.items()}
    state = ours.init(params)
    for step, gradient in enumerate(gradients):
        for name, value in gradient.items():
            theirs[name].grad = torch.from_numpy(value.copy())
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.5)
        np.testing.assert_allclose(learning_rate(CONFIG, STEPS)(step), adamw.param_groups[0]["lr"], rtol=1e-6)
        adamw.step()
        schedule.step()
        updates, state = ours.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        for name, value in theirs.items():
            assert relative_error(params[name], value.detach()) <= 1e-6, (step, name)
