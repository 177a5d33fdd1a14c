"""What a call of the pipeline gives to a VACE model, made into its context."""

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
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
from wan_jax.typing import Float, UInt8
from wan_jax.vcu import Canvas, context_frames

MOST_REFERENCES = 3  # which the released models were trained with (arXiv:2503.07598 §3.1)
_MOST_CROP = 1.05  # of a shape, before it is worth a warning


@dataclass(frozen=True)
class Given:
    """What was given, as it was read; all of it may be missing, which is text to video."""

    video: Clip | None
    mask: Clip | None
    first: UInt8["h w 3"] | None
    last: UInt8["h w 3"] | None
    references: tuple[UInt8["h w 3"], ...]
    scale: tuple[float, ...]

    def size(self, config: WanConfig, height: int | None, width: int | None) -> tuple[int | None, int | None]:
        """Height and width as given; else by the model's rule for the shape of its video, if there is one."""
        if height is not None or width is not None or self._shape is None:
            return height, width
        own = config.sampling
        return size_within_area(*self._shape, own.height * own.width, config.vae.spatial_factor * PATCH)

    def num_frames(self, config: WanConfig, num_frames: int | None) -> int | None:
        """As given; else as many as the video has, up to the model's own number."""
        if num_frames is not None or self.video is None:
            return num_frames
        factor = config.vae.temporal_factor
        return (min(self.video.count, config.sampling.num_frames) - 1) // factor * factor + 1

    def check(self, num_frames: int):
        """Raises a WanError if the video is too short."""
        if self.video is not None and self.video.count < num_frames:
            raise WanError(
                f"video: it has {self.video.count} frames, which do not make num_frames={num_frames}; ask for fewer, "
                "or have frames added (wan_jax.editing.keep_frames, --extend)"
            )

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

    def context(
        self,
        config: WanConfig,
        num_frames: int,
        height: int,
        width: int,
        encode: Callable[[Iterator[Float["b f h w 3"]], int, int, int], Float["b f h w c"]],
    ) -> Context:
        """The field of `Conditioning` that shows all of it.

        Args:
            encode: (pieces of a clip, its frames, height, width) → normalised latents.
        """
        canvas = self.canvas(num_frames, height, width)
        references = [on_white(image, height, width) for image in self.references]
        latents = context_frames(lambda x, count: encode(x, count, height, width), canvas, references, config.vae)
        return Context(latents, jnp.asarray(self.scale, jnp.float32))

    def digests(self) -> dict[str, Any]:
        """What tells these clips and pictures from others."""
        clips = {"video": self.video, "mask": self.mask}
        pictures = {"image": self.first, "last_image": self.last}
        found = {name: clip.digest() for name, clip in clips.items() if clip is not None}
        found |= {name: _digest(x) for name, x in pictures.items() if x is not None}
        if self.references:
            found["reference_images"] = [_digest(x) for x in self.references]
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
) -> Given | None:
    """What was given, if the model takes it; None for a model of another kind, whose pictures are not ours to read.

    Raises:
        WanError: the inputs contradict each other, or one cannot be read.
    """
    if not config.takes_context:
        for name, value in (("mask", mask), ("reference_images", reference_images)):
            if value is not None:
                raise WanError(f"{name}: {config.name} takes no {name}")
        if not isinstance(conditioning_scale, float | int) or conditioning_scale != 1:
            raise WanError(f"conditioning_scale: {config.name} takes no conditioning_scale")
        return None
    if video is None and mask is not None:
        raise WanError("mask: it says which part of a video is generated; give the video too")
    if video is not None and (image is not None or last_image is not None):
        raise WanError("image and last_image are frames of the video, and so is video=; give either")
    fps = config.sampling.fps
    given = Given(
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


def _digest(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()[:12]
