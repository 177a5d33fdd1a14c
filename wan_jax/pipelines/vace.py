"""What a call of the pipeline gives to a VACE model, made into its context."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from wan_jax import editing
from wan_jax.config import WanConfig
from wan_jax.errors import WanError
from wan_jax.images import crop, on_white, read_image, size_within_area
from wan_jax.models.dit import PATCH, Context
from wan_jax.pipelines.clips import Clip, read_clip
from wan_jax.pipelines.given import Encode, Given, See, Size, short_digest
from wan_jax.typing import UInt8
from wan_jax.vcu import Canvas, context_frames

MOST_REFERENCES = 3  # which the released models were trained with (arXiv:2503.07598 §3.1)
_MOST_CROP = 1.05  # of a shape, before it is worth a warning


@dataclass(frozen=True)
class Unit(Given):
    """What was given, as it was read; all of it may be missing, which is text to video."""

    video: Clip | None
    mask: Clip | None
    first: UInt8["h w 3"] | None
    last: UInt8["h w 3"] | None
    references: tuple[UInt8["h w 3"], ...]
    scale: tuple[float, ...]

    @property
    def lead(self) -> int:
        """One for each reference."""
        return len(self.references)

    def fields(
        self, config: WanConfig, height: int | None, width: int | None, num_frames: int | None
    ) -> dict[str, Any]:
        """Without a size, that of the model's rule for the shape of its video or picture; as many frames as the video
        has, up to the model's own number.

        Raises:
            WanError: the video is too short.
        """
        own = config.sampling
        if height is None and width is None and self._shape is not None:
            height, width = size_within_area(*self._shape, own.height * own.width, config.vae.spatial_factor * PATCH)
        if self.video is not None:
            factor = config.vae.temporal_factor
            num_frames = num_frames or (min(self.video.count, own.num_frames) - 1) // factor * factor + 1
            if self.video.count < num_frames:
                raise WanError(
                    f"video: it has {self.video.count} frames, which do not make num_frames={num_frames}; ask for "
                    "fewer, or have frames added (wan_jax.editing.keep_frames, --extend)"
                )
        return {"height": height, "width": width, "num_frames": num_frames}

    def canvas(self, num_frames: int, height: int, width: int) -> Canvas:
        """F and M in the size of the video to be made."""
        if self._shape is not None:
            warn_of_crop(*self._shape, height, width)

        def fitted(frames: Clip) -> Iterator[np.ndarray]:
            return (_fit(frame, height, width) for frame, _ in zip(frames, range(num_frames)))

        if self.video is None and self.first is None and self.last is None:
            return Canvas.blank(num_frames, height, width)
        if self.video is None:
            ends = (None if x is None else crop(x, height, width) for x in (self.first, self.last))
            return editing.first_last(*ends, num_frames)
        frames = np.stack([editing.unit(frame) for frame in fitted(self.video)])
        if self.mask is None:
            return editing.follow(frames)
        mask = np.stack([editing.unit(frame).mean(-1) > 0.5 for frame in fitted(self.mask)])
        return Canvas(frames, np.broadcast_to(mask, frames.shape[:3]))

    def conditions(self, config: WanConfig, size: Size, encode: Encode, see: See) -> dict[str, Any]:
        count, height, width = size
        canvas = self.canvas(count, height, width)
        references = [on_white(image, height, width) for image in self.references]
        latents = context_frames(lambda x, count: encode(x, count, height, width), canvas, references, config.vae)
        return {"context": Context(latents, jnp.asarray(self.scale, jnp.float32))}

    def digests(self) -> dict[str, Any]:
        """What tells these clips and pictures from others."""
        clips = {"video": self.video, "mask": self.mask}
        pictures = {"image": self.first, "last_image": self.last}
        found = {name: clip.digest() for name, clip in clips.items() if clip is not None}
        found |= {name: short_digest(x) for name, x in pictures.items() if x is not None}
        if self.references:
            found["reference_images"] = [short_digest(x) for x in self.references]
        return found | {"conditioning_scale": list(self.scale)}

    @property
    def _shape(self) -> tuple[int, int] | None:
        if self.video is not None:
            return self.video.height, self.video.width
        pictures = [x for x in (self.first, self.last) if x is not None]
        return pictures[0].shape[:2] if pictures else None


def read(
    config: WanConfig,
    *,
    video: Any = None,
    mask: Any = None,
    reference_images: Any = None,
    image: Any = None,
    last_image: Any = None,
    conditioning_scale: float | Sequence[float] = 1.0,
) -> Unit:
    """What was given.

    Raises:
        WanError: the inputs contradict each other, or one cannot be read.
    """
    if video is None and mask is not None:
        raise WanError("mask: it says which part of a video is generated; give the video too")
    if video is not None and (image is not None or last_image is not None):
        raise WanError("image and last_image are frames of the video, and so is video=; give either")
    fps = config.sampling.fps
    given = Unit(
        video=None if video is None else read_clip(video, "video", fps),
        mask=None if mask is None else read_clip(mask, "mask", fps),
        first=None if image is None else read_image(image),
        last=None if last_image is None else read_image(last_image, "last_image"),
        references=_references(reference_images),
        scale=_scale(conditioning_scale, len(config.transformer.vace_layers)),
    )
    if given.mask is not None:
        check_mask(given.mask, given.video)
    return given


def check_mask(mask: Clip, video: Clip):
    """Raises a WanError unless the mask is one for this video."""
    if mask.count not in (1, video.count):
        raise WanError(f"mask: it has {mask.count} frames and the video {video.count}; give as many, or a single one")
    if not 0.99 < mask.height / mask.width * video.width / video.height < 1.01:
        sizes = f"{mask.width}x{mask.height} and the video {video.width}x{video.height}"
        raise WanError(f"mask: it is {sizes}; give one of the same shape")


def _references(images: Any) -> tuple[UInt8["h w 3"], ...]:
    if images is None:
        return ()
    single = not isinstance(images, list | tuple)
    read = tuple(
        read_image(x, f"reference_images, number {i + 1}") for i, x in enumerate([images] if single else images)
    )
    if len(read) > MOST_REFERENCES:
        raise WanError(f"reference_images: these are {len(read)}, and the models know at most {MOST_REFERENCES}")
    return read


def _scale(scale: float | Sequence[float], layers: int) -> tuple[float, ...]:
    scales = [scale] * layers if isinstance(scale, float | int) else list(scale)
    if len(scales) != layers or not all(math.isfinite(x) for x in scales):
        raise WanError(f"conditioning_scale={scale} must be a number, or one for each of the {layers} context blocks")
    return tuple(map(float, scales))


def _fit(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    if frame.shape[:2] == (height, width):
        return frame  # floats as exact as they came
    return crop(frame if frame.dtype == np.uint8 else np.round(frame * 255).astype(np.uint8), height, width)


def warn_of_crop(before_height: int, before_width: int, height: int, width: int):
    """Warns where fitting cuts much off."""
    ratio = before_height / before_width * width / height
    if max(ratio, 1 / ratio) > _MOST_CROP:
        warnings.warn(
            f"what is given, {before_width}x{before_height}, is cropped to the shape of {width}x{height}; a --size of "
            "its own shape would show all of it",
            stacklevel=6,
        )
