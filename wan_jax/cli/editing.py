"""The flags of `generate` for what a video is made from; which task they make is inferred from them and the model."""

import itertools
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from wan_jax.cli.options import flag
from wan_jax.errors import WanError

if TYPE_CHECKING:
    from wan_jax.config import WanConfig
    from wan_jax.pipelines.clips import Clip
    from wan_jax.vcu import Canvas

CONTROLS = ("grey", "depth", "pose", "flow", "scribble", "layout")
_PLACES = ("mask", "box", "outpaint", "extend")  # of what is generated: one of them


@dataclass(frozen=True)
class Editing:
    """A video to start from, for text-to-video models; videos, masks and references, for VACE models.

    Args:
        video: what to start from; with a VACE model, what is kept, or followed.  Any size and rate.
        strength: how much of a video that is started from changes, up to 1.
        mask: a video or picture, white where --video is painted anew and black where it is kept.
        box: the rectangle of --video that is painted anew, in its pixels.
        grow: pixels by which --mask or --box is widened on all sides.
        outpaint: pixels to add around --video.
        extend: frames to add to --video; 40, 40after or 40before.
        join: the video that --video leads over to, with the frames of --extend between them.
        control: what --video shows: depth, pose, flow, scribble or layout, made elsewhere; grey takes its colours.
        reference: a picture that the video is to resemble; up to three times.
        conditioning_scale: how strongly all of these tell; one number, or one for each context block.
    """

    video: Annotated[str | None, flag("FILE", "none")] = None
    strength: Annotated[float | None, flag("S", "0.8")] = None
    mask: Annotated[str | None, flag("FILE", "none")] = None
    box: Annotated[str | None, flag("X,Y,W,H", "none")] = None
    grow: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    outpaint: Annotated[str | None, flag("L,T,R,B", "none")] = None
    extend: Annotated[str | None, flag("N[before|after]", "none")] = None
    join: Annotated[str | None, flag("FILE", "none")] = None
    control: Annotated[str | None, flag("KIND", "none")] = None
    reference: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, flag("FILE", "none")] = ()
    conditioning_scale: Annotated[str | None, flag("S[,S…]", "1")] = None

    @property
    def given(self) -> list[str]:
        """The flags that were used."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]


NO_EDITING = Editing()


def arguments(
    config: "WanConfig", flags: Editing, image: Any, last_image: Any, size: tuple[int | None, int | None], frames: Any
) -> tuple[dict[str, Any], str]:
    """What the flags make of the arguments of `WanPipeline.__call__`, and the task in words.

    Args:
        size: width and height, where they are asked for.
        frames: their number, where it is asked for.

    Raises:
        WanError: the flags contradict each other, or are none for this model.
    """
    if not config.takes_context:
        refused = [name for name in flags.given if name not in ("video", "strength")]
        if refused:
            raise WanError(f"--{_dashed(refused[0])}: {config.name} takes no {refused[0]}; use a VACE model")
        task = "video to video" if flags.video is not None else _from_frames(image, last_image)
        return {"video": flags.video, "strength": flags.strength}, task
    _check(flags, image, last_image)
    made: dict[str, Any] = {"reference_images": list(flags.reference) or None, "strength": flags.strength}
    if flags.conditioning_scale is not None:
        scales = numbers(flags.conditioning_scale, "conditioning-scale", "S or S,S,… of numbers", kind=float)
        made["conditioning_scale"] = scales[0] if len(scales) == 1 else scales
    if flags.video is None:
        return made, _said(_from_frames(image, last_image), flags)
    from wan_jax.pipelines.clips import read_clip

    clip = read_clip(flags.video, "--video", config.sampling.fps)
    canvas, task = _canvas(config, flags, clip, size, frames)
    return made | {"video": canvas.frames, "mask": canvas.mask}, _said(task, flags)


def _from_frames(image: Any, last_image: Any) -> str:
    ends = [name for name, value in (("first", image), ("last", last_image)) if value is not None]
    return f"from the {' and the '.join(ends)} frame" if ends else "from text"


def numbers(text: str, name: str, form: str, count: int | None = None, kind: type = int) -> list:
    """The numbers of a list with commas; `form` says what was expected."""
    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or count not in (None, len(found)):
        raise WanError(f"--{name} {text!r} is not {form}")
    return found


def _check(flags: Editing, image: Any, last_image: Any):
    places = [name for name in _PLACES if getattr(flags, name) is not None]
    if len(places) > 1:
        raise WanError(f"--{places[0]} and --{places[1]} both say what is generated: give one of them")
    needy = [*places, *(["control"] if flags.control else [])]
    if needy and flags.video is None:
        raise WanError(f"--{needy[0]} is about a video: give --video too")
    if flags.video is not None and (image is not None or last_image is not None):
        raise WanError("--image and --last-image are frames of the video, and so is --video: give either")
    if flags.join is not None and (flags.extend is None or not flags.extend.isdecimal()):
        raise WanError("--join: say how many frames lie between the videos, such as --extend 40")
    if flags.grow and flags.mask is None and flags.box is None:
        raise WanError("--grow widens a --mask or --box: give one")
    if flags.grow < 0:
        raise WanError(f"--grow {flags.grow} must not be negative")
    if flags.control is not None and flags.control not in CONTROLS:
        raise WanError(f"--control {flags.control!r} is unknown; use one of {', '.join(CONTROLS)}")
    if flags.control is not None and (flags.outpaint or flags.extend):
        raise WanError("--control says how all is generated; it goes with --mask or --box, or alone")


def _canvas(config: "WanConfig", flags: Editing, clip: "Clip", size, frames) -> tuple["Canvas", str]:
    """F and M in the size and number of frames of the video to be made, and the task in words."""
    import numpy as np

    from wan_jax import editing

    if flags.join is not None:
        return _joined(config, flags, clip, size, frames)
    left, top, right, bottom = (
        numbers(flags.outpaint, "outpaint", "L,T,R,B in pixels", 4) if flags.outpaint else [0] * 4
    )
    if min(left, top, right, bottom) < 0:
        raise WanError(f"--outpaint {flags.outpaint!r}: pixels are added, so none is negative")
    around = clip.height + top + bottom, clip.width + left + right
    width, height = _size(config, around, *size)
    rows, columns = height / around[0], width / around[1]  # of a pixel of the clip
    inner = round(clip.height * rows), round(clip.width * columns)
    at, count = _where(config, flags, clip, frames)
    shown = np.stack(list(_fitted(itertools.islice(clip, at.start, at.stop), *inner)))
    if flags.outpaint:
        return editing.outpaint(shown, height, width, round(left * columns), round(top * rows)), "outpainting"
    if flags.extend:
        before = flags.extend.endswith("before")
        kept = editing.keep_frames(count, (count - len(shown) if before else 0, shown))
        return kept, f"{count - len(shown)} frames {'before' if before else 'after'} {len(shown)}"
    mask = _mask(config, flags, clip, at, (height, width), (rows, columns))
    if mask is None:
        control = editing.grey(shown) if flags.control == "grey" else shown
        return editing.follow(control), f"{flags.control or 'control'} to video"
    if flags.control == "grey":
        return editing.Canvas(editing.unit(np.where(mask[..., None], editing.grey(shown), shown)), mask), "recolouring"
    if flags.control:
        return editing.Canvas(editing.unit(shown), mask), f"{flags.control} within the mask"
    return editing.repaint(shown, mask), "inpainting"


def _where(config: "WanConfig", flags: Editing, clip: "Clip", frames: int | None) -> tuple[slice, int]:
    """Which frames of the clip are shown, and the number of all."""
    added = _added(flags.extend) if flags.extend else 0
    count = frames or _most(config, clip.count + added)
    kept = count - added
    if kept < 1:
        raise WanError(f"--extend {flags.extend}: of {count} frames none is left for the video; add fewer")
    if kept > clip.count:
        raise WanError(f"--video has {clip.count} frames, {kept} are wanted: ask for fewer with --frames")
    ends = added and not flags.extend.endswith("before")
    return slice(clip.count - kept, clip.count) if ends else slice(0, kept), count


def _joined(config: "WanConfig", flags: Editing, first: "Clip", size, frames) -> tuple["Canvas", str]:
    """The end of --video, what is generated, and the beginning of --join: as much of each, if they have it."""
    import numpy as np

    from wan_jax import editing
    from wan_jax.pipelines.clips import read_clip
    from wan_jax.pipelines.vace import warn_of_crop

    second = read_clip(flags.join, "--join", config.sampling.fps)
    added = _added(flags.extend)
    count = frames or _most(config, first.count + added + second.count)
    kept = count - added
    after = min(second.count, max(kept // 2, kept - first.count))
    before = kept - after
    if kept < 2:
        raise WanError(f"--extend {flags.extend}: of {count} frames none is left for one of the videos; add fewer")
    if before > first.count:
        raise WanError(
            f"--video and --join have {first.count} and {second.count} frames, {kept} are wanted: ask for fewer with "
            "--frames"
        )
    width, height = _size(config, (first.height, first.width), *size)
    warn_of_crop(second.height, second.width, height, width)
    ends = itertools.islice(first, first.count - before, None), itertools.islice(second, after)
    start, end = (np.stack(list(_fitted(frames, height, width))) for frames in ends)
    return editing.keep_frames(count, (0, start), (count - after, end)), f"{added} frames between {before} and {after}"


def _most(config: "WanConfig", frames: int) -> int:
    """So many frames of a video, up to the model's own number."""
    factor = config.vae.temporal_factor
    return (min(frames, config.sampling.num_frames) - 1) // factor * factor + 1


