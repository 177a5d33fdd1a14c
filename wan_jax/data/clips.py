"""Which videos a folder holds and what is said about them, in the layouts that people have.

    metadata.csv, .json or .jsonl   one entry a clip: the video's path under one of the names in `VIDEO`, and its
                                    caption under one of those in `CAPTION`
    cat.mp4 beside cat.txt          a text file of the same name holds the caption

The same clips give the same list, whatever the layout.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wan_jax.errors import WanError
from wan_jax.video_io import SUFFIXES

VIDEO = ("video", "video_path", "file_name", "path")
CAPTION = ("prompt", "caption", "text", "cap")
_METADATA = (".csv", ".json", ".jsonl")


@dataclass(frozen=True, order=True)
class Clip:
    """A captioned video.  `id` is its path below the source folder, with slashes."""

    id: str
    caption: str


def find_clips(src: Path) -> tuple[list[Clip], dict[str, str]]:
    """The clips below a folder by id, and why others were left out: {id: reason}.

    Raises:
        WanError: there is no such folder, no video or no caption in it, or its metadata cannot be read.
    """
    if not src.is_dir():
        raise WanError(f"--src {src}: no such folder")
    metadata = _metadata_file(src)
    captions: dict[str, str] = {}
    for name, caption in _beside(src) if metadata is None else _listed(src, metadata):
        if name in captions:
            raise WanError(f"{metadata} lists {name} twice")
        captions[name] = caption.strip()
    if not captions:
        raise WanError(f"--src {src} holds no videos")
    if not any(captions.values()):
        raise WanError(
            f"--src {src} holds no captions: add metadata.csv with columns video,prompt, or a .txt beside each video"
        )
    clips = sorted(Clip(name, caption) for name, caption in captions.items() if caption)
    return clips, {name: "no caption in UTF-8" for name, caption in sorted(captions.items()) if not caption}


def _metadata_file(src: Path) -> Path | None:
    """The one that is called metadata, or the only one."""
    found = sorted(path for path in src.iterdir() if path.suffix.lower() in _METADATA)
    named = [path for path in found if path.stem == "metadata"] or found
    if len(named) > 1:
        raise WanError(f"--src {src} holds {named[0].name} and {named[1].name}: leave one of them, or add metadata.csv")
    return named[0] if named else None


def _beside(src: Path) -> Iterator[tuple[str, str]]:
    for path in src.rglob("*"):
        if path.suffix.lower() in SUFFIXES:
            name = path.relative_to(src).as_posix()
            # A name that is no Unicode cannot be stored: so changed, it is listed as a file that is not there.
            yield os.fsencode(name).decode(errors="replace"), _text(path.with_suffix(".txt"))


def _text(path: Path) -> str:
    """Nothing where there is no file, or none in UTF-8."""
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeError):
        return ""


def _listed(src: Path, metadata: Path) -> Iterator[tuple[str, str]]:
    for number, entry in enumerate(_entries(metadata), 1):
        video = _value(entry, VIDEO)
        if not video:
            raise WanError(f"{metadata}, entry {number}: no video; name it under {' or '.join(VIDEO)}")
        # Without following links: a dataset may be a folder of them.
        name = Path(os.path.relpath(os.path.join(src, video), src)).as_posix()
        if name.split("/")[0] == "..":
            raise WanError(f"{metadata}, entry {number}: {video} is outside of {src}; name a folder around both")
        yield name, _value(entry, CAPTION) or ""


def _entries(metadata: Path) -> Iterable[dict]:
    try:
        text = metadata.read_text("utf-8-sig")
        if metadata.suffix.lower() == ".csv":
            return list(csv.DictReader(io.StringIO(text, newline="")))
        if metadata.suffix.lower() == ".jsonl":
            entries = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            entries = json.loads(text)
    except (OSError, ValueError, csv.Error) as error:
        raise WanError(f"{metadata} cannot be read: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise WanError(f"{metadata}: expected a list of objects with video and prompt")
    return entries


def _value(entry: dict, names: tuple[str, ...]) -> str | None:
    return next((entry[name] for name in names if isinstance(entry.get(name), str)), None)
