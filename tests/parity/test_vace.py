"""VACE against Diffusers' WanVACETransformer3DModel and WanVACEPipeline, float32."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from convert.conversion import convert
from convert.dit import dit_rules
from convert.export import export
from tests.compare import relative_error
from tests.parity import reference
from wan_jax import WanPipeline, checkpoint
from wan_jax.config import DiTConfig
from wan_jax.images import crop, on_white
from wan_jax.models.dit import Context, DiT, abstract_params
from wan_jax.vcu import fold_mask


@pytest.mark.parametrize("layers, scale", [((0, 2), (1.0, 1.0)), ((0, 1, 3), (0.3, 1.7, -0.6))])
@pytest.mark.parametrize("remat", ["all", "nothing"])
def test_velocity(layers, scale, remat):
    """Of a guided batch: one context for the prompts and their negatives."""
    module = reference.vace_dit(num_layers=4, vace_layers=list(layers))
    config = DiTConfig.from_json(dict(module.config), "transformer/config.json")
    assert config.vace_layers == layers
    params = reference.params_of(module, dit_rules(config), abstract_params(config))
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, 3, 4, 6, 16), np.float32)
    frames = rng.standard_normal((1, 3, 4, 6, 96), np.float32)
    text = rng.standard_normal((2, 12, config.text_dim), np.float32)
    timestep = np.array([999, 437])
    first = [torch.from_numpy(x).permute(0, 4, 1, 2, 3) for x in (latents, frames.repeat(2, 0))]
    with torch.no_grad():
        theirs = module(
            hidden_states=first[0],
            control_hidden_states=first[1],
            control_hidden_states_scale=torch.tensor(scale),
            timestep=torch.from_numpy(timestep),
            encoder_hidden_states=torch.from_numpy(text),
            return_dict=False,
        )[0]
    dit = DiT(config, jnp.float32, remat)
    context = Context(frames, jnp.asarray(scale))
    ours = dit.apply({"params": params}, latents, timestep[:, None].astype(np.float32), text, None, context)
    assert relative_error(ours, theirs.permute(0, 2, 3, 4, 1)) <= 1e-5


PROMPT, NEGATIVE = "a red ball — 红色的球", "blurry"
SIZE = dict(height=32, width=48, num_frames=9)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By the number of experts: theirs and ours."""
    pipes = {}
    for experts in (1, 2):
        folder = tmp_path_factory.mktemp("tiny")
        theirs = reference.pipeline(folder, experts=experts, kind="vace")
        ours = WanPipeline.from_pretrained(str(folder / "model"), dtype="float32")
        ours.set_progress_bar_config(disable=True)
        pipes[experts] = theirs, ours
    return pipes


def moving(seed: int, count: int = SIZE["num_frames"]) -> np.ndarray:
    """Random pictures that hang together in time as little as they do in space."""
    return np.random.default_rng(seed).integers(256, size=(count, 32, 48, 3), dtype=np.uint8)


def boxes() -> np.ndarray:
    """A mask that moves, and that no swap of its axes or offsets leaves as it is."""
    mask = np.zeros((SIZE["num_frames"], 32, 48), np.uint8)
    for i, frame in enumerate(mask):
        frame[3 + i : 19 + i, 5 + 2 * i : 30 + 2 * i] = 255
    return mask


@pytest.mark.parametrize(
    "experts, shown, references, scale",
    [
        (1, "nothing", 0, 1.0),
        (1, "control", 0, 1.0),
        (1, "masked", 0, [0.4, 1.3]),
        (1, "masked", 1, 1.0),
        (1, "nothing", 2, 1.0),
        (2, "masked", 2, 0.8),
    ],
)
def test_latents_and_frames(models, experts, shown, references, scale):
    theirs, ours = models[experts]
    # Of multiples of 8, to which Diffusers alone stretches a reference before it is fitted.
    pictures = [Image.fromarray(x) for x in (moving(1, 1)[0, :16, :40], moving(2, 1)[0, :, :24])][:references]
    given, asked = {}, {}
    if shown != "nothing":
        given["video"], asked["video"] = [Image.fromarray(x) for x in moving(0)], moving(0)
    if shown == "masked":
        given["mask"], asked["mask"] = [Image.fromarray(x).convert("RGB") for x in boxes()], boxes()
    if references:
        given["reference_images"] = pictures[::-1]  # which it turns round
        asked["reference_images"] = pictures
    noise = np.random.default_rng(3).standard_normal((1, 16, 3 + references, 4, 6)).astype(np.float32)
    options = SIZE | dict(num_inference_steps=12, guidance_scale=4.0, conditioning_scale=scale)
    options |= {} if experts == 1 else dict(guidance_scale_2=3.0)
    for output_type in ("latent", "np"):
        expected = theirs(
            PROMPT, NEGATIVE, **options, **given, latents=torch.from_numpy(noise), output_type=output_type
        ).frames
        got = ours(
            PROMPT,
            NEGATIVE,
            **options,
            **asked,
            latents=noise,
            flow_shift=12.0,
            sigma_grid="diffusers",
            output_type=output_type,
        ).frames
        assert relative_error(got, np.asarray(expected)) <= 1e-4


