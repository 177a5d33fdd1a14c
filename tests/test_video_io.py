"""Videos to files and back."""

import itertools
import json
import os
import struct
import subprocess
import sys
import weakref

import av
import numpy as np
import pytest
from PIL import Image

from wan_jax.errors import WanError
from wan_jax.frames import Frames
from wan_jax.video_io import check_output, export_to_video, frame_times, join_videos, read_metadata, read_video

FORMATS = ["out.mp4", "out.webp", "out.gif", "out"]
METADATA = {"prompt": "猫 & \"dog\" — 'bird'", "seed": 7, "guidance_scale": [4.0, 3.0], "negative_prompt": "x" * 900}


def clip(frames=9, height=48, width=64) -> np.ndarray:
    """A smooth moving colour pattern, float32 [f h w 3] in [0, 1]."""
    t, y, x = np.mgrid[:frames, :height, :width].astype(np.float32)
    waves = [np.sin(x / 29 + t / 9), np.sin(y / 27 - t / 8), np.cos((x + y) / 31 + t / 7)]
    return np.stack(waves, -1) / 2 + 0.5


def pictures(path):
    """Every frame [h w 3] of any of our formats, with the time each is shown in ms."""
    if path.suffix == ".mp4":
        video = read_video(path)
        return np.stack(list(video)), None
    if not path.suffix:
        return np.stack([np.asarray(Image.open(file)) for file in sorted(path.glob("*.png"))]), None
    with Image.open(path) as image:
        frames, times = [], []
        for i in range(image.n_frames):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")))
            times.append(image.info["duration"])
    return np.stack(frames), times


def psnr(a, b):
    return -10 * np.log10(np.mean((a / 255.0 - b / 255.0) ** 2) + 1e-12)


@pytest.mark.parametrize("name, floor", [("out.mp4", 43), ("out.webp", 38), ("out.gif", 30), ("out", 50)])
def test_round_trip(tmp_path, name, floor):
    frames = clip()
    path = export_to_video(frames, tmp_path / "new" / name, fps=12, metadata=METADATA)
    back, _ = pictures(path)
    assert back.shape == frames.shape and psnr(back, frames * 255) > floor
    assert read_metadata(path) == METADATA
    assert [p.name for p in path.parent.iterdir()] == [name]  # no temporary files are left


@pytest.mark.parametrize("colour", [(200, 30, 40), (20, 220, 30), (10, 20, 240), (255, 255, 255), (0, 0, 0)])
def test_mp4_keeps_colours(tmp_path, colour):
    """The matrix that the file names is the one it was made with."""
    path = export_to_video(np.full((3, 32, 32, 3), colour, np.uint8), tmp_path / "a.mp4")
    with av.open(path) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range, frame.format.name) == (1, 1, "yuv420p")
    np.testing.assert_allclose(next(iter(read_video(path)))[16, 16], colour, atol=3)


