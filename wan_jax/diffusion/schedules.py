"""The grid of noise levels that a sampling run visits, on the host."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from wan_jax.diffusion.flow import TRAIN_TIMESTEPS, shift_sigma
from wan_jax.errors import WanError

Grid = Literal["wan", "diffusers"]


@dataclass(frozen=True)
class Schedule:
    """N + 1 noise levels (float32 values, the last one 0) and the N integer timesteps the network is told."""

    sigmas: np.ndarray
    timesteps: np.ndarray

    def __len__(self) -> int:
        return len(self.timesteps)

    def last(self, strength: float) -> "Schedule":
        """What is left of a run that starts from a video, noised to the first level that stays.

        Of N steps the last int(strength · N), as in Diffusers' WanVideoToVideoPipeline; the official code has no such
        task.
        """
        skipped = len(self) - int(strength * len(self))
        return Schedule(self.sigmas[skipped:], self.timesteps[skipped:])


def make_schedule(num_steps: int, shift: float, grid: Grid = "wan", start: float = 1.0) -> Schedule:
    """N noise levels, shifted, then 0.

    "wan" is the official grid: evenly spaced from `start`, the solver's first noise level, to 0 (Wan2.2,
    wan/utils/fm_solvers*.py).  "diffusers" is that of Diffusers' UniPC scheduler, from 1 to 0.001, for comparisons.

    Timesteps are truncated to integers, as the released models are sampled; solvers use the exact noise levels.
    """
    if grid == "wan":
        sigmas = np.linspace(start, 0, num_steps + 1)[:-1]
    elif grid == "diffusers":
        sigmas = np.linspace(1, 1 / TRAIN_TIMESTEPS, num_steps + 1)[:-1]
    else:
        raise WanError(f"sigma_grid={grid!r} is unknown; use 'wan' or 'diffusers'")
    sigmas = shift_sigma(sigmas, shift)
    if grid == "diffusers":
        sigmas[0] -= 1e-6  # Diffusers keeps the first signal level above zero
    timesteps = (sigmas * TRAIN_TIMESTEPS).astype(np.int64).astype(np.int32)
    return Schedule(np.append(sigmas, 0).astype(np.float32), timesteps)
