"""Where clips come from: folders of videos, datasets of frames that `data build` made of such, the little world."""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from etils import epath
from tqdm import tqdm

from wan_jax.data import shards
from wan_jax.data.buckets import Bucket, check_lengths, check_sizes, longest_fitting, nearest_size, sizes_of_area
from wan_jax.data.clips import Clip, find_clips
from wan_jax.data.contents import Record
from wan_jax.data.loader import Dataset
from wan_jax.data.worlds import PREFIX, World
from wan_jax.errors import WanError

DEFAULT_AREA, DEFAULT_FPS, DEFAULT_FRAMES, DEFAULT_VALIDATION = "832x480", 16.0, (81,), 0.01


class Source(Protocol):
    """Clips, each of which belongs to one split: `train_832x480x81`, `validation_480x832x81`, …"""

    fps: float

    def identity(self) -> dict[str, Any]:
        """What the records depend on, in JSON types."""

    def split(self) -> tuple[dict[str, list], dict[str, str]]:
        """The items of every split, in order and of JSON types, and why clips were left out: {id: reason}."""

    def read(self, split: str, item: Any) -> Record | tuple[str, str]:
        """A clip; or, of one that cannot be read, id and reason."""


@dataclass(frozen=True)
class VideoFolder:
    """Videos and captions in a folder; see `wan_jax.data.clips`.

    Attributes:
        src: the folder.
        fps: frames per second.
        sizes: (width, height) that clips may have.
        lengths: numbers of frames that they may have.
        validation: so many clips, or if a float this share of them, are held out.
    """

    src: Path
    fps: float = DEFAULT_FPS
    sizes: Sequence[tuple[int, int]] = ()
    lengths: Sequence[int] = DEFAULT_FRAMES
    validation: int | float = DEFAULT_VALIDATION

    def __post_init__(self):
        check_sizes(self.sizes)
        check_lengths(self.lengths)
        if not 0 < self.fps < math.inf:
            raise WanError(f"fps={self.fps} is not a frame rate, such as 16")
        if not 0 <= self.validation < math.inf:
            raise WanError(f"validation={self.validation} is no number of clips, and no share of them, such as 0.01")
        _ = self._found  # a mistake should show before a model is fetched

    def identity(self) -> dict[str, Any]:
        clips, _ = self._found
        listing = [(clip.id, clip.caption, self._bytes(clip)) for clip in clips]
        return {
            "src": _digest(listing),
            "fps": self.fps,
            "sizes": [f"{width}x{height}" for width, height in sorted(self.sizes)],
            "frames": sorted(self.lengths),
            "validation": self.validation,
        }

    def split(self) -> tuple[dict[str, list], dict[str, str]]:
        clips, left_out = self._found
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            buckets = list(tqdm(pool.map(self._bucket, clips), "measure", len(clips), unit="clip"))
        usable = {clip: bucket for clip, bucket in zip(clips, buckets) if isinstance(bucket, Bucket)}
        unusable = {clip.id: reason for clip, reason in zip(clips, buckets) if clip not in usable}
        held_out = self._held_out(list(usable))
        items: dict[str, list] = {}
        for clip, bucket in usable.items():
            part = "validation" if clip in held_out else "train"
            items.setdefault(f"{part}_{bucket}", []).append([clip.id, clip.caption])
        return items, left_out | unusable

    def read(self, split: str, item: list[str]) -> Record | tuple[str, str]:
        from wan_jax.data.videos import read_clip  # here: encoding a dataset of frames needs no PyAV

        id, caption = item
        try:
            return Record(id, caption, read_clip(self.src / id, self.fps, bucket_of(split)))
        except WanError as error:
            return id, self._reason(id, error)

    @cached_property
    def _found(self) -> tuple[list[Clip], dict[str, str]]:
        return find_clips(self.src)

    def _bytes(self, clip: Clip) -> int | None:
        path = self.src / clip.id
        return path.stat().st_size if path.is_file() else None

    def _bucket(self, clip: Clip) -> Bucket | str:
        """Where a clip belongs, or why nowhere."""
        from wan_jax.data.videos import measure

        try:
            width, height, count = measure(self.src / clip.id, self.fps)
            return Bucket(*nearest_size(width, height, self.sizes), longest_fitting(count, self.lengths))
        except WanError as error:
            return self._reason(clip.id, error)

    def _reason(self, id: str, error: WanError) -> str:
        return str(error).removeprefix(f"cannot read {self.src / id}: ")

    def _held_out(self, clips: list[Clip]) -> set[Clip]:
        """Chosen by the digests of their ids, so that a clip more or less changes little."""
        wanted = self.validation
        count = wanted if isinstance(wanted, int) else round(wanted * len(clips))
        if clips and count >= len(clips):
            raise WanError(f"--validation {wanted} of {len(clips)} clips leaves none to train on")
        return set(sorted(clips, key=lambda clip: hashlib.sha256(clip.id.encode()).digest())[:count])


