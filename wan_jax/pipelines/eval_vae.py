"""How well an autoencoder restores a folder of clips, and how fast: means, a table, and a picture to look at."""

import csv
import io
import itertools
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image, ImageOps
from tqdm import tqdm

from wan_jax import sharding
from wan_jax.errors import WanError
from wan_jax.perceptual import fvd as frechet
from wan_jax.perceptual import i3d, lpips
from wan_jax.pipelines.autoencoder import Autoencoder, open_autoencoder, to_unit_range
from wan_jax.pipelines.reconstruct import measure
from wan_jax.pipelines.strips import SHOWN, Strip, draw_strips
from wan_jax.pipelines.vae_files import check_frames, peak_memory_bytes
from wan_jax.typing import Params, UInt8
from wan_jax.video_io import SUFFIXES, Video, atomic, read_video

_SMALLEST = {True: 16, False: 11}  # sides of frames: for LPIPS, and for the window of SSIM alone
_FVD_FRAMES = 16  # of a clip, from its beginning; as is usual
_FVD_CLIPS = 256  # fewer give no number to compare with others'
_STRIPS = 3
_MEANS = ("psnr", "ssim", "lpips", "worst_psnr")


def evaluate_folder(
    src: str | os.PathLike,
    model: str,
    out: str | os.PathLike | None = None,
    max_clips: int | None = None,
    max_frames: int | None = None,
    size: tuple[int, int] | None = None,
    perceptual: bool = True,
    fvd: bool = True,
    dtype: Any = None,
    mesh: Mesh | str | None = None,
) -> dict[str, Any]:
    """Sends every video below a folder through the autoencoder and back, and measures what was lost.

    Args:
        src: the folder.
        model, dtype, mesh: see `open_autoencoder`.
        out: a folder for `metrics.json`, `metrics.csv` (a row a clip) and `strips.png` (the clips of the lowest PSNR);
            None writes nothing.
        max_clips: take only the first so many, by name.
        max_frames: take only the beginning of each.
        size: (width, height) that frames are scaled and cropped to; None leaves them as they are.
        perceptual: measure LPIPS (VGG) and FVD too; their weights are fetched the first time.
        fvd: measure FVD, between the first 16 frames of the clips before and after.

    Returns:
        a dict, as in `metrics.json`:
        `clips`: for each `id` (its path below `src`), `frames`, `width`, `height`, `psnr` (dB, at most 100), `ssim` and
            `lpips`, averaged over frames, `worst_psnr` of a frame, and `per_frame` with lists of all of them;
        `mean`: of these over clips;
        `fvd` and `fvd_clips`, how many it was measured from;
        `encode_fps`, `decode_fps`: frames per second without reading files, from the second clip of a size on;
        `peak_memory_bytes`: of everything, so also of the networks that measure;
        `skipped`: {id: reason} of clips that cannot be read or are too small;
        `notes`: on what the numbers are worth;
        `model`, `dtype`, `src` and `out`.
        What was not measured is None or absent.  All is told about the autoencoder's output before it is rounded.

    Raises:
        WanError: no clip can be read, the model is missing or its output is not finite, or `out` cannot be written.
    """
    src = Path(src)
    ids = _find_videos(src)[: _checked_count(max_clips)]
    check_frames(max_frames)
    least = _SMALLEST[perceptual]
    if size and min(size) < least:
        raise WanError(f"frames of {size[0]}x{size[1]} cannot be measured, only {least}x{least} up")
    if out is not None:
        _make_folder(Path(out))
    coder = open_autoencoder(model, dtype, mesh)
    judge = lpips.load("vgg") if perceptual else None
    enough = len(ids) > 1 and (max_frames is None or max_frames >= i3d.MIN_FRAMES)
    eyes = i3d.load() if perceptual and fvd and enough else None

    clips, skipped, strips, features = [], {}, [], []
    speed, known = Counter(), set()
    for name in tqdm(ids, unit="clip"):
        try:
            video = read_video(src / name)
            width, height = size or (video.width, video.height)
            if min(width, height) < least:
                raise WanError(f"frames of {width}x{height} cannot be measured, only {least}x{least} up")
            seen = _watch(coder, judge, _frames(video, size, max_frames), height, width)
        except WanError as error:
            skipped[name] = str(error)
            continue
        clips.append(_entry(name, seen, height, width))
        # One frame alone is a program of its own, so it warms up no other.
        kind = (height, width, seen.count > 1)
        if kind in known:
            speed.update(seen.seconds | {"frames": seen.count})
        known.add(kind)
        if eyes is not None and seen.count >= i3d.MIN_FRAMES:
            features.append(
                [frechet.features(eyes, 2 * np.stack(frames)[None] - 1)[0] for frames in zip(*seen.opening)]
            )
        seen.strip.title = f"{name}: PSNR {clips[-1]['psnr']:.2f} dB, frames {', '.join(map(str, seen.shown))}"
        strips = sorted([*strips, (clips[-1]["psnr"], seen.strip)], key=lambda entry: entry[0])[:_STRIPS]
    if not clips:
        raise WanError(f"--src {src}: none of {len(ids)} videos can be measured; {skipped[ids[0]]}")

    report = {
        "model": model,
        "dtype": coder.vae.dtype.name,
        "src": str(src),
        "out": None if out is None else str(out),
        "mean": {key: float(np.mean([clip[key] for clip in clips])) for key in _MEANS if key in clips[0]},
        "fvd": frechet.frechet_distance(*map(np.stack, zip(*features))) if len(features) > 1 else None,
        "fvd_clips": len(features),
        "encode_fps": speed["frames"] / speed["encode"] if speed else None,
        "decode_fps": speed["frames"] / speed["decode"] if speed else None,
        "peak_memory_bytes": peak_memory_bytes(coder.mesh),
        "skipped": skipped,
    }
    report["notes"] = _notes(report, perceptual and fvd)
    report["clips"] = clips
    if out is not None:
        _write(Path(out) / "metrics.json", json.dumps(report, ensure_ascii=False, indent=1).encode())
        _write(Path(out) / "metrics.csv", _csv(clips).encode())
        _write(Path(out) / "strips.png", draw_strips([strip for _, strip in strips]))
    return report


