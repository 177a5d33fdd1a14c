"""Videos whose frames tell their number, folders of them in every layout, and datasets that need no model."""

import csv
import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from etils import epath

from wan_jax.data import shards
from wan_jax.data.buckets import Bucket
from wan_jax.data.contents import _tensor
from wan_jax.video_io import export_to_video

STEP = 5  # grey levels between a frame and the next: encoding changes less than half of it


def numbered(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None] * STEP, (count, height, width, 3))


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames of `numbered` these are."""
    return np.rint(frames.mean((1, 2, 3)) / STEP).astype(int).tolist()


def write_timed(path: Path, times_ms: Sequence[int]):
    """A numbered video whose frames are shown at given times."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 1000, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for picture, time in zip(numbered(len(times_ms)), times_ms):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


CAPTIONS = {
    "a/红球.mp4": "一个红球滚过草地",
    "b.mp4": 'two, "three"\nand four',
    "c c.mkv": "été",
    "d.mp4": "d " * 300,  # as long as the text encoder takes
    "e.mp4": "e",
    "f.webm.mp4": "f",
    "g.mp4": "g",
    "zero.mp4": "z",
    "text.mp4": "t",
    "cut.mp4": "c",
    "short.mp4": "s",
    "silent.mp4": " ",
}
REASONS = {
    "zero.mp4": "Invalid data found",
    "text.mp4": "Invalid data found",
    "cut.mp4": "cut short",
    "short.mp4": "too short: 4 frames of 5",
    "silent.mp4": "no caption",
}
GOOD = sorted(set(CAPTIONS) - set(REASONS))


def write_videos(folder: Path):
    """The videos that `CAPTIONS` speaks of."""
    for name, count, fps in [
        ("a/红球.mp4", 16, 24),  # 10.7 frames at 16 a second
        ("b.mp4", 9, 16),
        ("d.mp4", 10, 30),
        ("e.mp4", 9, 16),
        ("f.webm.mp4", 20, 30),
        ("g.mp4", 5, 16),
        ("short.mp4", 4, 16),
        ("silent.mp4", 9, 16),
    ]:
        export_to_video(numbered(count), folder / name, fps=fps)
    write_timed(folder / "c c.mkv", np.cumsum([0, *[30, 90] * 6]).tolist())
    (folder / "zero.mp4").touch()
    (folder / "text.mp4").write_text("not a video")
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)
    whole = export_to_video(noise, folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])


def _csv(folder: Path):
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerows([("video", "prompt"), *CAPTIONS.items()])


def _entries(video: str, caption: str) -> list[dict[str, str]]:
    return [{video: name, caption: text} for name, text in reversed(CAPTIONS.items())]


def _lines(entries: list[dict[str, str]]) -> str:
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def _json(folder: Path):
    (folder / "metadata.json").write_text(json.dumps(_entries("video", "prompt")))


def _jsonl(folder: Path):
    (folder / "metadata.jsonl").write_text(_lines(_entries("video", "prompt")))


def _musubi(folder: Path):
    """Of another name, and with absolute paths."""
    entries = [entry | {"video_path": str(folder / entry["video_path"])} for entry in _entries("video_path", "caption")]
    (folder / "train.jsonl").write_text(_lines(entries))


def _beside(folder: Path):
    for name, caption in CAPTIONS.items():
        (folder / name).with_suffix(".txt").write_text(caption + "\n")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "csv": _csv,
    "json": _json,
    "jsonl": _jsonl,
    "musubi": _musubi,
    "beside": _beside,
}


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Clips of each split of `write_dataset`.
COUNTS = {"train_16x32x9": 5, "train_32x16x5": 7, "validation_16x32x9": 2, "validation_32x16x5": 3}
TEXT_WIDTH = 8


def latents_of(split: str, i: int) -> np.ndarray:
    bucket = Bucket.parse(split.partition("_")[2])
    shape = ((bucket.frames - 1) // 4 + 1, bucket.height // 8, bucket.width // 8, 16)
    return np.random.default_rng([len(split), bucket.width, i]).standard_normal(shape).astype(np.float16)


def states_of(split: str, i: int) -> np.ndarray:
    """As many as the caption has words."""
    return np.full((i + 1, TEXT_WIDTH), i + 1, np.float16)


def write_dataset(folder: Path, text: bool = True, contents: str = "latents") -> Path:
    """A dataset such as `data build` makes, in two shards a split."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True)
    features = {"latents": _tensor((None, None, None, 16), np.float16)}
    if text:
        features["text"] = _tensor((None, TEXT_WIDTH), np.float16)
        shards.write_no_text(folder, np.full((1, TEXT_WIDTH), -1, np.float16))
    features, sizes, splits = shards.all_features(features), {}, {}
    for split, count in COUNTS.items():
        for index, items in enumerate(np.array_split(range(count), 2)):
            path = folder / shards.shard_name(split, index, 2)
            records = [
                {"id": f"{split}/{i}", "caption": "字 " * (i + 1), "latents": latents_of(split, i)}
                | ({"text": states_of(split, i)} if text else {})
                for i in items.tolist()
            ]
            shards.write_shard(path, features, records)
            sizes.setdefault(split, []).append((len(records), path.stat().length))
        bucket = Bucket.parse(split.partition("_")[2])
        splits[split] = {"width": bucket.width, "height": bucket.height, "frames": bucket.frames, "clips": count}
    shards.write_metadata(folder, features, sizes)
    config = {
        "format": shards.FORMAT,
        "contents": contents,
        "text": text,
        "text_len": 512,
        "fps": 16.0,
        "splits": splits,
        "skipped": {},
    }
    shards.write_json(folder / shards.CONFIG, config)
    return Path(folder)