class FrameDataset:
    """A dataset of frames, whose splits are kept."""

    def __init__(self, folder: epath.PathLike):
        self._dataset = Dataset(folder)
        self.fps = self._dataset.config["fps"]
        if self._dataset.config["contents"] != "frames":
            raise WanError(f"--src {folder} holds latents already; name a folder of videos, or a dataset of frames")
        self._sources = {split: self._dataset.source(split) for split in self._counts()}

    def identity(self) -> dict[str, Any]:
        return {"src": _digest(self._dataset.config)}

    def split(self) -> tuple[dict[str, list], dict[str, str]]:
        return {name: list(range(count)) for name, count in self._counts().items()}, self._dataset.config["skipped"]

    def read(self, split: str, item: int) -> Record:
        record = self._sources[split][item]
        return Record(record["id"].decode(), record["caption"].decode(), record["frames"])

    def _counts(self) -> dict[str, int]:
        return {name: entry["clips"] for name, entry in self._dataset.config["splits"].items() if entry["clips"]}


class Mix:
    """Several sources as one; clips of the same size and length end up together."""

    def __init__(self, sources: Sequence[Source]):
        """Raises a WanError if their frame rates differ."""
        self._sources = sources
        self.fps = sources[0].fps
        if len(rates := {source.fps for source in sources}) > 1:
            raise WanError(f"--src: clips of {' and '.join(map(str, sorted(rates)))} frames/s cannot be mixed")

    def identity(self) -> dict[str, Any]:
        return {"src": _digest([source.identity() for source in self._sources])}

    def split(self) -> tuple[dict[str, list], dict[str, str]]:
        items: dict[str, list] = {}
        skipped: dict[str, str] = {}
        for number, source in enumerate(self._sources):
            found, left_out = source.split()
            for split, some in found.items():
                items.setdefault(split, []).extend([number, item] for item in some)
            skipped |= left_out
        return items, skipped

    def read(self, split: str, item: list) -> Record | tuple[str, str]:
        number, rest = item
        return self._sources[number].read(split, rest)


def open_sources(srcs: Sequence[str], **options) -> Source:
    """One source, or several mixed; the options are those of `open_source`.

    Raises:
        WanError: one of them is none, or they do not go together.
    """
    sources = [open_source(src, **options) for src in srcs]
    return sources[0] if len(sources) == 1 else Mix(sources)


def open_source(
    src: str,
    fps: float | None = None,
    area: tuple[int, int] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    lengths: Sequence[int] | None = None,
    validation: int | float | None = None,
) -> Source:
    """A folder of videos to be cut as told, None being the default; a dataset of frames, which is cut already; or
    `world:COUNT[:SEED]`, clips that are rendered in one size and length.

    Raises:
        WanError: it is none of these, or the options make no sense for it.
    """
    options = {"fps": fps, "area": area, "size": sizes, "frames": lengths, "validation": validation}
    given = [name for name, value in options.items() if value is not None]
    if (epath.Path(src) / shards.CONFIG).exists():
        if given:
            raise WanError(f"--{given[0]}: {src} is a dataset of frames, which are cut already; leave it out")
        return FrameDataset(src)
    if src.startswith(PREFIX):
        return _world(src, options)
    if area and sizes:
        raise WanError("--area and --size both say which sizes to make: give one of them")
    default_area = tuple(map(int, DEFAULT_AREA.split("x")))
    return VideoFolder(
        Path(src).expanduser(),
        DEFAULT_FPS if fps is None else fps,
        sizes or sizes_of_area(*(area or default_area)),
        lengths or DEFAULT_FRAMES,
        DEFAULT_VALIDATION if validation is None else validation,
    )


def _world(src: str, options: dict[str, Any]) -> World:
    for name in ("fps", "area"):
        if options[name] is not None:
            raise WanError(f"--{name}: {src} has its own; leave it out")
    chosen = {}
    if (sizes := options["size"]) is not None:
        check_sizes(sizes)
        if len(sizes) != 1 or sizes[0][0] != sizes[0][1]:
            raise WanError(f"--size: {src} makes clips of one size, as high as wide, such as 128x128")
        chosen["side"] = sizes[0][0]
    if (lengths := options["frames"]) is not None:
        check_lengths(lengths)
        if len(lengths) != 1:
            raise WanError(f"--frames: {src} makes clips of one length, such as 33")
        chosen["frames"] = lengths[0]
    if options["validation"] is not None:
        chosen["validation"] = options["validation"]
    return World.parse(src, **chosen)


def bucket_of(split: str) -> Bucket:
    """The size of the clips in `train_832x480x81`."""
    return Bucket.parse(split.partition("_")[2])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