def test_conversion_and_back(tmp_path):
    """Theirs to ours, known as a VACE model, and ours to theirs, which WanVACEPipeline opens: the same tensors."""
    theirs = reference.pipeline(tmp_path, experts=2, kind="vace")
    convert(str(tmp_path / "model"), str(tmp_path / "ours"), dtype="float32")
    config = checkpoint.read_model(tmp_path / "ours")
    assert config.takes_context and config.boundary_ratio == 0.875 and config.sampling.flow_shift == 12.0
    export(str(tmp_path / "ours"), str(tmp_path / "back"))
    back = type(theirs).from_pretrained(tmp_path / "back")
    for name in ("transformer", "transformer_2"):
        tensors, expected = (getattr(pipe, name).state_dict() for pipe in (back, theirs))
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[key], expected[key]) for key in tensors)
    assert back.config.boundary_ratio == 0.875 and isinstance(back.transformer, type(theirs.transformer))


def test_bfloat16_is_no_further_from_float32_than_diffusers(models, tmp_path):
    theirs, exact = models[1]
    theirs.save_pretrained(tmp_path)
    noise = np.random.default_rng(3).standard_normal((1, 16, 3, 4, 6)).astype(np.float32)
    options = SIZE | dict(num_inference_steps=12, guidance_scale=4.0, output_type="latent")
    half = WanPipeline.from_pretrained(str(tmp_path), dtype="bfloat16")
    half.set_progress_bar_config(disable=True)
    other = type(theirs).from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    other.set_progress_bar_config(disable=True)
    our_distance = relative_error(
        *(
            pipe(PROMPT, NEGATIVE, **options, video=moving(0), mask=boxes(), latents=noise, flow_shift=12.0).frames
            for pipe in (half, exact)
        )
    )
    shown = [[Image.fromarray(x).convert("RGB") for x in clip] for clip in (moving(0), boxes())]
    given = dict(video=shown[0], mask=shown[1], latents=torch.from_numpy(noise))
    their_distance = relative_error(
        *(np.asarray(pipe(PROMPT, NEGATIVE, **options, **given).frames) for pipe in (other, theirs))
    )
    assert our_distance <= their_distance


@pytest.mark.parametrize("before", [(20, 41), (100, 37), (32, 48)])
def test_references_lie_on_white_as_in_the_official_code(before):
    image = np.random.default_rng(0).integers(256, size=(*before, 3), dtype=np.uint8)
    scale = min(32 / before[0], 48 / before[1])
    size = int(before[0] * scale), int(before[1] * scale)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float().div(255).sub(0.5).div(0.5)
    small = torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    top, left = (32 - size[0]) // 2, (48 - size[1]) // 2
    expected = np.ones((32, 48, 3), np.float32)
    expected[top : top + size[0], left : left + size[1]] = small.numpy()
    assert relative_error(on_white(image, 32, 48), expected) <= 1e-5


@pytest.mark.parametrize("before, after", [((90, 161), (32, 48)), ((33, 40), (32, 32)), ((20, 30), (48, 64))])
def test_frames_are_cropped_as_in_the_official_code(before, after):
    """To a level of 255, which Pillow and PyTorch may round differently."""
    image = np.random.default_rng(0).integers(256, size=(*before, 3), dtype=np.uint8)
    scale = max(after[0] / before[0], after[1] / before[1])
    size = round(scale * before[0]), round(scale * before[1])
    x = torch.from_numpy(image).permute(2, 0, 1)[None]
    large = torch.nn.functional.interpolate(x, size=size, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    top, left = (size[0] - after[0]) // 2, (size[1] - after[1]) // 2
    expected = large[top : top + after[0], left : left + after[1]].astype(int)
    assert np.abs(crop(image, *after).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("count", range(1, 50, 4))
def test_folded_masks_are_those_of_the_official_code(count):
    """Of random masks, by PyTorch's "nearest-exact"."""
    mask = np.random.default_rng(count).random((count, 32, 48)) > 0.5
    x = torch.from_numpy(mask).float().view(count, 4, 8, 6, 8).permute(2, 4, 0, 1, 3).reshape(1, 64, count, 4, 6)
    expected = torch.nn.functional.interpolate(x, size=((count + 3) // 4, 4, 6), mode="nearest-exact")
    np.testing.assert_array_equal(fold_mask(mask, 4, 8), expected[0].permute(1, 2, 3, 0).numpy())