def test_mp4_plays_while_it_loads(tmp_path):
    content = export_to_video(clip(), tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_floats_are_truncated(tmp_path):
    values = np.array([-0.5, 0.0, 0.9999 / 255, 1.0001 / 255, 0.5, 254.99 / 255, 1.0, 2.0], np.float32)
    path = export_to_video(np.broadcast_to(values[None, None, :, None], (1, 1, 8, 3)), tmp_path / "png")
    assert pictures(path)[0][0, 0, :, 0].tolist() == [0, 0, 0, 1, 127, 254, 255, 255]
    levels = np.arange(256, dtype=np.float32)[None, None, :, None] / 255
    path = export_to_video(np.broadcast_to(levels, (1, 1, 256, 3)), tmp_path / "levels")
    assert pictures(path)[0][0, 0, :, 0].tolist() == list(range(256))


@pytest.mark.parametrize("name", FORMATS)
def test_same_input_same_bytes(tmp_path, name):
    def content(folder):
        path = export_to_video(clip(), tmp_path / folder / name, metadata=METADATA)
        return [p.read_bytes() for p in (sorted(path.iterdir()) if path.is_dir() else [path])]

    assert content("a") == content("b")


def test_mp4_does_not_depend_on_memory(tmp_path):
    """glibc fills fresh memory with the given byte: what is read before it is written shows in the file."""
    code = (
        "import sys; from tests.test_video_io import clip; from wan_jax.video_io import export_to_video;"
        "export_to_video(clip(), sys.argv[1])"
    )
    files = [tmp_path / f"{byte}.mp4" for byte in (85, 170, 255)]
    for file in files:
        subprocess.run([sys.executable, "-c", code, file], check=True, env=os.environ | {"MALLOC_PERTURB_": file.stem})
    assert len({file.read_bytes() for file in files}) == 1


def test_all_kinds_of_input_are_the_same_video(tmp_path):
    frames = (clip() * 255).astype(np.uint8)
    reference = export_to_video(frames, tmp_path / "array.mp4").read_bytes()
    inputs = {
        "list": list(frames),
        "pieces": iter([frames[:1], frames[1:5], frames[5:]]),
        "pictures": [Image.fromarray(frame) for frame in frames],
        "floats": Frames(frames / 255),
    }
    for name, video in inputs.items():
        assert export_to_video(video, tmp_path / f"{name}.mp4").read_bytes() == reference, name


@pytest.mark.parametrize("name", ["out.mp4", "out"])
def test_pieces_are_not_kept(tmp_path, name):
    """A long video streams to its file: at no time are more than a few pieces alive."""
    references, most = [], 0

    def pieces():
        nonlocal most
        for _ in range(20):
            piece = (clip(4) * 255).astype(np.uint8)
            references.append(weakref.ref(piece))
            most = max(most, sum(reference() is not None for reference in references))
            yield piece

    export_to_video(pieces(), tmp_path / name)
    assert most <= 3


def test_frames_remember_their_rate(tmp_path):
    frames = Frames(clip(5)[None], fps=24)
    assert frames.dtype == np.float32 and frames[0].fps == frames[0][1:].fps == 24 and np.flip(frames, 1).fps == 24
    assert read_video(export_to_video(frames[0], tmp_path / "own.mp4")).fps == 24
    assert read_video(export_to_video(frames[0], tmp_path / "given.mp4", fps=10)).fps == 10
    assert read_video(export_to_video(clip(5), tmp_path / "default.mp4")).fps == 16
    assert Frames(clip(2)).fps is None


@pytest.mark.parametrize("fps", [1, 16, 23.976, 24, 30000 / 1001, 60])
def test_rates(tmp_path, fps):
    video = read_video(export_to_video(clip(7), tmp_path / "a.mp4", fps=fps))
    assert video.fps == pytest.approx(fps, rel=1e-5) and len(list(video)) == 7


@pytest.mark.parametrize("name, tick", [("a.webp", 1), ("a.gif", 10)])
def test_rates_of_animations(tmp_path, name, tick):
    """16 frames per second is 62.5 ms: whole ticks that add up to the true length."""
    _, times = pictures(export_to_video(clip(16), tmp_path / name, fps=16))
    assert sum(times) == 1000 and set(times) <= ({62, 63} if tick == 1 else {60, 70})


@pytest.mark.parametrize("fps, cuts", [(16, [0, 13, 15, 38, 40]), (30000 / 1001, [0, 20, 39, 40]), (24, [0, 1])])
def test_joined_pieces_play_as_one(tmp_path, fps, cuts):
    """Also pieces of a frame or two, which the encoder orders otherwise."""
    frames = clip(cuts[-1])
    paths = [export_to_video(frames[a:b], tmp_path / f"{a}.mp4", fps) for a, b in itertools.pairwise(cuts)]
    joined = join_videos(paths, tmp_path / "all.mp4", METADATA)
    alone = np.concatenate([pictures(path)[0] for path in paths])
    np.testing.assert_array_equal(pictures(joined)[0], alone)
    np.testing.assert_allclose(frame_times(joined), np.arange(len(frames)) / fps, atol=1e-4)
    assert read_video(joined).fps == pytest.approx(fps, rel=1e-6) and read_metadata(joined) == METADATA
    other = export_to_video(clip(3, 32, 32), tmp_path / "other.mp4", fps)
    with pytest.raises(WanError, match=r"cannot join .*other\.mp4"):
        join_videos([paths[0], other], tmp_path / "none.mp4")
    assert not (tmp_path / "none.mp4").exists()


def test_read_video(tmp_path):
    path = export_to_video(clip(9, 48, 64), tmp_path / "a.mp4", fps=8)
    video = read_video(path)
    assert (video.fps, video.height, video.width) == (8, 48, 64)
    first, second = list(video), list(video)  # it can be read twice
    assert len(first) == len(second) == 9 and first[0].dtype == np.uint8 and first[0].shape == (48, 64, 3)
    single = read_video(export_to_video(clip(1), tmp_path / "single.mp4", fps=8))
    assert single.fps == 8 and len(list(single)) == 1


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_video_is_read_upright(tmp_path, turns):
    """A phone's matrix in the track header, here for `turns` quarter turns clockwise, is followed."""
    frames = (clip(3, 32, 64) * 255).astype(np.uint8)
    path = export_to_video(frames, tmp_path / "a.mp4")
    one, w = 1 << 16, 1 << 30
    identity = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, w)
    cosine, sine = [(one, 0), (0, one), (-one, 0), (0, -one)][turns]
    content = path.read_bytes()
    start = content.index(identity, content.index(b"tkhd"))
    turned = struct.pack(">9i", cosine, sine, 0, -sine, cosine, 0, 0, 0, w)
    path.write_bytes(content[:start] + turned + content[start + len(turned) :])
    video = read_video(path)
    expected = np.rot90(frames[0], -turns)
    assert (video.height, video.width) == expected.shape[:2]
    assert psnr(next(iter(video)), expected) > 35


