"""Text to video from end to end against Diffusers: the same tiny checkpoint, prompt and noise."""

import contextlib

import numpy as np
import pytest
import torch
from diffusers.pipelines.wan import pipeline_wan_video2video
from PIL import Image

from tests.compare import relative_error
from tests.parity import reference
from wan_jax import WanPipeline
from wan_jax.config import VAEConfig
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


AS_THEIRS = dict(flow_shift=12.0, sigma_grid="diffusers", output_type="latent")


def model_in(folder) -> WanPipeline:
    model = WanPipeline.from_pretrained(str(folder / "model"), dtype="float32")
    model.set_progress_bar_config(disable=True)
    return model


@contextlib.contextmanager
def given_noise(noise):
    """Has Diffusers' video-to-video draw this noise; its `latents` are what is noised already."""
    with pytest.MonkeyPatch.context() as patch:
        drawn = torch.from_numpy(noise)
        patch.setattr(pipeline_wan_video2video, "randn_tensor", lambda shape, **_: drawn.reshape(shape))
        yield


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


@pytest.mark.parametrize(
    "kind, last", [("i2v", False), ("i2v", True), ("ti2v, image", False), ("i2v, clip", False), ("flf2v", True)]
)
def test_image_to_video(tmp_path, kind, last):
    """Pictures of the video's own size, so that no rule of fitting them matters."""
    pipe = reference.pipeline(tmp_path, experts=2 if kind == "i2v" else 1, kind=kind)
    rng, ti2v = np.random.default_rng(0), kind == "ti2v, image"
    height, width, factor = (64, 96, 16) if ti2v else (32, 48 if kind == "i2v" else 32, 8)
    images = rng.integers(256, size=(2, height, width, 3), dtype=np.uint8)
    channels = 48 if ti2v else 16
    noise = rng.standard_normal((1, channels, 3, height // factor, width // factor)).astype(np.float32)
    options = dict(height=height, width=width, num_frames=9, num_inference_steps=12, guidance_scale=4.0)
    options |= dict(guidance_scale_2=3.0) if kind == "i2v" else {}
    first, end = (Image.fromarray(image) for image in images)
    options |= dict(image=first, output_type="latent") | (dict(last_image=end) if last else {})
    expected = pipe(prompt=PROMPT, negative_prompt=NEGATIVE, **options, latents=torch.from_numpy(noise)).frames
    model = WanPipeline.from_pretrained(str(tmp_path / "model"), dtype="float32")
    model.set_progress_bar_config(disable=True)
    got = model(PROMPT, NEGATIVE, **options, latents=noise, flow_shift=12.0, sigma_grid="diffusers").frames
    assert relative_error(got, np.asarray(expected)) <= 1e-4


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_video_to_video(tmp_path, strength):
    """A clip of another size, so that the rule of fitting it matters; 7 of 12 steps, which 0.6 rounds down to."""
    pipe = reference.pipeline(tmp_path, kind="v2v")
    rng = np.random.default_rng(0)
    clip = rng.integers(256, size=(9, 40, 60, 3), dtype=np.uint8)
    noise = rng.standard_normal((1, 16, 3, 4, 6)).astype(np.float32)
    options = dict(height=32, width=48, num_inference_steps=12, guidance_scale=4.0, strength=strength)
    with given_noise(noise):
        expected = pipe([Image.fromarray(x) for x in clip], PROMPT, NEGATIVE, **options, output_type="latent").frames
    got = model_in(tmp_path)(PROMPT, NEGATIVE, video=clip, **options, **AS_THEIRS, latents=noise).frames
    assert relative_error(got, np.asarray(expected)) <= 1e-4


@pytest.mark.parametrize("strength, experts", [(0.9, 2), (0.3, 1)])
def test_video_to_video_of_two_experts(checkpoint, noise, strength, experts):
    """Diffusers has one expert here; its loop for two, begun where its rule for one begins, is the reference."""
    folder, pipe = checkpoint
    clip = np.random.default_rng(1).integers(256, size=(9, 32, 48, 3), dtype=np.uint8)
    scheduler, begin = pipe.scheduler, 12 - int(12 * strength)
    scheduler.set_timesteps(12)
    timesteps, sigma = scheduler.timesteps[begin:], float(scheduler.sigmas[begin])
    assert len({bool(t >= 875) for t in timesteps}) == experts  # the second case starts below the boundary
    with torch.no_grad():
        pixels = torch.from_numpy(clip / np.float32(127.5) - 1).permute(3, 0, 1, 2)[None]
        mean, std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (VAEConfig().latents_mean, VAEConfig().latents_std))
        clean = (pipe.vae.encode(pixels).latent_dist.mode() - mean) / std
        text, negative = pipe.encode_prompt(PROMPT, NEGATIVE, max_sequence_length=512)
        x = (1 - sigma) * clean + sigma * torch.from_numpy(noise)
        for t in timesteps:
            expert, scale = (pipe.transformer, 4.0) if t >= 875 else (pipe.transformer_2, 3.0)
            cond, uncond = (expert(x, t[None], states, return_dict=False)[0] for states in (text, negative))
            x = scheduler.step(uncond + scale * (cond - uncond), t, x, return_dict=False)[0]
    got = ours(folder, "float32", noise, video=clip, strength=strength, output_type="latent", num_frames=None)
    assert relative_error(got, x) <= 1e-4


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
