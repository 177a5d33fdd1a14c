"""Text to video from end to end against Diffusers: the same tiny checkpoint, prompt and noise."""

import numpy as np
import pytest
import torch

from tests.compare import relative_error
from tests.parity import reference
from wan_jax import WanPipeline

SIZE = dict(height=32, width=48, num_frames=9)
PROMPT, NEGATIVE = "a red ball — 红色的球", "blurry"
# Large guidance makes the two experts, CFG and the solver's corrector matter.
SAMPLING = dict(num_inference_steps=12, guidance_scale=4.0, guidance_scale_2=3.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return folder / "model", reference.pipeline(folder)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 16, 3, 4, 6)).astype(np.float32)


def ours(folder, dtype, noise, **options):
    pipe = WanPipeline.from_pretrained(str(folder), dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        PROMPT, NEGATIVE, **SIZE | SAMPLING | options, latents=noise, flow_shift=12.0, sigma_grid="diffusers"
    ).frames


def theirs(pipe, noise, output_type="latent"):
    out = pipe(PROMPT, NEGATIVE, **SIZE, **SAMPLING, latents=torch.from_numpy(noise), output_type=output_type)
    return np.asarray(out.frames)


def test_latents_of_two_experts(checkpoint, noise):
    folder, pipe = checkpoint
    expected = theirs(pipe, noise)
    assert relative_error(ours(folder, "float32", noise, output_type="latent"), expected) <= 1e-4


def test_frames(checkpoint, noise):
    folder, pipe = checkpoint
    assert relative_error(ours(folder, "float32", noise), theirs(pipe, noise, "np")) <= 1e-4


def test_one_expert(tmp_path, noise):
    pipe = reference.pipeline(tmp_path, experts=1)
    expected = pipe(
        PROMPT,
        NEGATIVE,
        **SIZE,
        num_inference_steps=12,
        guidance_scale=5.0,
        latents=torch.from_numpy(noise),
        output_type="latent",
    ).frames
    got = ours(tmp_path / "model", "float32", noise, guidance_scale=5.0, guidance_scale_2=None, output_type="latent")
    assert relative_error(got, expected) <= 1e-4


def test_bfloat16_is_no_further_from_float32_than_diffusers(checkpoint, noise):
    folder, pipe = checkpoint
    our_distance = relative_error(
        ours(folder, "bfloat16", noise, output_type="latent"), ours(folder, "float32", noise, output_type="latent")
    )
    half = type(pipe).from_pretrained(folder, torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    their_distance = relative_error(theirs(half, noise), theirs(pipe, noise))
    assert our_distance <= their_distance
