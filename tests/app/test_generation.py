"""Videos are made step by step, and found again in their folder with what made them."""

import os

import numpy as np
import pytest
from PIL import Image

from wan_jax.app import history
from wan_jax.app.explorer import Explorer
from wan_jax.app.generation import (
    EXTEND,
    FRAMES,
    INPAINT,
    REFERENCES,
    RESTYLE,
    TEXT,
    Progress,
    Wish,
    arguments,
    generate,
    tasks_of,
)
from wan_jax.cli.generate import stored_settings
from wan_jax.config import get_config
from wan_jax.errors import WanError
from wan_jax.pipelines.loading import read_config
from wan_jax.video_io import export_to_video, read_video

SMALL = {"size": "48x32", "frames": 5, "options": {"num_inference_steps": 3, "seed": 4, "guidance_scale": 3}}


@pytest.fixture(scope="module")
def explorer(tmp_path_factory) -> Explorer:
    return Explorer.open("untrained", tmp_path_factory.mktemp("videos"))


def test_newest_first_and_only_ours(tmp_path):
    frames = np.zeros((5, 32, 48, 3), np.uint8)
    frames[2] = 200
    for age, name in enumerate(("new", "old", "older")):
        path = export_to_video(frames, tmp_path / f"{name}.mp4", metadata={"prompt": name})
        os.utime(path, (1e9 - age, 1e9 - age))
    export_to_video(frames, tmp_path / "foreign.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / ".half-written.mp4").write_bytes(b"")
    assert [path.stem for path in history.videos(tmp_path)] == ["new", "old", "older"]
    assert history.poster(tmp_path / "new.mp4").mean() == pytest.approx(200, abs=5)


def test_history_is_not_endless(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "MOST", 2)
    for number in range(3):
        export_to_video(np.zeros((1, 32, 32, 3)), tmp_path / f"{number}.mp4", metadata={"prompt": "x"})
        os.utime(tmp_path / f"{number}.mp4", (number, number))
    assert [path.stem for path in history.videos(tmp_path)] == ["2", "1"]


def test_generate_shows_every_step_and_stores_its_settings(explorer):
    seen: list[Progress] = []
    path, settings = generate(explorer, Wish(prompt="红色的球", **SMALL), seen.append)
    steps = [at for at in seen if at.preview is not None]
    assert [round(at.done, 3) for at in steps] == [0.333, 0.667, 1.0]
    assert all(at.preview.shape == (2, 4, 6, 3) for at in steps)
    assert steps[0].said.startswith("Step 1 of 3, high-noise expert") and "low-noise" in steps[-1].said
    assert history.videos(explorer.folder)[0] == path
    assert stored_settings(path) == settings
    assert (settings["prompt"], settings["seed"], settings["task"]) == ("红色的球", 4, TEXT)
    assert history.missing(settings) == []
    video = read_video(path)
    assert (video.width, video.height, len(list(video))) == (48, 32, 5)


def test_cancelled_after_the_step_at_hand(explorer):
    before, steps = history.videos(explorer.folder), []

    def report(at: Progress):
        if at.preview is not None:
            steps.append(at)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        generate(explorer, Wish(prompt="a ball", **SMALL), report)
    assert len(steps) == 1
    assert history.videos(explorer.folder) == before


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"prompt": " "}, "The prompt is empty"),
        ({"size": "big"}, "Size 'big' is not WIDTHxHEIGHT"),
        ({"size": "50x32"}, "width=50"),
        ({"task": RESTYLE}, "no source video"),
        ({"task": RESTYLE, "source": __file__}, "cannot read"),
    ],
)
def test_impossible_wishes(explorer, changes, said):
    with pytest.raises(WanError, match=said):
        generate(explorer, Wish(**{"prompt": "a ball", **SMALL} | changes), lambda at: None)


def test_only_what_a_model_can_do():
    assert tasks_of(read_config("wan_mini")) == [TEXT, FRAMES, INPAINT, EXTEND]
    assert tasks_of(get_config("wan21_vace_1_3b")) == [TEXT, FRAMES, INPAINT, EXTEND, REFERENCES]
    assert tasks_of(get_config("wan22_t2v_a14b")) == [TEXT, RESTYLE]
    assert tasks_of(get_config("wan22_i2v_a14b")) == [FRAMES]
    assert tasks_of(get_config("wan22_ti2v_5b")) == [TEXT, FRAMES, RESTYLE]


def test_pictures_must_be_given_again():
    assert history.missing({"prompt": "x", "image": "0f3", "mask": None, "video": "a1"}) == [
        "the first frame",
        "the source video",
    ]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    frames = np.random.default_rng(0).integers(0, 255, (33, 128, 128, 3), np.uint8)
    return str(export_to_video(frames, tmp_path_factory.mktemp("clip") / "clip.mp4"))


def test_inpainting_by_a_mask(clip, tmp_path):
    """What was left in fields of other tasks does not count."""
    mask = Image.new("L", (128, 128))
    mask.paste(255, (16, 32, 80, 80))
    mask.save(path := tmp_path / "mask.png")
    wish = Wish(prompt="a ball", task=INPAINT, source=clip, mask=str(path), image="left.png", added=9)
    asked = arguments(read_config("wan_mini"), wish)
    assert "image" not in asked and asked["video"].shape == (33, 128, 128, 3)
    assert asked["mask"].sum() == 33 * 64 * 48
    assert asked["mask"][:, 32:80, 16:80].all()


@pytest.mark.parametrize("before", [False, True])
def test_extension(clip, before):
    wish = Wish(prompt="a ball", task=EXTEND, source=clip, added=16, before=before)
    mask = arguments(read_config("wan_mini"), wish)["mask"]
    added = mask.reshape(33, -1).all(axis=1)
    assert list(np.flatnonzero(added)) == list(range(16) if before else range(17, 33))
    assert not mask[~added].any()


def test_frames_and_restyling(clip):
    first = arguments(read_config("wan_mini"), Wish(prompt="a ball", task=FRAMES, last_image="end.png", source=clip))
    assert first["last_image"] == "end.png" and first.get("video") is None
    again = arguments(get_config("wan22_t2v_a14b"), Wish(prompt="snow", task=RESTYLE, source=clip, strength=0.5))
    assert again["video"] == clip and again["strength"] == 0.5
