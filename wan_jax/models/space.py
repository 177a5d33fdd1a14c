"""Frames cut into horizontal strips, one for each device, with exact results for any height and any device count.

A strip has as many latent rows on every device, so the last ones may reach beyond the frame.  A convolution asks for
its margin with `pad`: at the frame's edge these are zeros, between strips the neighbours' rows (the halo), and rows
beyond the frame are cleared first, so that they are zeros to it as well.  Attention asks for `whole_frames`.  Nothing
else looks beyond a pixel; on one device both functions are what one would write without strips.

Height is cut rather than width because rows are contiguous: halos are copied without touching the layout, and a TPU's
vectors, made of columns, stay full.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P

from wan_jax.sharding import ambient_mesh
from wan_jax.typing import Float, typechecked

_HEIGHT = 2  # of [b f h w c]


@dataclass(frozen=True)
class _Strips:
    """How the frames of the code that is being traced are cut.

    Attributes:
        axes: the mesh axes over which they are, all of them.
        count: the devices on these axes.
        height: latent rows of a frame.
        strip: latent rows of a strip; count · strip ≥ height.
    """

    axes: tuple[str, ...]
    count: int
    height: int
    strip: int

    def true_height(self, strip_rows: int) -> int:
        """The rows of a frame at the resolution at which a strip has `strip_rows`."""
        return self.height * strip_rows // self.strip


_strips: ContextVar[_Strips | None] = ContextVar("strips", default=None)


def in_strips(module: nn.Module, x: Float["b f h w c"], cache: Any, rows_per_latent: int) -> tuple[jax.Array, Any]:
    """`module(x, cache)`, (x, cache) → (y, cache), on strips of the frames over all devices of the ambient mesh.

    Args:
        module: it looks beyond a pixel only through this file.
        x: its input, wherever that lives.
        cache: a tree of [b f h w c] from the call before, or None.
        rows_per_latent: rows of `x` in a latent row.

    Returns:
        y, which may lie anywhere, and the cache, which stays in strips and is as high as all of them.
    """
    mesh = ambient_mesh()
    if mesh is None or module.is_initializing():
        return module(x, cache)
    height = x.shape[_HEIGHT] // rows_per_latent
    strips = _Strips(mesh.axis_names, mesh.size, height, -(-height // mesh.size))
    overhang = (strips.count * strips.strip - height) * rows_per_latent
    x = jnp.pad(x, ((0, 0), (0, 0), (0, overhang), (0, 0), (0, 0)))
    pure, variables = module.unbind()

    def on_a_strip(variables, x, cache):
        with _cut(strips):
            return pure.apply(variables, x, cache)

    rows = strip_spec(mesh)
    # Unchecked, so that loops in the module may start from plain zeros.
    run = jax.shard_map(on_a_strip, in_specs=(P(), rows, rows), out_specs=rows, check_vma=False)
    y, cache = run(variables, x, cache)
    return y[:, :, : strips.true_height(y.shape[_HEIGHT] // strips.count)], cache


def strip_spec(mesh: Mesh | AbstractMesh) -> P:
    """How the cache lies between calls."""
    return P(None, None, mesh.axis_names)


@typechecked
def pad(x: Float["b f h w c"], before: int, after: int) -> Float["b f i j c"]:
    """Puts rows and columns around each frame: zeros, or what the neighbouring strips hold there."""
    if not before and not after:
        return x
    margin = (before, after)
    strips = _strips.get()
    if strips is None:
        return jnp.pad(x, ((0, 0), (0, 0), margin, margin, (0, 0)))
    x = _clear_overhang(x, strips)
    h, last = x.shape[_HEIGHT], strips.count - 1
    # Who receives from nobody receives zeros: the frame's edge.
    above = lax.ppermute(x[:, :, h - before :], strips.axes, [(i, i + 1) for i in range(last)])
    below = lax.ppermute(x[:, :, :after], strips.axes, [(i + 1, i) for i in range(last)])
    # Columns last: a TPU then writes all of it in one pass.
    return jnp.pad(jnp.concatenate([above, x, below], axis=_HEIGHT), ((0, 0), (0, 0), (0, 0), margin, (0, 0)))


@typechecked
def whole_frames(x: Float["b f h w c"]) -> Float["b f i w c"]:
    """The frames of which `x` is this device's strip."""
    strips = _strips.get()
    if strips is None:
        return x
    frames = lax.all_gather(x, strips.axes, axis=_HEIGHT, tiled=True)
    return frames[:, :, : strips.true_height(x.shape[_HEIGHT])]


@contextmanager
def _cut(strips: _Strips) -> Iterator[None]:
    token = _strips.set(strips)
    try:
        yield
    finally:
        _strips.reset(token)


def _clear_overhang(x: jax.Array, strips: _Strips) -> jax.Array:
    """Zeros in the rows beyond the frame, where a convolution has left its bias."""
    if strips.count * strips.strip == strips.height:
        return x
    h = x.shape[_HEIGHT]
    rows = lax.axis_index(strips.axes) * h + jnp.arange(h)
    return jnp.where((rows < strips.true_height(h))[:, None, None], x, 0)
