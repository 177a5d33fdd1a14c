"""A VACE model with random weights: every way to say what is kept or painted, and every way to say it wrong."""

import dataclasses
import json
import math
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from tests.compare import relative_error
from tests.convert import tiny
from wan_jax import WanError, WanPipeline, cli, editing, export_to_video, lora, lora_files
from wan_jax.images import size_within_area
from wan_jax.models.dit import abstract_params
from wan_jax.sharding import as_mesh
from wan_jax.video_io import read_metadata

SMALL = dict(height=32, width=48, num_frames=5, num_inference_steps=2)
MODEL = dataclasses.replace(
    tiny.CONFIG,
    transformer=dataclasses.replace(tiny.CONFIG.transformer, vace_layers=(0, 2)),
    boundary_ratio=None,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("vace") / "model", config=MODEL)


@pytest.fixture(scope="module")
def pipe(folder):
    pipe = WanPipeline.from_pretrained(folder, dtype="float32")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pictures(count: int, height: int = 32, width: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(count, height, width, 3), dtype=np.uint8)


VIDEO = pictures(5)
MASK = np.zeros((5, 32, 48), bool)
MASK[:, 4:20, 8:40] = True


def test_every_input_matters(pipe):
    shown = dict(video=VIDEO, mask=MASK, reference_images=[VIDEO[0], VIDEO[1]])
    before = pipe("a", **SMALL, **shown, output_type="latent").frames
    changes = [
        {"video": VIDEO[::-1]},
        {"mask": ~MASK},
        {"reference_images": [VIDEO[1], VIDEO[0]]},
        {"conditioning_scale": 0.5},
        {"conditioning_scale": [1.0, 0.5]},
    ]
    for change in changes:
        other = pipe("a", **SMALL, **shown | change, output_type="latent").frames
        assert np.linalg.norm(other - before) > 1e-4 * np.linalg.norm(before), change


def test_the_same_task_in_other_words(pipe, tmp_path):
    """Files, pictures and arrays; first and last frames as F and M; one mask for all frames."""
    lossless = tmp_path / "video"
    export_to_video(VIDEO, lossless)
    masks = [Image.fromarray(np.uint8(255) * x) for x in MASK]
    masks[0].save(tmp_path / "mask.png")
    expected = pipe("a", **SMALL, video=VIDEO, mask=MASK).frames
    for video, mask in [
        ([Image.fromarray(x) for x in VIDEO], masks),
        (sorted(lossless.glob("*.png")), tmp_path / "mask.png"),
        (VIDEO, MASK[:1]),
        (VIDEO.astype(np.float32) / np.float32(255), MASK.astype(np.float32)),
    ]:
        np.testing.assert_array_equal(pipe("a", **SMALL, video=video, mask=mask).frames, expected)
    ends = editing.first_last(VIDEO[0], VIDEO[4], 5)
    expected = pipe("a", **SMALL, image=VIDEO[0], last_image=VIDEO[4]).frames
    np.testing.assert_array_equal(pipe("a", **SMALL, video=ends.frames, mask=ends.mask).frames, expected)


def test_references_are_cut_off_and_batches_share_them(pipe):
    out = pipe(["a dog", "一只猫"], **SMALL, reference_images=VIDEO[0], output_type="latent")
    assert out.frames.shape == (2, 16, 3, 4, 6)
    alone = pipe("一只猫", **SMALL, seed=1, reference_images=[VIDEO[0]], output_type="latent")
    np.testing.assert_allclose(out.frames[1], alone.frames[0], rtol=1e-3, atol=1e-3)
    video = pipe("一只猫", **SMALL, seed=1, reference_images=[VIDEO[0]])
    assert video.frames.shape == (1, 5, 32, 48, 3)
    rest = np.moveaxis(alone.frames, 1, -1)[:, 1:]
    np.testing.assert_array_equal(video.frames, pipe.decode(rest))
    assert len(video.settings[0]["reference_images"]) == 1 and video.settings[0]["conditioning_scale"] == [1.0, 1.0]


