"""Folders of videos in the layouts that people have."""

import json
import os

import pytest

from tests.data.made import CAPTIONS, LAYOUTS
from wan_jax.data.clips import Clip, find_clips
from wan_jax.errors import WanError


@pytest.fixture
def src(tmp_path):
    """Only the names matter here."""
    for name in CAPTIONS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_says_the_same(src, layout):
    LAYOUTS[layout](src)
    clips, left_out = find_clips(src)
    assert clips == sorted(Clip(name, text.strip()) for name, text in CAPTIONS.items() if text.strip())
    assert list(left_out) == ["silent.mp4"]


def test_only_what_has_a_caption(src):
    (src / "b.txt").write_bytes("\ufeffwith a mark".encode())
    (src / "e.txt").write_bytes("café".encode("latin-1"))
    clips, left_out = find_clips(src)
    assert clips == [Clip("b.mp4", "with a mark")]
    assert left_out == dict.fromkeys(sorted(set(CAPTIONS) - {"b.mp4"}), "no caption in UTF-8")


def test_metadata_without_some_values(src):
    entries = [
        {"video": "b.mp4"},
        {"path": "./a/../e.mp4", "cap": "e"},
        {"video": "g.mp4", "prompt": None, "text": "g"},
    ]
    (src / "metadata.json").write_text(json.dumps(entries))
    (src / "other.json").write_text("[]")  # the one called metadata counts
    assert find_clips(src) == ([Clip("e.mp4", "e"), Clip("g.mp4", "g")], {"b.mp4": "no caption in UTF-8"})


def test_a_name_that_is_no_unicode(src):
    os.close(os.open(os.fsencode(src) + b"/\xff.mp4", os.O_CREAT))
    (src / "b.txt").write_text("b")
    assert "\ufffd.mp4" in find_clips(src)[1]


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "holds no captions: add metadata.csv with columns video,prompt, or a .txt"),
        ({"x.json": "[]", "y.csv": ""}, "holds x.json and y.csv: leave one of them"),
        ({"metadata.json": "[]"}, "holds no videos"),
        ({"metadata.json": "["}, "metadata.json cannot be read: "),
        ({"metadata.json": '{"video": "b.mp4"}'}, "expected a list of objects with video and prompt"),
        ({"metadata.jsonl": "[1]\n"}, "expected a list of objects with video and prompt"),
        ({"metadata.csv": "clip;prompt\nb.mp4;b\n"}, "entry 1: no video; name it under video or video_path"),
        ({"metadata.csv": "video,prompt\nb.mp4,b\n,c\n"}, "entry 2: no video"),
        ({"metadata.csv": "video,prompt\nb.mp4,b\n./b.mp4,c\n"}, "lists b.mp4 twice"),
        ({"metadata.csv": "video,prompt\n../b.mp4,b\n"}, r"../b.mp4 is outside of"),
        ({"metadata.csv": "video,prompt\n..,b\n"}, r"entry 1: .. is outside of"),
    ],
)
def test_what_cannot_be_used(src, files, message):
    for name, content in files.items():
        (src / name).write_text(content)
    with pytest.raises(WanError) as raised:
        find_clips(src)
    assert message in str(raised.value)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(WanError, match="no such folder"):
        find_clips(tmp_path / "nowhere")
    with pytest.raises(WanError, match="holds no videos"):
        find_clips(tmp_path)
    (tmp_path / "metadata.csv").write_bytes(b"video,prompt\n\xff.mp4,b\n")
    with pytest.raises(WanError, match="cannot be read"):
        find_clips(tmp_path)