def _added(text: str) -> int:
    digits = text.removesuffix("before").removesuffix("after")
    if not digits.isdecimal() or int(digits) < 1:
        raise WanError(f"--extend {text!r} is not N, Nbefore or Nafter, such as 40after")
    return int(digits)


def _mask(config: "WanConfig", flags: Editing, clip: "Clip", at: slice, size: tuple[int, int], pixel):
    """Of the frames that are shown; in the size of the video."""
    import numpy as np

    from wan_jax import editing
    from wan_jax.pipelines.clips import read_clip
    from wan_jax.pipelines.vace import check_mask

    count = at.stop - at.start
    if flags.box is not None:
        box = numbers(flags.box, "box", "X,Y,W,H in pixels", 4)
        editing.box_mask(1, clip.height, clip.width, tuple(box))  # of the clip, in whose pixels errors are told
        x, y, w, h = box
        edges = [round(x * pixel[1]), round(y * pixel[0]), round((x + w) * pixel[1]), round((y + h) * pixel[0])]
        mask = editing.box_mask(count, *size, (*edges[:2], edges[2] - edges[0], edges[3] - edges[1]))
    elif flags.mask is not None:
        masks = read_clip(flags.mask, "--mask", config.sampling.fps)
        check_mask(masks, clip)
        here = (
            itertools.islice(masks, at.start, at.stop)
            if masks.count > 1
            else itertools.repeat(next(iter(masks)), count)
        )
        mask = np.stack([editing.unit(frame).mean(-1) > 0.5 for frame in _fitted(here, *size)])
    else:
        return None
    return editing.grow(mask, flags.grow) if flags.grow else mask


def _size(config: "WanConfig", around: tuple[int, int], width: int | None, height: int | None) -> tuple[int, int]:
    from wan_jax.images import size_within_area
    from wan_jax.models.dit import PATCH
    from wan_jax.pipelines.vace import warn_of_crop

    if width is None or height is None:
        own = config.sampling
        return size_within_area(*around, own.height * own.width, config.vae.spatial_factor * PATCH)[::-1]
    warn_of_crop(*around, height, width)
    return width, height


def _fitted(frames, height: int, width: int):
    from wan_jax.images import crop

    return (crop(frame, height, width) for frame in frames)


def _said(task: str, flags: Editing) -> str:
    references = len(flags.reference)
    return task if not references else f"{task}, with {references} reference{'s' if references > 1 else ''}"


def _dashed(name: str) -> str:
    return name.replace("_", "-")
