"""Videos in and out of files, with the settings that made them.

Written files appear whole or not at all, and the same frames and metadata give the same bytes.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import ExifTags, Image

from wan_jax.errors import WanError
from wan_jax.typing import Float, Int, typechecked

DEFAULT_FPS = 16  # Wan's own, but for the 5B model's 24
# Of the files in a folder, these are taken for videos.
SUFFIXES = (".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
_ROUNDING = 1e-3  # seconds: Matroska's clock
_BT709 = 1  # in each of FFmpeg's enumerations: matrix, primaries, transfer
_LIMITED_RANGE = 1
_ROUNDING = 1e-3  # seconds: Matroska's clock
# libswscale's flags for bicubic, interpolated chroma and exact rounding; its default repeats chroma samples (-10 dB).
_SMOOTH = 0x4 | 0x2000 | 0x40000
_X264 = {
    "crf": "17",
    "threads": "8",  # a fixed number: by default it is that of the cores, and changes the file
    "mbtree": "0",  # reads uninitialised memory at some sizes (libx264 165), so that no two files are equal
}
_MP4 = {"movflags": "faststart"}  # the index in front: plays while it loads


@dataclasses.dataclass(frozen=True)
class Video:
    """A video file.  Each iteration decodes it anew, one uint8 frame [h w 3] at a time.

    Raises:
        WanError: while iterating, where the file is damaged or frames change their size.
    """

    path: Path
    fps: float
    height: int
    width: int

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.frames()

    def frames(self, first: int = 0) -> Iterator[np.ndarray]:
        """From the frame of that number on.  Those before are decoded too: not all files can be sought exactly."""
        with _opened(self.path) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number < first:
                    continue
                picture = _upright(frame)
                height, width, _ = picture.shape
                if (height, width) != (self.height, self.width):
                    raise WanError(
                        f"cannot read {self.path}: it changes from {self.width}x{self.height} to {width}x{height} at "
                        f"frame {number}; bring all frames to one size first"
                    )
                yield picture


def read_video(path: str | os.PathLike) -> Video:
    """Opens any video that FFmpeg can decode.

    Raises:
        WanError: the file is missing, damaged or not a video.
    """
    path = Path(path)
    with _opened(path) as container:
        first = next(container.decode(video=0), None)
        if first is None:
            raise WanError(f"cannot read {path}: it holds no frames")
        stream = container.streams.video[0]
        height, width, _ = _upright(first).shape
        return Video(path, float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS), height, width)


def frame_times(path: str | os.PathLike) -> Float[" f"]:
    """When each frame of a video is shown, in seconds.  Nothing is decoded.

    Raises:
        WanError: the file is missing, damaged or cut short.
    """
    path = Path(path)
    with _opened(path) as container:
        stream = container.streams.video[0]
        packets = [(packet.pts, packet.is_discard) for packet in container.demux(stream) if packet.size]
        if len(packets) < stream.frames:
            raise WanError(f"cannot read {path}: cut short: {len(packets)} of {stream.frames} frames")
        shown = [pts for pts, hidden in packets if not hidden]
        if None in shown:  # containers without timestamps have a constant rate
            return np.arange(len(shown)) / float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
        return np.sort(shown) * float(stream.time_base)


@typechecked
def nearest_frames(times: Float[" n"], fps: int | float) -> Int[" m"]:
    """For every tick of a clock that runs while the video does, the frame nearest in time; the earlier of two.

    Args:
        times: when each frame is shown, in seconds.
        fps: ticks in a second.
    """
    times = times - times[0]
    last = np.median(np.diff(times)) if len(times) > 1 else 1 / fps
    ticks = np.arange(max(np.ceil((times[-1] + last - _ROUNDING) * fps), 1)) / fps
    middles = (times[1:] + times[:-1]) / 2
    return np.searchsorted(middles + _ROUNDING, ticks)


def export_to_video(
    frames: Iterable[np.ndarray],
    path: str | os.PathLike,
    fps: float | None = None,
    metadata: dict[str, Any] | None = None,
) -> Path:
    """Writes one video to `path`, whose suffix chooses the format.

    `.mp4` is H.264 that browsers play; `.webp` and `.gif` are animated pictures; no suffix makes a folder of
    `00000.png`, `00001.png`, …  Missing parent folders are created.  Floats become bytes by truncation, as in the
    official code (Wan2.2, wan/utils/utils.py) and in Diffusers.

    Args:
        frames: a video [f h w c], or any iterable of frames [h w c] or of pieces [f h w c]; floats in [0, 1] or uint8.
            From an iterator, `.mp4` files and folders are written in constant memory.
        path: the file or folder to write.  A file is replaced; a folder must be new or empty.
        fps: frames per second; None for the rate that `frames` remembers (`Frames.fps`), else 16.
        metadata: what `read_metadata` shall return, of JSON types.

    Returns:
        `path`, as a `Path`.

    Raises:
        WanError: the suffix is not supported, the place cannot be written, or the frames make no video.
    """
    path = Path(path)
    check_output(path)
    if getattr(frames, "ndim", 4) != 4:
        raise WanError(f"expected one video [f h w 3], not shape {list(frames.shape)}; of a batch, write frames[0]")
    if fps is None:
        fps = getattr(frames, "fps", None) or DEFAULT_FPS
    if not (math.isfinite(fps) and fps > 0):
        raise WanError(f"fps={fps} is not a frame rate")
    settings = json.dumps(metadata, sort_keys=True) if metadata else ""
    with atomic(path) as temporary:
        _FORMATS[path.suffix.lower()](_checked(frames), temporary, fps, settings)
    return path


def join_videos(paths: Sequence[Path], path: str | os.PathLike, metadata: dict[str, Any] | None = None) -> Path:
    """Puts `.mp4` files of `export_to_video`, of one size and rate, one after the other.  Nothing is encoded again.

    The first must be longer than the encoder reorders, a few frames, or be the only one.

    Raises:
        WanError: a file is damaged, they differ, or the place cannot be written.
    """
    path = Path(path)
    with atomic(path) as temporary, av.open(temporary, "w", format="mp4", options=_MP4) as joined:
        joined.metadata["comment"] = json.dumps(metadata, sort_keys=True) if metadata else ""
        stream = None
        number = 0  # of the packet; each holds a frame
        for part in paths:
            with _opened(part) as container:
                source = container.streams.video[0]
                kind = (source.codec_context.extradata, source.time_base)  # the former holds size and rate
                begin = number
                for packet in container.demux(source):
                    if not packet.size:
                        continue
                    if stream is None:
                        stream, first = joined.add_stream_from_template(source), kind
                        tick, delay = round(1 / (source.average_rate * source.time_base)), packet.pts - packet.dts
                    if kind != first:
                        raise WanError(f"cannot join {part} to {paths[0]}: they differ in size, rate or settings")
                    # Short pieces are delayed less when decoded, which would leave a gap.
                    packet.pts, packet.dts, packet.stream = packet.pts + begin * tick, number * tick - delay, stream
                    joined.mux(packet)
                    number += 1
    return path


def check_output(path: str | os.PathLike, size: tuple[int, int] | None = None):
    """Tells before the work whether `export_to_video` can write frames of `size` to `path`; creates the parent folder.

    Raises:
        WanError: the suffix is not supported, it cannot hold frames of (height, width), or the place cannot be written.
    """
    path = Path(path)
    if size and path.suffix.lower() == ".mp4":
        _check_even(*size)
    if path.suffix.lower() not in _FORMATS:
        raise WanError(f"cannot write {path}: use .mp4, .webp or .gif, or no suffix for a folder of .png files")
    with _writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _writing(path):
        if path.suffix and path.is_dir():
            raise WanError(f"cannot write {path}: it is a folder")
        if not path.suffix and path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise WanError(f"cannot write {path}: it exists and is not an empty folder")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise WanError(f"cannot write {path}: no permission to write to {path.parent}")


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """The metadata given to `export_to_video`; {} if there was none or another program wrote the file.

    Raises:
        WanError: the file is missing, damaged or of another format.
    """
    path = Path(path)
    if path.suffix.lower() in (".webp", ".gif"):
        try:
            with Image.open(path) as image:
                exif = image.getexif().get(ExifTags.Base.ImageDescription, "")
                settings = image.info.get("comment", exif)
        except OSError as error:
            raise _unreadable(path, error) from error
    elif path.is_dir():
        file = path / "metadata.json"
        settings = file.read_bytes() if file.exists() else ""
    else:
        with _opened(path) as container:
            settings = container.metadata.get("comment", "")
    try:
        metadata = json.loads(settings)
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Single uint8 frames [h w 3], all of one size; at least one."""
    size = None
    for piece in frames:
        piece = np.asarray(piece)
        if piece.ndim not in (3, 4) or piece.shape[-1] != 3:
            raise WanError(f"expected frames [h w 3] or one video [f h w 3], got a piece of shape {list(piece.shape)}")
        for frame in piece if piece.ndim == 4 else piece[None]:
            size = size or frame.shape
            if frame.shape != size:
                raise WanError(f"frames differ in size: {list(size)} and {list(frame.shape)}")
            yield _to_uint8(frame)
    if size is None:
        raise WanError("there are no frames to write")


