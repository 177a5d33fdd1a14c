"""Text to video from end to end against Diffusers: the same tiny checkpoint, prompt and noise."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.compare import relative_error
from tests.parity import reference
from wan_jax import WanPipeline
from wan_jax.images import stretch

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


def test_ti2v_without_an_image(tmp_path):
    """Its own autoencoder, 48 channels, and a timestep for every token: latents and frames."""
    pipe = reference.pipeline(tmp_path, experts=1, kind="ti2v")
    size = dict(height=64, width=96, num_frames=9)
    noise = np.random.default_rng(0).standard_normal((1, 48, 3, 4, 6)).astype(np.float32)
    options = size | dict(num_inference_steps=12, guidance_scale=5.0)
    model = WanPipeline.from_pretrained(str(tmp_path / "model"), dtype="float32")
    model.set_progress_bar_config(disable=True)
    assert model.config.expand_timesteps and model.config.sampling.fps == 24
    for output_type in ("latent", "np"):
        expected = pipe(PROMPT, NEGATIVE, **options, latents=torch.from_numpy(noise), output_type=output_type).frames
        got = model(
            PROMPT, NEGATIVE, **options, latents=noise, flow_shift=12.0, sigma_grid="diffusers", output_type=output_type
        ).frames
        assert relative_error(got, np.asarray(expected)) <= 1e-4


@pytest.mark.parametrize("kind, last", [("i2v", False), ("i2v", True), ("ti2v, image", False)])
def test_image_to_video(tmp_path, kind, last):
    """Pictures of the video's own size, so that no rule of fitting them matters."""
    pipe = reference.pipeline(tmp_path, experts=2 if kind == "i2v" else 1, kind=kind)
    rng, ti2v = np.random.default_rng(0), kind != "i2v"
    height, width, factor = (64, 96, 16) if ti2v else (32, 48, 8)
    images = rng.integers(256, size=(2, height, width, 3), dtype=np.uint8)
    channels = 48 if ti2v else 16
    noise = rng.standard_normal((1, channels, 3, height // factor, width // factor)).astype(np.float32)
    options = dict(height=height, width=width, num_frames=9, num_inference_steps=12, guidance_scale=4.0)
    options |= {} if ti2v else dict(guidance_scale_2=3.0)
    first, end = (Image.fromarray(image) for image in images)
    options |= dict(image=first, output_type="latent") | (dict(last_image=end) if last else {})
    expected = pipe(prompt=PROMPT, negative_prompt=NEGATIVE, **options, latents=torch.from_numpy(noise)).frames
    model = WanPipeline.from_pretrained(str(tmp_path / "model"), dtype="float32")
    model.set_progress_bar_config(disable=True)
    got = model(PROMPT, NEGATIVE, **options, latents=noise, flow_shift=12.0, sigma_grid="diffusers").frames
    assert relative_error(got, np.asarray(expected)) <= 1e-4


@pytest.mark.parametrize("before, after", [((37, 53), (16, 96)), ((20, 30), (64, 48)), ((64, 48), (64, 48))])
def test_pictures_are_stretched_as_torch_does(before, after):
    image = np.random.default_rng(0).integers(256, size=(*before, 3), dtype=np.uint8)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float().div(255).sub(0.5).div(0.5)
    expected = torch.nn.functional.interpolate(x, size=after, mode="bicubic")[0].permute(1, 2, 0).numpy()
    assert relative_error(stretch(image, *after), expected) <= 1e-5


def test_bfloat16_is_no_further_from_float32_than_diffusers(checkpoint, noise):
    folder, pipe = checkpoint
    our_distance = relative_error(
        ours(folder, "bfloat16", noise, output_type="latent"), ours(folder, "float32", noise, output_type="latent")
    )
    half = type(pipe).from_pretrained(folder, torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    their_distance = relative_error(theirs(half, noise), theirs(pipe, noise))
    assert our_distance <= their_distance
