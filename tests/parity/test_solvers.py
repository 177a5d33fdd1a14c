"""Solvers and grids against Diffusers' schedulers and the official ones (from the `wan22` package on PyPI)."""

import importlib.util
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from tests.compare import relative_error
from tests.parity import reference
from wan_jax.diffusion.solvers import SolverState, make_steps, solver_step

TOLERANCE = 1e-5
SHAPE = (1, 2, 3, 4, 5)


def field(sample, timestep):
    """A velocity field that depends on sample and time, the same expression for NumPy and torch."""
    lib = torch if isinstance(sample, torch.Tensor) else np
    return lib.sin(3 * sample + timestep / 200) + 0.3 * sample


def start() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def ours(solver: str, num_steps: int, shift: float, grid: str) -> np.ndarray:
    schedule, steps = make_steps(solver, num_steps, shift, grid)
    state = SolverState.init(start())
    for i, t in enumerate(schedule.timesteps):
        state = solver_step(state, field(np.asarray(state.sample), np.float32(t)), steps, i)
    return np.asarray(state.sample)


def theirs(scheduler) -> np.ndarray:
    sample = torch.from_numpy(start())
    for t in scheduler.timesteps:
        sample = scheduler.step(field(sample, t.float()), t, sample, return_dict=False)[0]
    return sample.numpy()


@pytest.mark.parametrize("shift", [3.0, 5.0, 12.0])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 20, 50])
def test_unipc_against_diffusers(num_steps, shift):
    scheduler = reference.unipc(shift)
    scheduler.set_timesteps(num_steps)
    scheduler.set_begin_index(0)
    schedule, _ = make_steps("unipc", num_steps, shift, "diffusers")
    np.testing.assert_array_equal(schedule.timesteps, scheduler.timesteps)
    np.testing.assert_array_equal(schedule.sigmas, scheduler.sigmas)
    assert relative_error(ours("unipc", num_steps, shift, "diffusers"), theirs(scheduler)) <= TOLERANCE


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The official solver files; the package's own import would pull in CUDA-only dependencies."""
    folder = tmp_path_factory.mktemp("wan22")
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    subprocess.run([*fetch, "wan22==2.2.11"], check=True)
    (wheel,) = folder.glob("*.whl")
    modules = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in ("fm_solvers", "fm_solvers_unipc"):
            path = archive.extract(f"wan/utils/{name}.py", folder)
            spec = importlib.util.spec_from_file_location(name, path)
            modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[name])
    return modules


def official_scheduler(official, solver: str, num_steps: int, shift: float):
    """A scheduler set up as Wan2.2's text2video.py does."""
    if solver == "unipc":
        scheduler = official["fm_solvers_unipc"].FlowUniPCMultistepScheduler(shift=1, use_dynamic_shifting=False)
        scheduler.set_timesteps(num_steps, shift=shift)
    else:
        scheduler = official["fm_solvers"].FlowDPMSolverMultistepScheduler(shift=1, use_dynamic_shifting=False)
        sigmas = official["fm_solvers"].get_sampling_sigmas(num_steps, shift)
        official["fm_solvers"].retrieve_timesteps(scheduler, sigmas=sigmas)
    return scheduler


@pytest.mark.parametrize("solver", ["unipc", "dpm++"])
@pytest.mark.parametrize("num_steps, shift", [(4, 5.0), (20, 3.0), (40, 12.0), (40, 5.0), (50, 5.0)])
def test_solver_against_official(official, solver, num_steps, shift):
    scheduler = official_scheduler(official, solver, num_steps, shift)
    schedule, _ = make_steps(solver, num_steps, shift)
    np.testing.assert_array_equal(schedule.timesteps, scheduler.timesteps)
    assert relative_error(ours(solver, num_steps, shift, "wan"), theirs(scheduler)) <= TOLERANCE