def test_sizes_and_lengths_follow_the_video(pipe, monkeypatch):
    small = dataclasses.replace(MODEL.sampling, height=32, width=48, num_frames=9)
    monkeypatch.setattr(pipe, "config", dataclasses.replace(pipe.config, sampling=small))
    assert pipe("a", video=pictures(7, 60, 90), num_inference_steps=1).frames.shape == (1, 5, 32, 48, 3)
    assert pipe("a", image=pictures(1, 18, 90)[0], num_inference_steps=1).frames.shape == (1, 9, 16, 80, 3)
    with pytest.warns(UserWarning, match="what is given, 16x90, is cropped to the shape of 48x32"):
        pipe("a", image=pictures(1, 90, 16)[0], height=32, width=48, num_inference_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe("a", image=pictures(1, 65, 96)[0], height=32, width=48, num_inference_steps=1)


@pytest.mark.parametrize("mesh", ["data=2,context=4", "fsdp=2,tensor=2", "context=5"])
def test_meshes_agree(folder, pipe, mesh):
    """Hints and context, on tokens that the devices do not divide."""
    shown = dict(video=VIDEO, mask=MASK, reference_images=VIDEO[0], output_type="latent")
    devices = jax.devices("cpu")[: math.prod(int(part[-1]) for part in mesh.split(","))]
    other = WanPipeline.from_pretrained(folder, dtype="float32", mesh=as_mesh(mesh, devices))
    other.set_progress_bar_config(disable=True)
    assert relative_error(other("a", **SMALL, **shown).frames, pipe("a", **SMALL, **shown).frames) <= 1e-5


def test_low_rank_updates_of_context_blocks(tmp_path):
    """Under the names of the original blocks, and back."""
    config = lora.LoraConfig(rank=2, alpha=2.0, targets="vace/blocks/self_attn/q|blocks/ffn_in|vace/blocks/after_proj")
    shapes = lora.init(config, abstract_params(MODEL.transformer), jax.random.key(0))
    assert set(shapes) == {"vace", "blocks"} and set(shapes["vace"]["blocks"]) == {"self_attn", "after_proj"}
    update = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), shapes)
    lora_files.save(tmp_path / "lora.safetensors", update, config, MODEL.transformer, {})
    names = safetensors.numpy.load_file(tmp_path / "lora.safetensors")
    assert "diffusion_model.vace_blocks.1.after_proj.lora_A.weight" in names
    jax.tree.map(
        np.testing.assert_array_equal, lora_files.load(tmp_path / "lora.safetensors", MODEL.transformer), update
    )


