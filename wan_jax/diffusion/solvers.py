"""ODE solvers as tables: one step function serves them all.

Every solver here is a linear multistep method on predictions of the clean sample: with

    m = x − σ·v                     the prediction at the incoming sample x
    c = corrector · (x, c₁, m, m₁, m₂)
    x' = predictor · (c, m, m₁)

where c₁ is the previous step's corrected sample and m₁, m₂ are the predictions of one and two steps ago.  The weights
depend on the noise levels alone, so they are computed once on the host in float64 (`unipc.py`, `dpm.py`, `euler.py`),
limits at σ = 0 and σ = 1 included, and the loop on the device meets no infinity.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from wan_jax.diffusion import dpm, euler, unipc
from wan_jax.diffusion.flow import denoised
from wan_jax.diffusion.schedules import Grid, Schedule, make_schedule
from wan_jax.errors import WanError
from wan_jax.typing import Float, Int, typechecked

SOLVERS = {"unipc": unipc, "dpm++": dpm, "euler": euler}


@flax.struct.dataclass
class Steps:
    """A whole sampling run as arrays with one entry per step."""

    timestep: Int[" n"]
    sigma: Float[" n"]
    corrector: Float["n 5"]
    predictor: Float["n 3"]


@flax.struct.dataclass
class SolverState:
    """The sample, and what a multistep method remembers; all [b, f, h, w, c] in float32."""

    sample: jax.Array
    corrected: jax.Array  # c₁
    previous: jax.Array  # m₁
    before: jax.Array  # m₂

    @classmethod
    def init(cls, noise: Float["b f h w c"]) -> "SolverState":
        # Distinct buffers: the state is donated, and one buffer cannot be donated twice.
        return cls(noise, *(jnp.zeros_like(noise) for _ in range(3)))


def make_steps(
    solver: str, num_steps: int, shift: float, grid: Grid = "wan", strength: float = 1.0
) -> tuple[Schedule, Steps]:
    """The noise levels of a run, or of the part of it that `strength` leaves, and the solver's weights on them.

    Raises:
        WanError: unknown solver or grid.
    """
    if solver not in SOLVERS:
        raise WanError(f"solver={solver!r} is unknown; use one of {', '.join(SOLVERS)}")
    method = SOLVERS[solver]
    schedule = make_schedule(num_steps, shift, grid, method.FIRST_SIGMA).last(strength)
    corrector, predictor = method.weights(schedule.sigmas.astype(np.float64))
    return schedule, Steps(
        timestep=schedule.timesteps,
        sigma=schedule.sigmas[:-1],
        corrector=corrector.astype(np.float32),
        predictor=predictor.astype(np.float32),
    )


@typechecked
def solver_step(state: SolverState, velocity: Float["b f h w c"], steps: Steps, i: Int[""] | int) -> SolverState:
    """Moves the sample from noise level i to i + 1 along a predicted velocity."""
    prediction = denoised(state.sample, velocity, steps.sigma[i])
    corrected = _combine(steps.corrector[i], (state.sample, state.corrected, prediction, state.previous, state.before))
    sample = _combine(steps.predictor[i], (corrected, prediction, state.previous))
    return SolverState(sample, corrected, prediction, state.previous)


def _combine(weights: Float[" n"], terms) -> Float["b f h w c"]:
    return sum(weights[j] * term for j, term in enumerate(terms))