def table(report: dict[str, Any]) -> str:
    """What `python -m wan_jax eval-vae` prints."""
    rows = [*report["clips"], {"id": "mean"} | report["mean"]]
    wide = max(len(row["id"]) for row in rows)
    lines = [f"{'clip':<{wide}}  frames       size  PSNR dB   worst    SSIM   LPIPS"]
    for row in rows:
        size = f"{row['width']}x{row['height']}" if "width" in row else ""
        distance = f"{row['lpips']:.4f}" if "lpips" in row else "-"
        lines.append(
            f"{row['id']:<{wide}}  {row.get('frames', ''):>6}  {size:>9}  {row['psnr']:>7.2f}  "
            f"{row['worst_psnr']:>6.2f}  {row['ssim']:>6.4f}  {distance:>6}"
        )
    totals = [f"peak memory {report['peak_memory_bytes'] / 2**30:.2f} GiB"]
    if report["encode_fps"] is not None:
        totals.insert(0, "encoding {encode_fps:.1f} and decoding {decode_fps:.1f} frames/s".format(**report))
    if report["fvd"] is not None:
        totals.insert(0, "FVD {fvd:.2f} of {fvd_clips} clips".format(**report))
    lines += ["", ", ".join(totals)]
    lines += [f"skipped {name}: {reason}" for name, reason in report["skipped"].items()]
    lines += [f"note: {note}" for note in report["notes"]]
    return "\n".join(lines)