@pytest.mark.parametrize("size", [(480, 832), (720, 1280), (1080, 1920), (1920, 1080), (333, 500), (40, 30)])
def test_official_size(size):
    """Written out: units of 16 pixels, no more than the video has or the area holds."""
    units = min(480 * 832 // 256, (size[0] // 16) * (size[1] // 16))
    rows = round(np.sqrt(units * (size[0] / size[1])))
    assert size_within_area(*size, 480 * 832, 16) == (rows * 16, int(units / rows) * 16)


def test_pictures_of_all_kinds(pipe, tmp_path):
    """Turned as their camera says; on white where they are transparent."""
    picture = pictures(1)[0]
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.rot90(picture)).save(tmp_path / "turned.png", exif=turned)
    expected = pipe("a", **SMALL, reference_images=[picture]).settings[0]["reference_images"]
    assert pipe("a", **SMALL, reference_images=[tmp_path / "turned.png"]).settings[0]["reference_images"] == expected
    clear = np.dstack([picture, np.where(MASK[0], 255, 0).astype(np.uint8)])
    white = np.where(MASK[0][..., None], picture, 255).astype(np.uint8)
    shown = [Image.fromarray(clear, "RGBA") if x else Image.fromarray(white) for x in (True, False)]
    first, second = (pipe("a", **SMALL, reference_images=x).settings[0]["reference_images"] for x in shown)
    assert first == second


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"mask": MASK}, "mask: it says which part of a video is generated; give the video too"),
        ({"video": VIDEO, "image": VIDEO[0]}, "image and last_image are frames of the video, and so is video="),
        ({"video": VIDEO, "mask": MASK[:3]}, "mask: it has 3 frames and the video 5; give as many, or a single one"),
        ({"video": VIDEO, "mask": MASK[:, :16]}, "mask: it is 48x16 and the video 48x32; give one of the same shape"),
        ({"video": VIDEO[:3]}, "video: it has 3 frames, which do not make num_frames=5"),
        ({"video": VIDEO[0]}, "video: expected a file, pictures or an array"),
        ({"video": []}, "video: there are no frames"),
        ({"video": [VIDEO[0], VIDEO[0, :8]]}, "video: frames differ in size: 48x8, 48x32"),
        ({"video": VIDEO * 2.0}, "floats between 0 and 1"),
        ({"video": "missing.mp4"}, "missing.mp4"),
        ({"reference_images": list(VIDEO[:4])}, "reference_images: these are 4, and the models know at most 3"),
        ({"reference_images": ["missing.png"]}, "reference_images, number 1: cannot read missing.png"),
        ({"conditioning_scale": [1.0]}, "must be a number, or one for each of the 2 context blocks"),
        ({"conditioning_scale": float("nan")}, "conditioning_scale=nan"),
        ({"strength": 0.5}, "strength: custom keeps of a video what mask says"),
    ],
)
def test_impossible_requests(pipe, wrong, message):
    with pytest.raises(WanError, match=message):
        pipe(**{"prompt": "a", **SMALL} | wrong)


def test_animations_are_no_pictures(pipe, tmp_path):
    export_to_video(VIDEO, tmp_path / "a.gif")
    with pytest.raises(WanError, match=r"image: .*a\.gif is animated \(5 frames\); give a single picture"):
        pipe("a", **SMALL, image=tmp_path / "a.gif")


def test_other_models_take_none_of_it():
    other = WanPipeline.from_pretrained("untrained", dtype="float32")
    for name, value in [("mask", MASK), ("reference_images", VIDEO[0]), ("conditioning_scale", 2.0)]:
        with pytest.raises(WanError, match=f"{name}: untrained takes no {name}"):
            other("a", **SMALL, **{name: value})


# ---- The command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_to_video(pictures(12, 64, 96), "clip.mp4", fps=16)
    Image.fromarray(np.uint8(255) * MASK[0]).save("mask.png")
    Image.fromarray(VIDEO[0]).save("cat.png")


COMMAND = ["generate", "--prompt", "a", "--size", "48x32", "--steps", "1", "--json"]


@pytest.mark.parametrize(
    "flags, task, kept",
    [
        ([], "from text", 0),
        (["--image", "cat.png", "--last-image", "cat.png"], "from the first and the last frame", 2 / 5),
        (["--video", "clip.mp4", "--mask", "mask.png"], "inpainting", 2 / 3),
        (["--video", "clip.mp4", "--box", "16,8,64,32"], "inpainting", 2 / 3),
        (["--video", "clip.mp4", "--box", "0,0,96,64"], "inpainting", 0),
        (["--video", "clip.mp4", "--extend", "4"], "4 frames after 1", 1 / 5),
        (["--video", "clip.mp4", "--extend", "2before"], "2 frames before 3", 3 / 5),
        (["--video", "clip.mp4", "--extend", "2", "--join", "clip.mp4"], "2 frames between 2 and 1", 3 / 5),
        (["--video", "clip.mp4", "--extend", "1", "--join", "cat.png"], "1 frames between 3 and 1", 4 / 5),
        (["--video", "clip.mp4", "--outpaint", "96,0,0,0"], "outpainting", 1 / 2),
        (["--video", "clip.mp4", "--control", "pose", "--reference", "cat.png"], "pose to video, with 1 reference", 0),
        (["--video", "clip.mp4", "--control", "grey", "--mask", "mask.png"], "recolouring", 2 / 3),
    ],
)
def test_tasks_are_inferred(folder, files, capsys, monkeypatch, flags, task, kept):
    """Each is told in a line, and keeps the share of the pixels that it should."""
    from wan_jax.pipelines import vace

    seen, real = [], vace.context_frames
    monkeypatch.setattr(vace, "context_frames", lambda *args: seen.append(args[1]) or real(*args))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cli.main([*COMMAND, "--model", str(folder), "--frames", "5", *flags])
    captured = capsys.readouterr()
    assert f"task: {task}\n" in captured.err
    assert json.loads(captured.out)["settings"]["num_frames"] == 5
    assert seen[0].frames.shape == (5, 32, 48, 3)
    assert 1 - seen[0].mask.mean() == pytest.approx(kept, abs=0.02)