def test_metadata_of_others(tmp_path):
    for name in FORMATS:
        assert read_metadata(export_to_video(clip(), tmp_path / name)) == {}
    with av.open(str(tmp_path / "other.mp4"), "w") as container:
        container.metadata["comment"] = "made elsewhere"
        stream = container.add_stream("libx264", 8)
        stream.width = stream.height = 16
        container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(stream.encode())
    assert read_metadata(tmp_path / "other.mp4") == {}


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_left_after_a_failure(tmp_path, name):
    def broken():
        yield from clip(5)
        raise RuntimeError("out of memory")

    old = tmp_path / name
    if old.suffix:
        old.write_text("the old file")
    with pytest.raises(RuntimeError, match="out of memory"):
        export_to_video(broken(), old)
    assert [p.read_text() for p in tmp_path.iterdir()] == (["the old file"] if old.suffix else [])


def test_a_file_is_replaced_and_a_folder_is_not(tmp_path):
    for _ in range(2):
        export_to_video(clip(), tmp_path / "a.mp4")
    (tmp_path / "empty").mkdir()
    export_to_video(clip(), tmp_path / "empty")
    with pytest.raises(WanError, match="empty: it exists and is not an empty folder"):
        export_to_video(clip(), tmp_path / "empty")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(WanError, match=r"folder\.mp4: it is a folder"):
        export_to_video(clip(), tmp_path / "folder.mp4")


def test_bad_places_are_refused_before_the_work(tmp_path):
    def frames():
        raise AssertionError("the generator was started")
        yield

    (tmp_path / "file").touch()
    for name, message in [
        ("out.avi", r"use \.mp4, \.webp or \.gif, or no suffix"),
        ("file/out.mp4", "cannot write .*file: "),
        ("file", "it exists"),
    ]:
        with pytest.raises(WanError, match=message) as info:
            export_to_video(frames(), tmp_path / name)
        assert "\n" not in str(info.value) and str(tmp_path) in str(info.value)
    with pytest.raises(WanError, match="/proc/nowhere"):
        check_output("/proc/nowhere/out.mp4")


@pytest.mark.parametrize(
    "frames, message",
    [
        (clip(3, 48, 63), "63x48"),
        (clip(3)[None], r"one video .* frames\[0\]"),
        (clip(3)[0], "shape"),
        (clip(3)[..., :1], "shape"),
        ([], "no frames"),
        ([clip(1, 32, 32)[0], clip(1, 32, 48)[0]], "differ in size"),
        (np.full((2, 16, 16, 3), np.nan), "NaN"),
    ],
)
def test_frames_that_make_no_video(tmp_path, frames, message):
    with pytest.raises(WanError, match=message):
        export_to_video(frames, tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_bad_rate(tmp_path, fps):
    with pytest.raises(WanError, match="frame rate"):
        export_to_video(clip(), tmp_path / "a.mp4", fps=fps)


@pytest.mark.parametrize("read", [read_video, read_metadata])
def test_unreadable_files(tmp_path, read):
    files = {"text.mp4": b"hello", "empty.mp4": b"", "text.webp": b"hello", "cut.gif": b"GIF89a"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in ["missing.mp4", *files]:
        with pytest.raises(WanError, match=f"cannot read .*{name}: ") as info:
            read(tmp_path / name)
        assert "\n" not in str(info.value)


def test_damaged_inside(tmp_path):
    """Where the index is whole but frames are missing, reading fails while iterating; before it, at once."""
    path = export_to_video(clip(60, 128, 128), tmp_path / "a.mp4")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    video = read_video(path)
    with pytest.raises(WanError, match=r"cannot read .*a\.mp4"):
        list(video)
    path.write_bytes(whole[: whole.index(b"mdat")])
    with pytest.raises(WanError, match=r"cannot read .*a\.mp4"):
        read_video(path)


def test_metadata_file_of_a_folder(tmp_path):
    path = export_to_video(clip(2), tmp_path / "out", metadata=METADATA)
    assert json.loads((path / "metadata.json").read_text()) == METADATA
    assert sorted(p.name for p in path.iterdir()) == ["00000.png", "00001.png", "metadata.json"]
