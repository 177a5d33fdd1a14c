"""`WanPipeline` on the untrained placeholder: what callers may rely on, whatever the weights are."""

import numpy as np
import pytest

from wan_jax import WanError, WanPipeline, export_to_video
from wan_jax.video_io import read_metadata, read_video

SMALL = dict(height=32, width=48, num_frames=5, num_inference_steps=6)


@pytest.fixture(scope="module")
def pipe():
    pipe = WanPipeline.from_pretrained("untrained", dtype="float32")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_diffusers_script_runs(tmp_path):
    """Written as Diffusers users write it; only the imports and the value of the dtype are ours."""
    import jax.numpy as jnp

    output_path = tmp_path / "output.mp4"
    pipe = WanPipeline.from_pretrained("untrained", torch_dtype=jnp.float32)
    pipe.enable_model_cpu_offload()
    pipe.to("cuda")
    output = pipe(
        prompt="A cat walks on the grass, realistic",
        negative_prompt="Bright tones, overexposed",
        height=32,
        width=48,
        num_frames=5,
        num_inference_steps=4,
        guidance_scale=5.0,
    ).frames[0]
    assert output.shape == (5, 32, 48, 3) and output.dtype == np.float32
    assert output.min() >= 0 and output.max() <= 1
    export_to_video(output, output_path)
    assert len(list(read_video(output_path))) == 5 and read_video(output_path).fps == 16


def test_seeds(pipe):
    first = pipe("a", seed=3, **SMALL).frames
    np.testing.assert_array_equal(pipe("a", seed=3, **SMALL).frames, first)
    assert np.abs(pipe("a", seed=4, **SMALL).frames - first).max() > 0.1


def test_batch_is_its_members(pipe):
    """Each prompt of a list gets the noise that its own seed gives it alone."""
    batch = pipe(["a dog", "一只猫"], ["x", "y"], seed=5, output_type="latent", **SMALL)
    alone = pipe("一只猫", "y", seed=6, output_type="latent", **SMALL)
    np.testing.assert_allclose(batch.frames[1], alone.frames[0], rtol=1e-3, atol=1e-3)
    assert batch.settings[1] == alone.settings[0]


def test_every_input_matters(pipe):
    """None of prompt, negative prompt, both scales, shift and steps is ignored."""
    base = dict(prompt="a", negative_prompt="b", guidance_scale=4.0, guidance_scale_2=3.0, flow_shift=5.0, **SMALL)
    reference = pipe(**base, output_type="latent").frames
    changes = [
        {"prompt": "c"},
        {"negative_prompt": "c"},
        {"guidance_scale": 2.0},
        {"guidance_scale_2": 2.0},
        {"flow_shift": 8.0},
        {"num_inference_steps": 7},
        {"solver": "dpm++"},
        {"sigma_grid": "diffusers"},
    ]
    for change in changes:
        other = pipe(**base | change, output_type="latent").frames
        assert np.linalg.norm(other - reference) > 1e-4 * np.linalg.norm(reference), change


def test_guidance_scale_alone_applies_to_both_experts(pipe):
    alone = pipe("a", guidance_scale=5.0, **SMALL)
    assert alone.settings[0]["guidance_scale_2"] == 5.0
    np.testing.assert_array_equal(alone.frames, pipe("a", guidance_scale=5.0, guidance_scale_2=5.0, **SMALL).frames)
    defaults = pipe("a", **SMALL).settings[0]
    assert (defaults["guidance_scale"], defaults["guidance_scale_2"]) == (4.0, 3.0)


def test_guidance_of_one_is_no_guidance(pipe):
    """A scale of 1 is computed without the negative prompt, and 1.000001 with it: nearly the same."""
    without = pipe("a", guidance_scale=1.0, output_type="latent", **SMALL).frames
    barely = pipe("a", guidance_scale=1.000001, output_type="latent", **SMALL).frames
    np.testing.assert_allclose(without, barely, rtol=1e-3, atol=1e-3)


def test_callback_sees_and_changes_every_step(pipe):
    seen = []

    def look(pipe, step, timestep, tensors):
        seen.append((step, timestep, tensors["latents"].shape))

    watched = pipe("a", callback_on_step_end=look, **SMALL).frames
    np.testing.assert_array_equal(watched, pipe("a", **SMALL).frames)  # step by step is the same program
    assert [step for step, _, _ in seen] == list(range(6)) and seen[0][1] == 999
    assert {shape for _, _, shape in seen} == {(1, 16, 2, 4, 6)}

    def zero_last(pipe, step, timestep, tensors):
        return {"latents": tensors["latents"] * 0} if step == 5 else None

    assert not pipe("a", callback_on_step_end=zero_last, output_type="latent", **SMALL).frames.any()


