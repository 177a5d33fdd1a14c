"""Mixture of experts over denoising time (arXiv:2503.20314; Wan2.2, wan/text2video.py).

A model has one transformer, or two: the first lays out the scene at high noise, the second paints texture at low
noise.  The timesteps fall, so a run is at most two stretches, known before it starts: the experts are two parameter
trees that go through one compiled function, one after the other, and nothing on the device ever chooses.
"""

from dataclasses import dataclass

import numpy as np

from wan_jax.diffusion.flow import TRAIN_TIMESTEPS


@dataclass(frozen=True)
class Segment:
    """The steps `start` … `stop` − 1, done by one expert (0: high noise, or the only one; 1: low noise)."""

    expert: int
    start: int
    stop: int


def segments(timesteps: np.ndarray, boundary_ratio: float | None) -> list[Segment]:
    """Shares a run out: high noise while the *integer* timestep is at least `boundary_ratio` · 1000.

    Comparing noise levels instead of truncated timesteps can move the switch by a step.
    """
    steps = len(timesteps)
    high = steps if boundary_ratio is None else int(np.sum(timesteps >= boundary_ratio * TRAIN_TIMESTEPS))
    return [s for s in (Segment(0, 0, high), Segment(1, high, steps)) if s.start < s.stop]
