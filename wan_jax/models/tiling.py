"""Huge frames in overlapping tiles, each a stream of its own: approximate, on one device, in the memory of one tile.

The tiles' caches wait in host memory.  Where tiles overlap, their results are mixed with weights that change linearly
from one to the other.  There is no exact way to cut: attention in the middle sees a whole frame, and here only its
tile.  Several devices share frames exactly (`wan_jax.models.space`) and need no tiles.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import numpy as np

from wan_jax.errors import WanError
from wan_jax.models import streaming
from wan_jax.models.streaming import Video
from wan_jax.typing import Float, Params


@dataclass(frozen=True)
class Tiling:
    """Square tiles of `side` pixels, of which neighbours share `overlap` or a little more.

    Raises:
        WanError: there is no overlap, or nothing but overlap.
    """

    side: int
    overlap: int

    def __post_init__(self):
        if not 0 < self.overlap < self.side:
            raise WanError(f"tiles of {self.side} pixels cannot share {self.overlap}; a quarter is usual")


def encode_chunks(
    vae: nn.Module, params: Params, video: Video | Iterable[Video], tiling: Tiling, frames_per_chunk: int = 1
) -> Iterator[np.ndarray]:
    """`streaming.encode_chunks` in tiles.

    Raises:
        WanError: as there; or a tile is not made of whole latents.
    """
    run = partial(streaming.encode_chunks, vae, params, frames_per_chunk=frames_per_chunk, offload=True)
    return _in_tiles(run, video, tiling, vae.config.spatial_factor, encodes=True)


def decode_chunks(
    vae: nn.Module, params: Params, latents: Video | Iterable[Video], tiling: Tiling, frames_per_chunk: int = 1
) -> Iterator[np.ndarray]:
    """`streaming.decode_chunks` in tiles.

    Raises:
        WanError: as there; or a tile is not made of whole latents.
    """
    run = partial(streaming.decode_chunks, vae, params, frames_per_chunk=frames_per_chunk, offload=True)
    return _in_tiles(run, latents, tiling, vae.config.spatial_factor, encodes=False)


def _in_tiles(
    run: Callable[[Iterator[Video]], Iterator[Video]],
    video: Video | Iterable[Video],
    tiling: Tiling,
    unit: int,
    encodes: bool,
) -> Iterator[np.ndarray]:
    """`run` on every tile of frames [b f h w c], and the mixture of its results; `unit`: pixels to a latent."""
    if tiling.side % unit or tiling.overlap % unit:
        raise WanError(f"tiles of {tiling.side} pixels that share {tiling.overlap}: both must be multiples of {unit}")
    pieces = iter([video] if isinstance(video, Video) else video)
    first = next(pieces, None)
    if first is None:
        raise WanError("there is no frame")
    before, after = (unit, 1) if encodes else (1, unit)  # pixels to a latent in what comes and goes
    axes = [_cuts(size // before, tiling.side // unit, tiling.overlap // unit) for size in first.shape[2:4]]
    tiles = list(itertools.product(*axes))
    copies = itertools.tee(itertools.chain([first], pieces), len(tiles))
    streams = [run(_cropped(copy, *tile, before)) for copy, tile in zip(copies, tiles)]
    height, width = (size // before * after for size in first.shape[2:4])
    weights = [
        rows[:, None, None] * columns[:, None]
        for rows, columns in itertools.product(_weights(axes[0], after), _weights(axes[1], after))
    ]
    while (chunk := next(streams[0], None)) is not None:
        b, f, _, _, c = chunk.shape
        mixed = np.zeros((b, f, height, width, c), np.float32)
        for (rows, columns), weight, stream in zip(tiles, weights, streams):
            part = np.asarray(chunk if stream is streams[0] else next(stream))
            mixed[:, :, _scaled(rows, after), _scaled(columns, after)] += part * weight
        yield mixed


def _cropped(pieces: Iterator[Video], rows: slice, columns: slice, scale: int) -> Iterator[Video]:
    for piece in pieces:
        yield piece[:, :, _scaled(rows, scale), _scaled(columns, scale)]


def _cuts(size: int, side: int, overlap: int) -> list[slice]:
    """As few pieces of one length as cover `size`, evenly spread."""
    if size <= side:
        return [slice(0, size)]
    count = -(-(size - overlap) // (side - overlap))
    starts = np.linspace(0, size - side, count).astype(int).tolist()
    return [slice(start, start + side) for start in starts]


def _scaled(cut: slice, scale: int) -> slice:
    return slice(cut.start * scale, cut.stop * scale)


def _weights(cuts: list[slice], scale: int) -> list[Float[" n"]]:
    """What each row of each piece weighs: the nearer it is to its piece's edge, the less; everywhere one in all."""
    cuts = [_scaled(cut, scale) for cut in cuts]
    side = cuts[0].stop
    ramp = np.minimum(np.arange(side) + 0.5, np.arange(side)[::-1] + 0.5)
    total = np.zeros(cuts[-1].stop)
    for cut in cuts:
        total[cut] += ramp
    return [(ramp / total[cut]).astype(np.float32) for cut in cuts]
