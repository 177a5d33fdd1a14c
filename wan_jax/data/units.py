"""What of a clip a model is shown while it learns: a task for every clip, drawn at random.

`data build --units` keeps it beside the clip's latents, made from pixels as the pipeline makes it: for a VACE model the
condition unit of the task, for an image-to-video model the mask and the latents of the frames that are given.  VACE
does not say how it mixes its tasks (arXiv:2503.07598 §4.1); these shares are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from wan_jax import editing
from wan_jax.conditioning import masked_channels
from wan_jax.config import VAEConfig, WanConfig
from wan_jax.errors import WanError
from wan_jax.models.dit import Context
from wan_jax.typing import Bool, Float, UInt8, typechecked
from wan_jax.vcu import Canvas, Encode, context_frames

SHARES = {"text": 0.2, "first": 0.2, "ends": 0.1, "after": 0.15, "before": 0.1, "inside": 0.15, "around": 0.1}
ALL = "all"
_LEAST_SIDE = 0.25  # of a box to be filled in, as a share of the frame


# ---- Units ----------------------------------------------------------------------------------------------------------


class StoredUnit(NamedTuple):
    """What is shown of clips, as datasets keep it.

    Attributes:
        latents: float16.
        mask: eight channels to a byte.
    """

    latents: Float["*b f h w c"]
    mask: UInt8["*b f h w m"]

    @classmethod
    def pack(cls, latents: Float["f h w c"], mask: Float["f h w m"]) -> "StoredUnit":
        return cls(np.asarray(latents, np.float16), np.packbits(np.asarray(mask) > 0.5, axis=-1))

    def unpack(self, mask_channels: int) -> tuple[Float["*b f h w c"], Float["*b f h w m"]]:
        """Latents and mask, float32."""
        mask = jnp.unpackbits(self.mask, axis=-1, count=mask_channels)
        return self.latents.astype(jnp.float32), mask.astype(jnp.float32)


@dataclass(frozen=True)
class ContextUnits:
    """Those of VACE models: inactive and reactive latents, then the folded mask; see `wan_jax.vcu`."""

    TASKS: ClassVar = tuple(SHARES)

    vae: VAEConfig

    @property
    def widths(self) -> tuple[int, int]:
        """Latent channels, and bytes of the mask, at each position."""
        return 2 * self.vae.z_dim, self.vae.spatial_factor**2 // 8

    def make(
        self, tasks: Sequence[str], frames: UInt8["f h w 3"], encode: Encode, rng: np.random.Generator
    ) -> StoredUnit:
        """The unit of one of the tasks."""
        canvas = draw_canvas(tasks, frames, self.vae.temporal_factor, rng)
        shown = context_frames(encode, canvas, (), self.vae)[0]
        latents = self.widths[0]
        return StoredUnit.pack(shown[..., :latents], shown[..., latents:])

    def conditions(self, unit: StoredUnit) -> dict[str, Any]:
        """The fields of `Conditioning` that show it."""
        shown = jnp.concatenate(unit.unpack(self.vae.spatial_factor**2), axis=-1)
        return {"context": Context(shown, jnp.ones(()))}


@dataclass(frozen=True)
class ImageUnits:
    """Those of image-to-video models: the mask, then the latents of what is given; see `masked_channels`."""

    TASKS: ClassVar = ("first", "ends")

    vae: VAEConfig

    @property
    def widths(self) -> tuple[int, int]:
        """Latent channels, and bytes of the mask, at each position."""
        return self.vae.z_dim, -(-self.vae.temporal_factor // 8)

    def make(
        self, tasks: Sequence[str], frames: UInt8["f h w 3"], encode: Encode, rng: np.random.Generator
    ) -> StoredUnit:
        """The unit of one of the tasks."""
        count, mask = len(frames), self.vae.temporal_factor
        first, last = (frames[i][None] / np.float32(127.5) - 1 for i in (0, -1))
        last = last if draw_task(tasks, rng) == "ends" else None
        shown = masked_channels(lambda pieces: encode(pieces, count), first, last, count, mask)[0]
        return StoredUnit.pack(shown[..., mask:], shown[..., :mask])

    def conditions(self, unit: StoredUnit) -> dict[str, Any]:
        """The fields of `Conditioning` that show it."""
        latents, mask = unit.unpack(self.vae.temporal_factor)
        return {"channels": jnp.concatenate([mask, latents], axis=-1)}


def units_of(model: WanConfig) -> ContextUnits | ImageUnits:
    """What this model is shown; of a text-to-video model, what it will be once it has grown a context branch."""
    return ImageUnits(model.vae) if model.shows_images_as_channels else ContextUnits(model.vae)


# ---- Tasks ----------------------------------------------------------------------------------------------------------


def choose_tasks(text: str, model: WanConfig) -> tuple[str, ...]:
    """The tasks "first,ends", say, in an order of their own, or all that the model learns.

    Raises:
        WanError: it does not learn one of them.
    """
    known = units_of(model).TASKS
    chosen = known if text == ALL else text.split(",")
    for task in chosen:
        if task not in known:
            raise WanError(f"--units {task}: {model.name} learns {', '.join(known)}, or {ALL} of them")
    return tuple(task for task in known if task in chosen)


def draw_task(tasks: Sequence[str], rng: np.random.Generator) -> str:
    """One of them, as often among them as among all."""
    shares = np.array([SHARES[task] for task in tasks])
    return rng.choice(list(tasks), p=shares / shares.sum())


@typechecked
def draw_canvas(
    tasks: Sequence[str], frames: UInt8["f h w 3"], temporal_factor: int, rng: np.random.Generator
) -> Canvas:
    """One of the tasks, made of a clip: what is kept of it, and what is to be generated.

    Whole latent frames are kept at the beginning of a clip that is continued; elsewhere any frames are.
    """
    count, height, width, _ = frames.shape
    match draw_task(tasks, rng):
        case "text":
            return Canvas.blank(count, height, width)
        case "first":
            return editing.first_last(frames[0], None, count)
        case "ends":
            return editing.first_last(frames[0], frames[-1], count)
        case "after":
            kept = 1 + temporal_factor * int(rng.integers(1, max((count - 1) // temporal_factor, 2)))
            return editing.keep_frames(count, (0, frames[: min(kept, count - 1)]))
        case "before":
            first = int(rng.integers(1, count))
            return editing.keep_frames(count, (first, frames[first:]))
        case "inside":
            return editing.repaint(frames, moving_box(count, height, width, rng))
        case "around":
            return editing.repaint(frames, ~moving_box(count, height, width, rng))


def moving_box(count: int, height: int, width: int, rng: np.random.Generator) -> Bool["f h w"]:
    """The inside of a box that moves evenly from one random place to another, and changes its size on the way."""
    begin, end = (_edges(height, width, rng) for _ in range(2))
    track = np.round(np.linspace(begin, end, count)).astype(int)
    return np.concatenate([editing.box_mask(1, height, width, (x, y, w, h)) for x, y, w, h in track])


def _edges(height: int, width: int, rng: np.random.Generator) -> tuple[float, ...]:
    """Left, top, width and height of a box."""
    w, h = (side * rng.uniform(_LEAST_SIDE, 0.75) for side in (width, height))
    return rng.uniform(0, width - w), rng.uniform(0, height - h), w, h