def test_given_noise(pipe):
    noise = np.random.default_rng(0).standard_normal((1, 16, 2, 4, 6)).astype(np.float32)
    before = noise.copy()
    out = pipe("a", latents=noise, output_type="latent", **SMALL)
    assert out.frames.shape == noise.shape and out.settings[0]["seed"] is None
    np.testing.assert_array_equal(noise, before)


def test_hundred_steps_at_shift_twelve(pipe):
    """The official code stops here: its first two truncated timesteps are equal."""
    options = SMALL | {"num_inference_steps": 100, "flow_shift": 12.0}
    assert np.isfinite(pipe("a", output_type="latent", **options).frames).all()


def test_a_video_is_fitted(pipe, tmp_path):
    """To the model's 16 frames a second, to 4n + 1 of them, and to its area in the video's own shape."""
    clip = np.random.default_rng(0).random((18, 48, 80, 3)).astype(np.float32)
    export_to_video(clip, tmp_path / "clip.mp4", fps=24)  # for which every third frame is left out
    small = dict(num_inference_steps=3, guidance_scale=1.0, output_type="latent")
    made = pipe("a", video=tmp_path / "clip.mp4", **small)
    assert made.frames.shape == (1, 16, 3, 12, 20)
    said = made.settings[0]
    assert (said["num_frames"], said["width"], said["height"], said["strength"]) == (9, 160, 96, 0.8)
    assert len(said["video"]) == 12
    as_frames = np.stack(list(read_video(tmp_path / "clip.mp4")))[[0, 1, 3, 4, 6, 7, 9, 10, 12]]
    with pytest.warns(UserWarning, match="the video of 80x48 is stretched to 64x64"):
        square = pipe("a", video=as_frames, width=64, height=64, **small)
    assert square.settings[0]["video"] == said["video"]
    np.testing.assert_array_equal(pipe("a", video=list(as_frames), **small).frames, made.frames)
    assert np.abs(pipe("a", video=as_frames, **small | {"num_frames": 5}).frames - made.frames[:, :, :2]).max() > 0


def test_settings_travel_in_the_file(pipe, tmp_path):
    out = pipe("一只猫", **SMALL)
    export_to_video(out.frames[0], tmp_path / "a.mp4", metadata=out.settings[0])
    stored = read_metadata(tmp_path / "a.mp4")
    assert stored == out.settings[0]
    assert stored["prompt"] == "一只猫" and stored["model"] == "untrained" and len(stored["checkpoint"]) == 12


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"num_frames": 8}, "num_frames=8 is not 4n\\+1; use 5 or 9"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"height": 40}, "height=40 is not a multiple of 16; use 32 or 48"),
        ({"width": 0}, "width=0"),
        ({"num_inference_steps": 0}, "num_inference_steps=0"),
        ({"solver": "heun"}, "solver='heun' is unknown"),
        ({"sigma_grid": "x"}, "sigma_grid='x' is unknown"),
        ({"flow_shift": -1.0}, "flow_shift=-1.0"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"seed": -1}, "seed=-1"),
        ({"quality": 0.0}, "quality=0.0 must be above 0 and at most 1"),
        ({"quality": float("nan")}, "quality=nan"),
        ({"step_cache": "tea"}, "step_cache='tea' is unknown; use one of magnitude"),
        ({"step_cache": "guidance", "quality": 0.9, "guidance_scale": 1.0}, "step_cache='guidance' skips nothing at"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts do not go with 1 prompts"),
        ({"prompt": []}, "prompt=\\[\\]"),
        ({"latents": np.zeros((1, 16, 2, 4, 4))}, "expected \\[1, 16, 2, 4, 6\\]"),
        ({"image": "cat.png"}, "image: untrained takes no image"),
        ({"video": np.zeros((3, 32, 48, 3), np.uint8)}, "num_frames=5: the video has 3 frames at 16 frames a second"),
        ({"video": "no.mp4"}, "cannot read no.mp4"),
        ({"video": np.zeros((9, 32, 48, 4), np.uint8)}, "video: expected"),
        ({"video": np.zeros((9, 32, 48, 3), np.uint8), "strength": 0.1}, "strength=0.1 .* leave at least one of 6"),
        ({"video": np.zeros((9, 32, 48, 3), np.uint8), "strength": 1.5}, "strength=1.5 must be at most 1"),
        ({"strength": 0.5}, "strength: .* give a video too"),
        ({"output_type": "jpeg"}, "output_type='jpeg'"),
    ],
)
def test_impossible_requests(pipe, wrong, message):
    with pytest.raises(WanError, match=message):
        pipe(**{"prompt": "a", **SMALL} | wrong)


def test_impossible_models(tmp_path):
    with pytest.raises(WanError, match="no such folder, no hub id"):
        WanPipeline.from_pretrained("no_such_model")
    with pytest.raises(WanError, match="empty"):
        WanPipeline.from_pretrained(str(tmp_path))
    with pytest.raises(WanError, match="dtype='int4' is unknown"):
        WanPipeline.from_pretrained("untrained", dtype="int4")