def _to_uint8(frame: np.ndarray) -> np.ndarray:
    if frame.dtype == np.uint8:
        return frame
    frame = frame.astype(np.float32)
    if not np.isfinite(frame).all():
        raise WanError("the frames hold NaN or infinite values: the model's output is broken")
    return (np.clip(frame, 0, 1) * 255).astype(np.uint8)


def _write_mp4(frames: Iterator[np.ndarray], path: Path, fps: float, settings: str):
    first = next(frames)
    height, width, _ = first.shape
    _check_even(height, width)
    with av.open(path, "w", format="mp4", options=_MP4) as container:
        container.metadata["comment"] = settings
        stream = container.add_stream("libx264", Fraction(fps).limit_denominator(1001), options=_X264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        codec.color_range = _LIMITED_RANGE
        for frame in itertools.chain([first], frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace=_BT709)))
        container.mux(stream.encode())


def _check_even(height: int, width: int):
    if height % 2 or width % 2:
        raise WanError(f"H.264 needs even sizes, not {width}x{height}; write .webp, or make the frames even")


def _write_webp(frames: Iterator[np.ndarray], path: Path, fps: float, settings: str):
    exif = Image.Exif()
    if settings:
        exif[ExifTags.Base.ImageDescription] = settings
    _write_animation(frames, path, fps, unit=1, quality=90, exif=exif)


