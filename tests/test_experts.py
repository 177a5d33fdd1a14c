"""Who denoises when: the counts are those of the official sampler (Wan2.2, wan/configs)."""

import numpy as np
import pytest

from wan_jax.diffusion.solvers import make_steps
from wan_jax.experts import Segment, segments


@pytest.mark.parametrize(
    "solver, steps, shift, boundary, high",
    [
        ("unipc", 40, 12.0, 0.875, 26),
        ("unipc", 40, 5.0, 0.900, 15),
        ("unipc", 40, 3.0, 0.900, 10),
        ("dpm++", 40, 3.0, 0.900, 11),
    ],
)
def test_split_of_a_run(solver, steps, shift, boundary, high):
    timesteps = make_steps(solver, steps, shift)[0].timesteps
    assert segments(timesteps, boundary) == [Segment(0, 0, high), Segment(1, high, steps)]


def test_truncated_timestep_decides():
    """σ = 0.8754 is above the boundary and its timestep, 875, is on it: high noise.  874 is low noise."""
    assert segments(np.array([900, 875, 874]), 0.875) == [Segment(0, 0, 2), Segment(1, 2, 3)]


def test_one_expert_and_empty_segments():
    timesteps = np.array([999, 500, 100])
    assert segments(timesteps, None) == [Segment(0, 0, 3)]
    assert segments(timesteps[1:], 0.875) == [Segment(1, 0, 2)]
    assert segments(timesteps[:1], 0.875) == [Segment(0, 0, 1)]
