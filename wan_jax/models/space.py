"""Frames cut into tiles, with exact results for any size and any device count.

Each device holds a horizontal strip of every frame and cuts that into tiles, which count as a batch: [b·t f h w c].
All tiles are of one size, so the last ones may reach beyond the frame.  A convolution asks for its margin with `pad`:
at the frame's edge these are zeros, elsewhere the neighbouring tiles' pixels (the halo), and pixels beyond the frame
are cleared first, so that they are zeros to it as well.  Attention asks for the pixels of a `strip` and of
`whole_frames`.  Nothing else looks beyond a pixel; without tiles these functions are what one would write anyway.

A TPU makes its vectors of 128 from the batch where that is as large.  A convolution's window then moves over whole
vectors, never inside one: 3×3×3 taps of 96 channels at 720p take 14.6 Mcyc of a v6e for 81 frames over 8 chips, where
vectors of columns take 38.8 (one convolution for each of three columns) and XLA's own choice for one frame 26, beside
180 for copies.  Elsewhere a strip is one tile: rows are contiguous, so halos are copied without touching the layout.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import product
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P

from wan_jax.sharding import ambient_mesh, is_tpu
from wan_jax.typing import Float, typechecked

_HEIGHT, _WIDTH = 2, 3  # of [b f h w c]


@dataclass(frozen=True)
class Tiles:
    """How the frames of the code that is being traced are cut.  Lengths are in latents.

    Attributes:
        axes: the mesh axes over which they are, all of them.
        devices: how many are on these axes.
        frame: height and width of a frame.
        tile: height and width of a tile.
    """

    axes: tuple[str, ...]
    devices: int
    frame: tuple[int, int]
    tile: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles on each device."""
        return -(-self.frame[0] // (self.tile[0] * self.devices)), -(-self.frame[1] // self.tile[1])

    @property
    def covered(self) -> tuple[int, int]:
        """Height and width of all tiles of all devices; at least the frame's."""
        rows, columns = self.grid
        return self.devices * rows * self.tile[0], columns * self.tile[1]

    def scale(self, x: jax.Array) -> int:
        """Rows of `x`, which is in tiles, in a latent row."""
        return x.shape[_HEIGHT] // self.tile[0]


_tiles: ContextVar[Tiles | None] = ContextVar("tiles", default=None)


def vector_length() -> int:
    """The number of tiles, or a divisor of it, that a device does well."""
    return 128 if is_tpu() else 1


def cut(axes: tuple[str, ...], devices: int, height: int, width: int) -> Tiles:
    """The tiles that take the fewest pixels of convolution, counting halos and vectors that are not full."""

    def pixels(tiles: Tiles) -> int:
        rows, columns = tiles.grid
        h, w = (8 * length + 2 for length in tiles.tile)
        return -(-rows * columns // vector_length()) * vector_length() * h * w

    sizes = product(range(1, -(-height // devices) + 1), range(1, width + 1))
    return min((Tiles(axes, devices, (height, width), size) for size in sizes), key=pixels)


def in_tiles(module: nn.Module, x: Float["b f h w c"], cache: Any, pixels_per_latent: int) -> tuple[jax.Array, Any]:
    """`module(x, cache)`, (x, cache) → (y, cache), on tiles of the frames over all devices of the ambient mesh.

    Args:
        module: it looks beyond a pixel only through this file.
        x: its input, wherever that lives.
        cache: a tree of [f h w c b·t] from the call before, or None.
        pixels_per_latent: rows of `x` in a latent row, and columns in a latent column.

    Returns:
        y, which may lie anywhere, and the cache, which stays in tiles.
    """
    mesh = ambient_mesh()
    height, width = (x.shape[i] // pixels_per_latent for i in (_HEIGHT, _WIDTH))
    axes, devices = ((), 1) if mesh is None else (mesh.axis_names, mesh.size)
    tiles = cut(axes, devices, height, width)
    if module.is_initializing() or (mesh is None and tiles.grid == (1, 1)):
        return module(x, cache)
    x = _resize(x, [length * pixels_per_latent for length in tiles.covered])
    pure, variables = module.unbind()

    def on_a_device(variables, x, cache):
        with _cut(tiles):
            y, cache = pure.apply(variables, split(x), jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), cache))
            return strip(y), jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), cache)

    if mesh is not None:
        rows, batch = P(None, None, mesh.axis_names), cache_spec(mesh)
        # Unchecked, so that loops in the module may start from plain zeros.
        on_a_device = jax.shard_map(on_a_device, in_specs=(P(), rows, batch), out_specs=(rows, batch), check_vma=False)
    y, cache = on_a_device(variables, x, cache)
    scale = y.shape[_WIDTH] // tiles.covered[1]
    return _resize(y, [length * scale for length in tiles.frame]), cache


def cache_spec(mesh: Mesh | AbstractMesh) -> P:
    """How the cache lies between calls: by tiles."""
    return P(None, None, None, None, mesh.axis_names)


def is_cut() -> bool:
    """Whether there are tiles that have neighbours."""
    return _tiles.get() is not None


@typechecked
def pad(x: Float["b f h w c"], before: int, after: int) -> Float["b f i j c"]:
    """Puts rows and columns around each frame: zeros, or what the neighbouring tiles hold there."""
    if not before and not after:
        return x
    tiles = _tiles.get()
    if tiles is None:
        return jnp.pad(x, ((0, 0), (0, 0), (before, after), (before, after), (0, 0)))
    x = _clear_overhang(x, tiles)
    h, w = x.shape[_HEIGHT], x.shape[_WIDTH]
    above = _from_above(x[:, :, h - before :], tiles)
    below = _from_below(x[:, :, :after], tiles)

    def column(start: int, stop: int) -> jax.Array:
        """These columns of the tile with its rows above and below."""
        return jnp.concatenate([part[:, :, :, start:stop] for part in (above, x, below)], axis=_HEIGHT)

    left, right = _from_left(column(w - before, w), tiles), _from_right(column(0, after), tiles)
    return jnp.concatenate([left, column(0, w), right], axis=_WIDTH)


@typechecked
def split(x: Float["b f h w c"]) -> Float["n f i j c"]:
    """The tiles of a device's strip."""
    tiles = _tiles.get()
    if tiles is None:
        return x
    (b, f, h, w, c), (rows, columns) = x.shape, tiles.grid
    x = x.reshape(b, f, rows, h // rows, columns, w // columns, c).transpose(0, 2, 4, 1, 3, 5, 6)
    return x.reshape(b * rows * columns, *x.shape[3:])


@typechecked
def strip(x: Float["n f i j c"]) -> Float["b f h w c"]:
    """A device's strip, of which `x` are the tiles."""
    tiles = _tiles.get()
    if tiles is None:
        return x
    x = _on_grid(x, tiles).transpose(0, 3, 1, 4, 2, 5, 6)
    b, f, rows, h, columns, w, c = x.shape
    return x.reshape(b, f, rows * h, columns * w, c)


@typechecked
def whole_frames(x: Float["n f i j c"]) -> Float["b f h w c"]:
    """The frames of which `x` are this device's tiles."""
    tiles = _tiles.get()
    if tiles is None:
        return x
    frames = strip(x)
    if tiles.axes:
        frames = lax.all_gather(frames, tiles.axes, axis=_HEIGHT, tiled=True)
    return _resize(frames, [length * tiles.scale(x) for length in tiles.frame])


@contextmanager
def _cut(tiles: Tiles) -> Iterator[None]:
    token = _tiles.set(tiles)
    try:
        yield
    finally:
        _tiles.reset(token)


def _on_grid(x: jax.Array, tiles: Tiles) -> jax.Array:
    """[b rows columns f h w c] from [b·t f h w c]."""
    rows, columns = tiles.grid
    return x.reshape(x.shape[0] // (rows * columns), rows, columns, *x.shape[1:])


def _shift(x: jax.Array, axis: int, by: int) -> jax.Array:
    """Moves the elements along `axis` on by one place (1) or back (-1); what falls out is lost, zeros come in."""
    kept = lax.slice_in_dim(x, max(-by, 0), x.shape[axis] - max(by, 0), axis=axis)
    return jnp.pad(kept, [(max(by, 0), max(-by, 0)) if i == axis else (0, 0) for i in range(x.ndim)])


def _rows(x: jax.Array, tiles: Tiles, by: int) -> jax.Array:
    """What the tiles above (1) or below (-1) have in `x`; zeros from beyond the frame."""
    grid = _on_grid(x, tiles)
    moved = _shift(grid, 1, by)
    if tiles.axes:
        pairs = [(i, i + by) for i in range(tiles.devices) if 0 <= i + by < tiles.devices]
        end, start = (-1, 0) if by > 0 else (0, -1)
        # Who receives from nobody receives zeros: the frame's edge.
        moved = moved.at[:, start].set(lax.ppermute(grid[:, end], tiles.axes, pairs))
    return moved.reshape(x.shape)


def _from_above(x, tiles):
    return _rows(x, tiles, 1)


def _from_below(x, tiles):
    return _rows(x, tiles, -1)


def _from_left(x, tiles):
    return _shift(_on_grid(x, tiles), 2, 1).reshape(x.shape)


def _from_right(x, tiles):
    return _shift(_on_grid(x, tiles), 2, -1).reshape(x.shape)


def _resize(x: jax.Array, size: list[int]) -> jax.Array:
    """Cuts rows and columns off, or appends zeros."""
    x = x[:, :, : size[0], : size[1]]
    return jnp.pad(x, ((0, 0), (0, 0), *((0, n - x.shape[i]) for i, n in zip((_HEIGHT, _WIDTH), size)), (0, 0)))


def _clear_overhang(x: jax.Array, tiles: Tiles) -> jax.Array:
    """Zeros in the pixels beyond the frame, where a convolution has left its bias."""
    if tiles.covered == tiles.frame:
        return x
    device = lax.axis_index(tiles.axes) if tiles.axes else 0
    (h, w), (rows, columns), (height, width) = x.shape[_HEIGHT : _WIDTH + 1], tiles.grid, tiles.frame
    row = (device * rows + jnp.arange(rows)[:, None]) * h + jnp.arange(h)
    column = jnp.arange(columns)[:, None] * w + jnp.arange(w)
    scale = tiles.scale(x)
    inside = (row < height * scale)[:, None, None, :, None, None] & (column < width * scale)[:, None, None, :, None]
    return jnp.where(inside, _on_grid(x, tiles), 0).reshape(x.shape)