def test_repeating_needs_the_same_clips(folder, files, capsys):
    given = ["--model", str(folder), "--frames", "5", "--video", "clip.mp4", "--box", "16,8,64,32"]
    cli.main([*COMMAND, *given, "--reference", "cat.png", "--conditioning-scale", "1,0.5", "--out", "a.mp4"])
    stored = read_metadata("a.mp4")
    assert stored["conditioning_scale"] == [1.0, 0.5]
    assert len(stored["video"]) == len(stored["mask"]) == 12 and len(stored["reference_images"]) == 1
    cli.main(["generate", "--from", "a.mp4", *given[4:], "--reference", "cat.png", "--out", "b.mp4"])
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["generate", "--from", "a.mp4", *given[4:], "--out", "c.mp4"])
    assert "it was made with --reference of digest" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--mask", "mask.png"], "--mask is about a video: give --video too"),
        (
            ["--video", "clip.mp4", "--mask", "mask.png", "--box", "0,0,8,8"],
            "--mask and --box both say what is generated",
        ),
        (["--video", "clip.mp4", "--image", "cat.png"], "--image and --last-image are frames of the video"),
        (["--video", "clip.mp4", "--box", "1,2,3"], "--box '1,2,3' is not X,Y,W,H in pixels"),
        (["--video", "clip.mp4", "--box", "90,0,20,8"], "box 90,0,20,8 does not lie in frames of 96x64"),
        (["--video", "clip.mp4", "--extend", "4sideways"], "--extend '4sideways' is not N, Nbefore or Nafter"),
        (["--video", "clip.mp4", "--extend", "9", "--frames", "9"], "of 9 frames none is left for the video"),
        (["--video", "clip.mp4", "--join", "clip.mp4"], "--join: say how many frames lie between the videos"),
        (["--video", "cat.png", "--extend", "1", "--join", "cat.png"], "--join have 1 and 1 frames, 4 are wanted"),
        (["--video", "clip.mp4", "--frames", "17"], "--video has 12 frames, 17 are wanted"),
        (["--video", "clip.mp4", "--outpaint", "1,2,x,4"], "--outpaint '1,2,x,4' is not L,T,R,B in pixels"),
        (["--video", "clip.mp4", "--control", "colour"], "--control 'colour' is unknown; use one of grey, depth"),
        (["--video", "clip.mp4", "--control", "pose", "--extend", "4"], "--control says how all is generated"),
        (["--video", "clip.mp4", "--grow", "4"], "--grow widens a --mask or --box: give one"),
        (["--video", "cat.png"], "--video has 1 frames, 5 are wanted"),
        (["--conditioning-scale", "a"], "--conditioning-scale 'a' is not S or S,S,… of numbers"),
        (["--reference", "cat.png"] * 4, "these are 4, and the models know at most 3"),
    ],
)
def test_mistakes_are_one_line(folder, files, capsys, flags, message):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*COMMAND, "--model", str(folder), "--frames", "5", *flags])
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("task: ")]
    assert stopped.value.code == 2 and captured.out == ""
    assert message in lines[0] and lines[0].startswith("error: ") and len(lines) == 1


def test_flags_of_another_model(files, capsys):
    with pytest.raises(SystemExit):
        cli.main([*COMMAND, "--model", "untrained", "--mask", "mask.png"])
    assert "--mask: untrained takes no mask; use a VACE model" in capsys.readouterr().err
