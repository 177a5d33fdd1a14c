"""Videos longer than the model's window: segments, each of which continues the last frames of the one before.

A VACE model is shown those frames as the beginning of its next clip, an image-to-video model the last of them.  Both
segments hold them, and there the one fades into the other.  Memory holds one segment, however many there are; beside
the file that is written lies what a killed run needs to go on.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from wan_jax import editing
from wan_jax.config import WanConfig
from wan_jax.errors import WanError
from wan_jax.pipelines import latents_file, segments, tasks
from wan_jax.pipelines.request import Request
from wan_jax.pipelines.segments import SegmentedVideo
from wan_jax.pipelines.wan import WanPipeline
from wan_jax.typing import Float, UInt8
from wan_jax.video_io import check_output

_OVERLAP = 5  # one of so many frames of a segment is shown to the next
_FIRST_ALONE = ("image", "last_image", "video", "mask")  # what only the first segment is given
_GIVEN = ("image", "last_image", "video", "mask", "reference_images", "conditioning_scale")


@dataclass(frozen=True)
class Piece:
    """What a segment adds to the video, and its last frames, which wait for the next one."""

    frames: UInt8["f h w 3"]
    tail: UInt8["k h w 3"]


def long_video(
    pipe: WanPipeline,
    prompts: Sequence[str],
    overlap: int | None = None,
    first: int = 0,
    tail: UInt8["k h w 3"] | None = None,
    **options: Any,
) -> Iterator[Piece]:
    """The segments of a video, one for each prompt.

    The video is all `frames`, and at the end the last `tail`.  Segment i is made with seed + i.

    Args:
        pipe: a VACE model, or one from image to video.
        prompts: one for each segment; repeat one to go on with it.
        overlap: frames that a segment and the next share, 4n + 1; None is a fifth of a segment.  1 for models from
            image to video.
        first: the segment to begin with, where earlier ones are made already.
        tail: those of the segment before.
        options: of `WanPipeline.__call__`.  Images, videos and masks go to the first segment, references to all.

    Raises:
        WanError: the model cannot continue a video, or a value is impossible.
    """
    request = _request(pipe.config, prompts, options)
    overlap = overlap_of(pipe.config, overlap, request.num_frames)
    frames, height, width = request.size
    size = {"num_frames": frames, "height": height, "width": width}
    for number in range(first, len(prompts)):
        shared = options | size | {"seed": request.seed + number}
        if tail is not None:
            shared = {name: value for name, value in shared.items() if name not in _FIRST_ALONE}
            shared |= _continuation(pipe.config, tail, frames)
        made = np.asarray(pipe(prompts[number], **shared).frames[0])
        if tail is not None:
            made[:overlap] = _faded(tail, made[:overlap])
        pixels = (made * 255).astype(np.uint8)
        tail = pixels[-overlap:]
        yield Piece(pixels[:-overlap], tail)


def write_long_video(
    pipe: WanPipeline,
    path: Path,
    prompts: Sequence[str],
    overlap: int | None = None,
    restart: bool = False,
    about: Mapping[str, Any] = {},
    metadata: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Writes the segments of `long_video` to an .mp4 file as they are made.

    A killed run is gone on with by the same call; the folder beside `path` holds its finished segments.

    Args:
        path: a name that ends in .mp4.
        restart: drop what an earlier run left, instead of going on with it.
        about: more to tell in the settings.
        metadata: store the settings in the file.

    Returns:
        the settings, of JSON types.

    Raises:
        WanError: as `long_video`; or an earlier run had other settings.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise WanError(f"cannot write {path}: videos of several segments go to an .mp4 file")
    request = _request(pipe.config, prompts, options)
    overlap = overlap_of(pipe.config, overlap, request.num_frames)
    check_output(path, (request.height, request.width))
    if jax.process_count() > 1:
        raise WanError(f"a video of several segments is written by one process, and here are {jax.process_count()}")
    made = pipe.settings(request, _given(pipe.config, options))[0]
    settings = json.loads(json.dumps(made | {"then": list(prompts[1:]), "overlap": overlap} | about))
    latents_file.begin(path, segments.part_settings(path), settings, restart)
    output = SegmentedVideo(path, pipe.config.sampling.fps, settings)
    done = output.count
    tail = output.kept(done - 1) if 0 < done <= len(prompts) else None
    pieces = long_video(pipe, prompts, overlap, done, tail, **options)
    for piece in tqdm(pieces, "segments", len(prompts), initial=min(done, len(prompts)), unit="segment"):
        output.append([piece.frames], keep=piece.tail)
        tail = piece.tail
    if tail is not None:
        output.append([tail])
    output.finish(settings if metadata else {})
    return settings


def overlap_of(config: WanConfig, overlap: int | None, num_frames: int) -> int:
    """Frames that a segment shares with the next.

    Raises:
        WanError: the model cannot continue a video, or not with so many.
    """
    if not config.takes_context:
        if not (config.expand_timesteps or config.shows_images_as_channels) or config.transformer.pos_embed_seq_len:
            raise WanError(f"{config.name} cannot continue a video: use a VACE model, or one from image to video")
        if overlap not in (None, 1):
            raise WanError(f"overlap={overlap}: {config.name} is shown the last frame alone; leave it out")
        return 1
    factor = config.vae.temporal_factor
    if overlap is None:
        return num_frames // _OVERLAP // factor * factor + 1
    if overlap < 1 or overlap % factor != 1 or 2 * overlap > num_frames:
        raise WanError(f"overlap={overlap} must be {factor}n + 1, and at most half of the {num_frames} frames")
    return overlap


def _request(config: WanConfig, prompts: Sequence[str], options: dict[str, Any]) -> Request:
    """Of the first segment, whose size and number of frames all have."""
    if len(prompts) > 1 and options.get("last_image") is not None:
        raise WanError("last_image: it would end the first of several segments; leave it out")
    if options.get("latents") is not None:
        raise WanError("latents: every segment has noise of its own; give a seed")
    if not prompts:
        raise WanError("prompts: there are none; give one for each segment")
    names = {field.name for field in dataclasses.fields(Request)} - {"prompt", "negative_prompt", "strength"}
    asked = {name: options.get(name) for name in names}
    asked |= {"seed": options.get("seed", 0), "solver": options.get("solver")}
    asked |= {"sigma_grid": options.get("sigma_grid", "wan"), "quality": options.get("quality", 1.0)}
    asked |= {"step_cache": options.get("step_cache", "magnitude")}
    asked |= _given(config, options).fields(config, asked["height"], asked["width"], asked["num_frames"])
    return Request.make(config, prompts[0], options.get("negative_prompt"), **asked)


def _given(config: WanConfig, options: dict[str, Any]) -> tasks.Given:
    given = {name: options[name] for name in _GIVEN if name in options}
    return tasks.read(config, **given, num_frames=options.get("num_frames"))


def _continuation(config: WanConfig, tail: UInt8["k h w 3"], count: int) -> dict[str, Any]:
    """The arguments that have a clip of `count` frames go on from `tail`."""
    if not config.takes_context:
        return {"image": tail[-1]}
    canvas = editing.keep_frames(count, (0, tail))
    return {"video": canvas.frames, "mask": canvas.mask}


def _faded(before: UInt8["k h w 3"], after: Float["k h w 3"]) -> Float["k h w 3"]:
    """From the one to the other, evenly."""
    share = (np.arange(len(after), dtype=np.float32) + 1) / (len(after) + 1)
    share = share[:, None, None, None]
    return (1 - share) * (before / np.float32(255)) + share * after