def _write_gif(frames: Iterator[np.ndarray], path: Path, fps: float, settings: str):
    _write_animation(frames, path, fps, unit=10, comment=settings.encode("ascii"))


def _write_animation(frames: Iterator[np.ndarray], path: Path, fps: float, unit: int, **options):
    """`unit`: the format's clock tick in ms.  Whole ticks are dealt out so that their sum keeps to `fps`."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    ends = np.round(np.arange(len(others) + 2) * 1000 / (fps * unit)) * unit
    durations = np.diff(ends).astype(int).tolist()
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, **options)


def _write_folder(frames: Iterator[np.ndarray], path: Path, fps: float, settings: str):
    path.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{number:05}.png")
    if settings:
        (path / "metadata.json").write_text(settings)


_FORMATS: dict[str, Callable] = {".mp4": _write_mp4, ".webp": _write_webp, ".gif": _write_gif, "": _write_folder}


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`: renamed to it on success, removed on failure."""
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        with _writing(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise WanError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    try:
        with av.open(path, metadata_errors="replace") as container:  # titles are in any encoding
            if not container.streams.video:
                raise WanError(f"cannot read {path}: it holds no video")
            yield container
    except (OSError, av.FFmpegError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> WanError:
    reason = getattr(error, "strerror", None) or "this is not a video, or it is damaged"
    return WanError(f"cannot read {path}: {reason}")


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """The picture as players show it: phones store it sideways and note the turn (degrees, counter-clockwise)."""
    picture = frame.to_ndarray(format="rgb24", interpolation=_SMOOTH)
    return np.rot90(picture, frame.rotation // 90)
