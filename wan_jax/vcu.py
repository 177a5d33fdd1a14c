"""The Video Condition Unit of VACE, [T; F; M]: one form for every task (arXiv:2503.07598 §3.1).

F are frames and M masks of the same size.  Where M is 1 the video is generated, and F is what it has to follow: a pose,
a depth map, or grey for nothing.  Where M is 0 the frame stays as it is.  Pictures that the video is to resemble stand
before F as frames of their own.  Text to video is a grey F with M = 1; with a first frame, continued, filled in or
controlled it is another F and M, and nothing else changes.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wan_jax.config import VAEConfig
from wan_jax.typing import Bool, Float, typechecked

GREY = 0.5  # which is 0 to the autoencoder: nothing is known, nothing is asked

Encode = Callable[[Iterable[Float["1 g h w 3"]], int], Float["1 f h w c"]]


@dataclass(frozen=True)
class Grey:
    """A clip of which nothing is shown, frame by frame.

    Its latents depend on its size alone, so who encodes many may keep them.
    """

    count: int
    height: int
    width: int

    def __iter__(self) -> Iterator[Float["1 1 h w 3"]]:
        return itertools.repeat(np.zeros((1, 1, self.height, self.width, 3), np.float32), self.count)


@dataclass(frozen=True)
class Canvas:
    """F and M.

    Attributes:
        frames: in [0, 1].
        mask: true where the video is generated.
    """

    frames: Float["f h w 3"]
    mask: Bool["f h w"]

    @classmethod
    def blank(cls, count: int, height: int, width: int) -> "Canvas":
        """Nothing but the size is known: text to video."""
        size = count, height, width
        return cls(np.full((*size, 3), GREY, np.float32), np.ones(size, bool))

    def inactive(self) -> Iterable[Float["1 1 h w 3"]]:
        """What is kept, frame by frame, in [-1, 1]; the rest is grey."""
        return self._part(~self.mask)

    def reactive(self) -> Iterable[Float["1 1 h w 3"]]:
        """What is to be followed; the rest is grey."""
        return self._part(self.mask)

    def _part(self, shown: Bool["f h w"]) -> Iterable[Float["1 1 h w 3"]]:
        frames = list(zip(self.frames, shown))
        if all((frame[here] == GREY).all() for frame, here in frames):
            return Grey(*self.mask.shape)
        return (np.where(here[..., None], 2 * frame - 1, np.float32(0))[None, None] for frame, here in frames)


@typechecked
def fold_mask(mask: Bool["f h w"], temporal_factor: int, spatial_factor: int) -> Float["g i j m"]:
    """One channel for each pixel of a latent, row by row, at the frames that `frames_of_latents` picks."""
    count, height, width = mask.shape
    side = spatial_factor
    folded = mask[frames_of_latents(count, temporal_factor)]
    folded = folded.reshape(-1, height // side, side, width // side, side).transpose(0, 1, 3, 2, 4)
    return folded.reshape(*folded.shape[:3], side**2).astype(np.float32)


def frames_of_latents(count: int, temporal_factor: int) -> np.ndarray:
    """The frame that stands for each latent frame in the mask: the middle one of equal shares of all.

    It is PyTorch's "nearest-exact" (VACE, vace/models/wan/wan_vace.py, vace_encode_masks).  Of several frames neither
    the first nor the last is ever among them, so that of a single frame kept only the inactive latents tell.
    """
    latents = (count + temporal_factor - 1) // temporal_factor
    return (2 * np.arange(latents) + 1) * count // (2 * latents)


def context_frames(
    encode: Encode, canvas: Canvas, references: Sequence[Float["h w 3"]], vae: VAEConfig
) -> Float["1 f h w m"]:
    """The latents of the unit, as `wan_jax.models.dit.Context` has them.

    Channels are inactive latents, reactive latents and the folded mask.  Of a reference the first are its latents, and
    the others 0.  References keep their order, as in the official code; Diffusers turns it round.

    Args:
        encode: (pieces of a clip, its frames) → its normalised latents.
        references: in [-1, 1], of the size of the video.
    """
    count = len(canvas.frames)
    latents = jnp.concatenate([encode(canvas.inactive(), count), encode(canvas.reactive(), count)], axis=-1)
    mask = fold_mask(canvas.mask, vae.temporal_factor, vae.spatial_factor)
    shown = jnp.concatenate([latents, jnp.asarray(mask)[None]], axis=-1)
    others = shown.shape[-1] - vae.z_dim
    return jnp.concatenate([*(_reference(encode, x, others) for x in references), shown], axis=1)


def encoding_grey_once(encode: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`encode`, which takes pieces of a clip and whatever else, but the latest `Grey` that it met is encoded once."""
    kept: dict[Grey, jax.Array] = {}

    def once(pieces: Iterable[Float["1 g h w 3"]], *args: Any, **kwargs: Any) -> jax.Array:
        if not isinstance(pieces, Grey):
            return encode(pieces, *args, **kwargs)
        if pieces not in kept:
            kept.clear()
            kept[pieces] = encode(pieces, *args, **kwargs)
        return kept[pieces]

    return once


def _reference(encode: Encode, image: Float["h w 3"], others: int) -> jax.Array:
    return jnp.pad(encode(iter([image[None, None]]), 1), [(0, 0)] * 4 + [(0, others)])
