"""Solvers on an equation whose solution is known, and the tables at their limits."""

import jax.numpy as jnp
import numpy as np
import pytest

from wan_jax.diffusion import flow
from wan_jax.diffusion.solvers import SOLVERS, SolverState, make_steps, solver_step
from wan_jax.errors import WanError

SPREAD = 0.5  # of the clean data, which are normally distributed around zero


def exact(noise, sigma):
    """Where the path of a sample that starts as `noise` at σ = 1 is at `sigma`, for normal data of this spread."""
    return noise * np.sqrt((1 - sigma) ** 2 * SPREAD**2 + sigma**2)


def exact_velocity(sample, sigma):
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    return sample * (sigma - (1 - sigma) * SPREAD**2) / variance


def solve(solver, num_steps):
    noise = np.linspace(-2, 2, 24, dtype=np.float32).reshape(1, 1, 2, 3, 4)
    schedule, steps = make_steps(solver, num_steps, shift=3.0)
    state = SolverState.init(exact(noise, schedule.sigmas[0]).astype(np.float32))
    for i in range(num_steps):
        state = solver_step(state, exact_velocity(state.sample, schedule.sigmas[i]), steps, i)
    return np.abs(state.sample - exact(noise, 0)).max()


@pytest.mark.parametrize("solver, order", [("euler", 1), ("dpm++", 2), ("unipc", 2)])
def test_error_falls_with_the_order_of_the_solver(solver, order):
    assert solve(solver, 40) < solve(solver, 20) / 1.7**order


def test_unipc_is_the_most_accurate():
    errors = {solver: solve(solver, 20) for solver in SOLVERS}
    assert errors["unipc"] < errors["dpm++"] < errors["euler"]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 100, 1000])
def test_tables_are_finite_and_consistent(solver, num_steps):
    """Also where truncated timesteps repeat: 100 steps at shift 12 begin with 999, 999."""
    schedule, steps = make_steps(solver, num_steps, shift=12.0)
    assert np.isfinite(steps.corrector).all() and np.isfinite(steps.predictor).all()
    # A constant clean sample, which noise does not hide, stays what it is: x = (1 − σ)·m + σ·noise at every level.
    clean, noise = jnp.full((1, 1, 1, 1, 1), 0.7), jnp.full((1, 1, 1, 1, 1), -1.3)
    state = SolverState.init(flow.interpolate(clean, noise, schedule.sigmas[0]))
    for i in range(num_steps):
        state = solver_step(state, flow.velocity(clean, noise), steps, i)
        expected = flow.interpolate(clean, noise, schedule.sigmas[i + 1])
        np.testing.assert_allclose(state.sample, expected, atol=2e-4)


def test_unknown_names():
    with pytest.raises(WanError, match="'heun' is unknown; use one of unipc"):
        make_steps("heun", 4, 5.0)
    with pytest.raises(WanError, match="'karras' is unknown"):
        make_steps("unipc", 4, 5.0, "karras")
