"""What of a clip a VACE model is shown while it learns: a task for every clip, drawn at random.

`data build --units` keeps the condition unit of the task beside the clip's latents, made from pixels as the pipeline
makes it.  VACE does not say how it mixes its tasks (arXiv:2503.07598 §4.1); these shares are ours.
"""

import numpy as np

from wan_jax import editing
from wan_jax.typing import Bool, UInt8, typechecked
from wan_jax.vcu import Canvas

SHARES = {"text": 0.2, "first": 0.2, "ends": 0.1, "after": 0.15, "before": 0.1, "inside": 0.15, "around": 0.1}
_LEAST_SIDE = 0.25  # of a box to be filled in, as a share of the frame


@typechecked
def draw_canvas(frames: UInt8["f h w 3"], temporal_factor: int, rng: np.random.Generator) -> Canvas:
    """A task made of a clip: what is kept of it, and what is to be generated.

    Whole latent frames are kept at the beginning of a clip that is continued; elsewhere any frames are.
    """
    count, height, width, _ = frames.shape
    match rng.choice(list(SHARES), p=list(SHARES.values())):
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