@dataclass
class _Seen:
    """What is kept of a clip.

    Attributes:
        per_frame: {metric: value} of each.
        seconds: of "encode" and "decode".
        opening: the first frames in [0, 1] before and after.
        shown: numbers of the frames in `strip`.
    """

    per_frame: list[dict[str, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    opening: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    strip: Strip = field(default_factory=Strip)

    @property
    def count(self) -> int:
        return len(self.per_frame)


def _watch(
    coder: Autoencoder, judge: Params | None, frames: Iterator[UInt8["h w 3"]], height: int, width: int
) -> _Seen:
    """Streams a clip through: what is in memory does not grow with its length."""
    seen, clock = _Seen(), Counter()
    encoded, original = itertools.tee(_timed(frames, clock, "read"))
    latents = (piece[None] for piece in _timed(coder.encode(encoded), clock, "encode"))
    for chunk in _timed(coder.decode(latents), clock, "decode"):
        after = sharding.to_host(to_unit_range(chunk[0, :, :height, :width]))
        # Frames that were added to fill the last latent have no original.
        for x, y in zip(itertools.islice(original, len(after)), after):
            x, number = x / np.float32(255), seen.count
            found = measure(judge, "vgg", x[None], y[None])
            seen.per_frame.append({name: value.item() for name, value in found.items()})
            if not math.isfinite(seen.per_frame[-1]["psnr"]):
                return seen  # which `_entry` refuses
            if number < _FVD_FRAMES:
                seen.opening.append((x, y))
            if number in SHOWN:
                seen.shown.append(number)
                seen.strip.add(x, y)
    # Decoding pulls latents, and encoding pulls frames: each time holds the one before.
    seen.seconds = {"encode": clock["encode"] - clock["read"], "decode": clock["decode"] - clock["encode"]}
    return seen


def _timed(items: Iterable[Any], clock: Counter, name: str) -> Iterator[Any]:
    """The same items; adds to `clock` the seconds that making them takes."""
    items = iter(items)
    while True:
        begun = time.monotonic()
        item = jax.block_until_ready(next(items, None))
        clock[name] += time.monotonic() - begun
        if item is None:
            return
        yield item


def _entry(name: str, seen: _Seen, height: int, width: int) -> dict[str, Any]:
    """What the report says of a clip.

    Raises:
        WanError: the autoencoder's output is not finite.
    """
    per_frame = {key: [values[key] for values in seen.per_frame] for key in seen.per_frame[0]}
    means = {key: float(np.mean(values)) for key, values in per_frame.items()}
    if not all(map(math.isfinite, means.values())):
        raise WanError(f"{name} was decoded to NaN or infinite values: the model is broken, or needs --dtype float32")
    about = {"id": name, "frames": seen.count, "width": width, "height": height}
    return about | means | {"worst_psnr": min(per_frame["psnr"]), "per_frame": per_frame}


def _notes(report: dict[str, Any], fvd_wanted: bool) -> list[str]:
    count, notes = report["fvd_clips"], []
    if fvd_wanted and report["fvd"] is None:
        notes.append(f"no FVD: it needs 2 clips of {i3d.MIN_FRAMES} frames or more, and there are {count}")
    elif fvd_wanted and count < _FVD_CLIPS:
        notes.append(f"FVD of {count} clips is biased upward: compare it only with that of the same clips")
    if report["encode_fps"] is None:
        notes.append("no frames/s: the first clip of each size is not counted, and there was no second; try --size")
    return notes


def _find_videos(src: Path) -> list[str]:
    """Paths below the folder, with slashes, in order."""
    if not src.is_dir():
        raise WanError(f"--src {src}: no such folder")
    ids = sorted(path.relative_to(src).as_posix() for path in src.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not ids:
        raise WanError(f"--src {src} holds no videos")
    return ids


def _checked_count(max_clips: int | None) -> int | None:
    if max_clips is not None and max_clips < 1:
        raise WanError(f"max_clips={max_clips} must be at least 1")
    return max_clips


def _frames(video: Video, size: tuple[int, int] | None, max_frames: int | None) -> Iterator[UInt8["h w 3"]]:
    for frame in itertools.islice(video, max_frames):
        yield np.asarray(ImageOps.fit(Image.fromarray(frame), size, Image.Resampling.BICUBIC)) if size else frame


def _csv(clips: list[dict[str, Any]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, [key for key in clips[0] if key != "per_frame"], extrasaction="ignore")
    writer.writeheader()
    writer.writerows(clips)
    return file.getvalue()


def _make_folder(out: Path):
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WanError(f"cannot write to {out}: {error.strerror}") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise WanError(f"cannot write to {out}: no permission")


def _write(path: Path, data: bytes):
    """All of the file or nothing."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)
