"""Few steps without guidance, learned from many with it: what a few-step student regresses onto.

Progressive distillation (arXiv:2202.00512) in one stage, of a guided teacher (arXiv:2210.03142): of a sampling run of a
few steps, the student learns each step as the straight line between the ends of the many guided steps that the teacher
takes over the same noise levels.  It learns them where it will be asked: at states that its own earlier steps lead to,
not at noised clips (backward distillation, arXiv:2405.05224).  Only an expert that takes over from another begins at
clips, noised to that level, as the other is not at hand.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wan_jax import sharding
from wan_jax.conditioning import Conditioning
from wan_jax.config import WanConfig
from wan_jax.diffusion import flow
from wan_jax.diffusion.guidance import guided_velocity, is_guided, prompt_batch
from wan_jax.diffusion.solvers import make_steps
from wan_jax.errors import WanError
from wan_jax.experts import segments
from wan_jax.models.layers import repeated
from wan_jax.train.objective import mean_square, predicted_velocity
from wan_jax.typing import Float, Int, typechecked

SOLVER = "euler"

Velocity = Callable[[jax.Array, jax.Array], jax.Array]  # latents [b f h w c] and timestep [b] → their velocity


@dataclass(frozen=True, kw_only=True)
class Distil:
    """How the student is to be sampled, and what it learns from.

    Attributes:
        steps: of the student, over both experts, by Euler's method and without guidance.
        flow_shift: of its noise levels.
        substeps: steps of the teacher, by Euler's method too, for each of the student's.
        guidance_scale: of the teacher; None: the model's own for this expert.

    Raises:
        WanError: a value is not positive.
    """

    steps: int = 4
    flow_shift: float = 5.0
    substeps: int = 5
    guidance_scale: float | None = None

    def __post_init__(self):
        if self.steps < 1 or self.substeps < 1:
            raise WanError(f"distil.steps={self.steps} and distil.substeps={self.substeps} must be at least 1")
        if not 0 < self.flow_shift < math.inf:
            raise WanError(f"distil.flow_shift={self.flow_shift} must be positive")

    @property
    def sampling(self) -> dict[str, Any]:
        """The arguments with which `WanPipeline` samples the student."""
        return {
            "num_inference_steps": self.steps,
            "flow_shift": self.flow_shift,
            "solver": SOLVER,
            "guidance_scale": 1.0,
        }

    def teacher_scale(self, model: WanConfig, component: str) -> float:
        """The guidance scale of the teacher."""
        if self.guidance_scale is not None:
            return self.guidance_scale
        own = model.sampling
        return own.guidance_scale if component == "transformer" else own.guidance_scale_2 or own.guidance_scale

    def forward_passes(self, model: WanConfig, component: str) -> int:
        """Those of a step that need no gradient."""
        earlier = len(intervals(self, model, component)) - 1
        return earlier + self.substeps * (2 if is_guided(self.teacher_scale(model, component)) else 1)


@dataclass(frozen=True)
class Intervals:
    """The student's steps that are one expert's, each with the teacher's between its ends.

    Attributes:
        sigmas: noise levels, a row to an interval; a row begins where the one before ends.
        timesteps: what the network is told at all of them but the last.
    """

    sigmas: Float["n t"]
    timesteps: Float["n s"]

    def __len__(self) -> int:
        return len(self.sigmas)


def intervals(distil: Distil, model: WanConfig, component: str) -> Intervals:
    """The intervals of an expert: the sampler's own grid for `steps` · `substeps` steps, cut at every `substeps`-th.

    Raises:
        WanError: none of the steps is this expert's.
    """
    student, _ = make_steps(SOLVER, distil.steps, distil.flow_shift)
    teacher, _ = make_steps(SOLVER, distil.steps * distil.substeps, distil.flow_shift)
    sigmas, timesteps = (x.reshape(distil.steps, -1) for x in (teacher.sigmas[:-1], teacher.timesteps))
    # At the ends the two grids agree but for roundings, which may move a timestep: there the student's holds.
    sigmas = np.hstack([student.sigmas[:-1, None], sigmas[:, 1:], student.sigmas[1:, None]])
    timesteps = np.hstack([student.timesteps[:, None], timesteps[:, 1:]]).astype(np.float32)
    for part in segments(student.timesteps, model.boundary_ratio):
        if model.transformers[part.expert] == component:
            return Intervals(sigmas[part.start : part.stop], timesteps[part.start : part.stop])
    raise WanError(
        f"distil.steps={distil.steps} with distil.flow_shift={distil.flow_shift} leave no step to the {component} of "
        f"{model.name}: at timestep {model.boundary_ratio * flow.TRAIN_TIMESTEPS:g} the experts change"
    )


def guided(predict: Callable, conditioning: Conditioning, no_text: Float["1 s d"], guidance_scale: float) -> Velocity:
    """The velocity under classifier-free guidance away from the empty caption."""
    text = conditioning.text
    conditioning = conditioning.replace(text=prompt_batch(text, jnp.broadcast_to(no_text, text.shape), guidance_scale))

    def velocity(latents: Float["b f h w c"], timestep: Float[" b"]) -> Float["b f h w c"]:
        def both(latents: Float["d f h w c"]) -> Float["d f h w c"]:
            return predicted_velocity(predict, latents, repeated(timestep, len(latents)), conditioning)

        return guided_velocity(both, latents, guidance_scale if is_guided(guidance_scale) else None)

    return velocity


@typechecked
def distillation_loss(
    student: Velocity,
    teacher: Velocity,
    clean: Float["b f h w c"],
    noise: Float["b f h w c"],
    interval: Int[" b"],
    grid: Intervals,
    conditioning: Conditioning,
) -> Float[" b"]:
    """The mean squared error of the student's velocity over an interval of each clip, in float32.

    The student starts from the clip noised to the expert's first level, which for the high-noise expert is noise alone.
    Gradients flow through the velocity at the start of the interval, and through nothing before it or of the teacher.

    Args:
        student, teacher: latents [b f h w c] and timestep [b] → velocity.
        clean: normalised latents of the clips.
        noise: standard normal.
        interval: which row of the grid it is.
        grid: the expert's intervals.
        conditioning: of both.  Clean frames that are given do not count.
    """
    sigmas, timesteps = jnp.asarray(grid.sigmas), jnp.asarray(grid.timesteps)
    start = flow.interpolate(clean, noise, sigmas[0, 0])
    state = jax.lax.stop_gradient(_reached(student, start, interval, sigmas, timesteps))
    sigmas, timesteps = sigmas[interval], timesteps[interval]
    end = jax.lax.stop_gradient(_followed(teacher, state, sigmas, timesteps))
    target = (end - state) / _per_clip(sigmas[:, -1] - sigmas[:, 0])
    return mean_square(student(state, timesteps[:, 0]) - target, conditioning)


def _reached(
    student: Velocity, x: Float["b f h w c"], interval: Int[" b"], sigmas: Float["n t"], timesteps: Float["n s"]
) -> Float["b f h w c"]:
    """Where the student's own steps lead to by the start of each clip's interval."""

    def step(x, this):
        number, sigma, until, timestep = this
        moved = _euler(student, x, *(jnp.full(len(x), value) for value in (sigma, until, timestep)))
        return jnp.where(_per_clip(number < interval), moved, x), None

    earlier = (jnp.arange(len(sigmas) - 1), sigmas[:-1, 0], sigmas[:-1, -1], timesteps[:-1, 0])
    return jax.lax.scan(step, x, earlier)[0]


def _followed(
    teacher: Velocity, x: Float["b f h w c"], sigmas: Float["b t"], timesteps: Float["b s"]
) -> Float["b f h w c"]:
    """Where the teacher's steps lead to."""

    def step(x, this):
        return _euler(teacher, x, *this), None

    return jax.lax.scan(step, x, (sigmas[:, :-1].T, sigmas[:, 1:].T, timesteps.T))[0]


def _euler(
    velocity: Velocity, x: Float["b f h w c"], sigma: Float[" b"], until: Float[" b"], timestep: Float[" b"]
) -> Float["b f h w c"]:
    moved = x + _per_clip(until - sigma) * velocity(x, timestep).astype(jnp.float32)
    return sharding.constrain_latents(moved)


def _per_clip(x: jax.Array) -> jax.Array:
    return x[:, None, None, None, None]
