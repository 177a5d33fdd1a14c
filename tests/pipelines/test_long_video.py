"""Videos of several segments: what each is shown, seams, going on after a kill, and what cannot be continued."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.convert import tiny
from tests.pipelines.test_vace import MODEL
from wan_jax import WanError, WanPipeline, cli
from wan_jax.pipelines.long_video import long_video, overlap_of, write_long_video
from wan_jax.video_io import read_metadata, read_video

SMALL = dict(height=32, width=48, num_frames=13, num_inference_steps=2, guidance_scale=1.0)
PROMPTS = ["a", "b", "b"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("vace") / "model", config=MODEL)


@pytest.fixture(scope="module")
def pipe(folder):
    return quiet(WanPipeline.from_pretrained(folder, dtype="float32"))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_segment_is_shown_the_last_frames_of_the_one_before(pipe):
    """Each equals a call of its own with those frames kept, but for the fade."""
    one, two, three = long_video(pipe, PROMPTS, overlap=5, seed=3, **SMALL)
    assert [len(x.frames) for x in (one, two, three)] == [8, 8, 8] and len(three.tail) == 5
    video, mask = np.full((13, 32, 48, 3), 0.5, np.float32), np.ones((13, 32, 48), bool)
    video[:5], mask[:5] = one.tail / np.float32(255), False
    again = pipe("b", video=video, mask=mask, seed=4, **SMALL).frames[0]
    np.testing.assert_array_equal(two.tail, (np.asarray(again) * 255).astype(np.uint8)[-5:])
    np.testing.assert_array_equal(two.frames[5:], (np.asarray(again) * 255).astype(np.uint8)[5:8])
    faded = two.frames[:5].astype(float)
    ends = one.tail.astype(float), np.asarray(again[:5]) * 255
    share = (np.arange(5) + 1)[:, None, None, None] / 6
    assert np.abs(faded - ((1 - share) * ends[0] + share * ends[1])).max() < 1.01


def test_from_image_to_video_goes_on_from_the_last_frame(tmp_path):
    channels = dataclasses.replace(tiny.CONFIG.transformer, in_channels=36)
    config = dataclasses.replace(tiny.CONFIG, transformer=channels, boundary_ratio=None)
    pipe = quiet(WanPipeline.from_pretrained(tiny.write_model(tmp_path / "i2v", config=config), dtype="float32"))
    first = np.random.default_rng(0).integers(256, size=(32, 48, 3), dtype=np.uint8)
    one, two = long_video(pipe, ["a", "b"], image=first, **SMALL)
    again = pipe("b", image=one.tail[0], seed=1, **SMALL).frames[0]
    np.testing.assert_array_equal(two.frames[1:], (np.asarray(again) * 255).astype(np.uint8)[1:-1])
    with pytest.raises(WanError, match=r"overlap=5: .* the last frame alone"):
        overlap_of(config, 5, 13)


def test_killed_and_gone_on_with(pipe, folder, tmp_path):
    """The file is that of a run which was not killed, byte for byte; other settings are refused."""
    whole = tmp_path / "whole.mp4"
    write_long_video(pipe, whole, PROMPTS, 5, **SMALL)
    assert len(list(read_video(whole))) == 3 * 13 - 2 * 5 and read_metadata(whole)["then"] == ["b", "b"]
    killed = tmp_path / "killed.mp4"
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from tests.pipelines.test_long_video import *\n"
        "from wan_jax.pipelines.segments import SegmentedVideo\n"
        "append = SegmentedVideo.append\n"
        "def deadly(self, *args, **kept):\n"
        "    if self.count == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    append(self, *args, **kept)\n"
        "SegmentedVideo.append = deadly\n"
        f"pipe = quiet(WanPipeline.from_pretrained({str(folder)!r}, dtype='float32'))\n"
        f"write_long_video(pipe, Path({str(killed)!r}), PROMPTS, 5, **SMALL)\n"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -signal.SIGKILL
    part = tmp_path / "killed.mp4.part"
    assert sorted(x.name for x in part.iterdir()) == ["000000.mp4", "000000.npy", "settings.json"]
    with pytest.raises(WanError, match=r"begun with then .* or begin anew with --restart"):
        write_long_video(pipe, killed, ["a", "c", "b"], 5, **SMALL)
    write_long_video(pipe, killed, PROMPTS, 5, **SMALL)
    assert killed.read_bytes() == whole.read_bytes() and not part.exists()


def test_command_line(folder, tmp_path):
    """A repeated video is the same; a sheet shows some of it."""
    flags = [
        "--model",
        str(folder),
        "--size",
        "48x32",
        "--frames",
        "13",
        "--steps",
        "1",
        "--guidance",
        "1",
        "--overlap",
        "5",
    ]
    out, again, sheet = (str(tmp_path / name) for name in ("out.mp4", "again.mp4", "sheet.png"))
    cli.main(["generate", "--prompt", "a", "--then", "b", "--segments", "3", *flags, "--out", out, "--sheet", sheet])
    assert len(list(read_video(out))) == 3 * 13 - 2 * 5 and Path(sheet).stat().st_size > 0
    cli.main(["generate", "--from", out, "--out", again])
    assert Path(again).read_bytes() == Path(out).read_bytes()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "untrained", "--then", "b"], "untrained cannot continue a video: use a VACE model"),
        (["--then", "b", "--overlap", "4"], "overlap=4 must be 4n + 1, and at most half of the 13 frames"),
        (["--then", "b", "--segments", "1"], "--segments 1 are fewer than the 2 prompts"),
        (["--then", "b", "--out", "a.webp"], "cannot write a.webp: videos of several segments go to an .mp4 file"),
    ],
)
def test_mistakes(folder, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = [] if "--model" in arguments else ["--model", str(folder)]
    small = ["--size", "48x32", "--frames", "13", "--steps", "1"]
    with pytest.raises(SystemExit):
        cli.main(["generate", "--prompt", "a", *model, *small, *arguments])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
