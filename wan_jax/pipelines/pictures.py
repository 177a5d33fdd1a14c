"""Image to video: the first frame, and the last, of models that are shown them."""

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

from wan_jax.conditioning import masked_channels
from wan_jax.config import WanConfig
from wan_jax.errors import WanError
from wan_jax.images import best_size_of_area, cover, read_image, size_of_area, stretch
from wan_jax.models.dit import PATCH
from wan_jax.pipelines.given import Encode, Given, See, Size, short_digest
from wan_jax.typing import UInt8

_MOST_STRETCH = 1.05  # of a picture's shape, before it is worth a warning


@dataclass(frozen=True)
class Pictures(Given):
    """The first frame, and the last one if it is given, as they were read."""

    first: UInt8["h w 3"]
    last: UInt8["h w 3"] | None = None

    def fields(
        self, config: WanConfig, height: int | None, width: int | None, num_frames: int | None
    ) -> dict[str, Any]:
        """Without a size, that of the model's rule for the shape of its picture."""
        if height is None and width is None:
            rule = size_of_area if config.shows_images_as_channels else best_size_of_area
            unit, own = config.vae.spatial_factor * PATCH, config.sampling
            height, width = rule(*self.first.shape[:2], own.height * own.width, unit)
        return {"height": height, "width": width, "num_frames": num_frames}

    def conditions(self, config: WanConfig, size: Size, encode: Encode, see: See) -> dict[str, Any]:
        frames, height, width = size
        if not config.shows_images_as_channels:
            first = cover(self.first, height, width)[None, None]
            return {"clean": encode([first], 1, height, width)}
        warn_of_stretch("picture", self.first.shape[:2], (height, width), stacklevel=5)
        given = [x for x in (self.first, self.last) if x is not None]
        first, *last = (stretch(x, height, width)[None] for x in given)
        encoded = partial(encode, frames=frames, height=height, width=width)
        channels = masked_channels(encoded, first, last[0] if last else None, frames, config.vae.temporal_factor)
        return {"channels": channels} | ({} if config.image_encoder is None else {"image": see(given)})

    def digests(self) -> dict[str, Any]:
        given = {"image": self.first, "last_image": self.last}
        return {name: short_digest(x) for name, x in given.items() if x is not None}


def read(config: WanConfig, image: Any, last_image: Any) -> Given:
    """The pictures that were given, if the model takes them.

    Raises:
        WanError: it takes none, or needs one; or one cannot be read.
    """
    takes = ["image"] * (config.shows_images_as_channels or config.expand_timesteps)
    sees_one = config.transformer.image_dim is not None and config.transformer.pos_embed_seq_len is None
    takes += ["last_image"] * (config.shows_images_as_channels and not sees_one)
    for name, value in (("image", image), ("last_image", last_image)):
        if value is not None and name not in takes:
            raise WanError(f"{name}: {config.name} takes no {name}")
    if image is None:
        if config.shows_images_as_channels or last_image is not None:
            raise WanError(f"image: {config.name} needs the first frame, as a file, a PIL image or an array")
        return Given()
    if last_image is None and config.transformer.pos_embed_seq_len is not None:
        raise WanError(f"last_image: {config.name} needs the last frame too")
    return Pictures(read_image(image), None if last_image is None else read_image(last_image, "last_image"))


def warn_of_stretch(what: str, before: tuple[int, int], after: tuple[int, int], stacklevel: int):
    """Warns where a shape (height, width) changes visibly."""
    ratio = before[0] / before[1] * after[1] / after[0]
    if max(ratio, 1 / ratio) > _MOST_STRETCH:
        warnings.warn(
            f"the {what} of {before[1]}x{before[0]} is stretched to {after[1]}x{after[0]}; leave the size out to keep "
            "its shape",
            stacklevel=stacklevel + 1,
        )
