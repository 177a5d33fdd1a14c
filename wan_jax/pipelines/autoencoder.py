"""Frames of a video file to latents and back, chunk by chunk: padding, conversion on the device, cutting."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from wan_jax import sharding
from wan_jax.cache import enable_compilation_cache
from wan_jax.checkpoint import digest
from wan_jax.config import VAEConfig
from wan_jax.errors import WanError
from wan_jax.models import streaming, tiling
from wan_jax.models.tiling import Tiling
from wan_jax.models.wan_vae import WanVAE
from wan_jax.pipelines.loading import load_vae
from wan_jax.precision import default_vae_dtype, parse_dtype
from wan_jax.typing import Float, Params, UInt8


@dataclass(frozen=True)
class Autoencoder:
    """A model's autoencoder on its devices.

    Attributes:
        name: of the model.
        vae, params: the network.
        mesh: the devices.
        tiling: cuts frames into tiles; None leaves them whole.
    """

    name: str
    vae: WanVAE
    params: Params
    mesh: Mesh
    tiling: Tiling | None

    @property
    def config(self) -> VAEConfig:
        return self.vae.config

    def encode(self, frames: Iterable[UInt8["h w c"]]) -> Iterator[Float["f h w c"]]:
        """Yields normalised latents, a frame at a time.

        Edges are repeated up to whole latents: below, on the right, and at the end.
        """
        pieces = (from_pixels(piece) for piece in _chunks(frames, self.config))
        run = streaming.encode_chunks if self.tiling is None else partial(tiling.encode_chunks, tiling=self.tiling)
        chunks = run(self.vae, self.params, pieces)
        for chunk in self._on_mesh(chunks):
            yield sharding.to_host(chunk)[0] if isinstance(chunk, jax.Array) else chunk[0]

    def decode(self, latents: Iterable[Float["b f h w c"]]) -> Iterator[Float["b f h w c"]]:
        """Yields pixels in [-1, 1] of pieces of latents, a latent frame's at a time, on the device."""
        run = streaming.decode_chunks if self.tiling is None else partial(tiling.decode_chunks, tiling=self.tiling)
        return self._on_mesh(run(self.vae, self.params, latents))

    def fingerprint(self) -> str:
        """Twelve hex digits that change when a weight does, but not with the dtype."""
        return _fingerprint(self.params)

    def latents_fingerprint(self) -> str:
        """The same of what latents depend on: another decoder may read them."""
        return _fingerprint({name: self.params[name] for name in ("encoder", "quant_conv")})

    def _on_mesh(self, chunks: Iterator[Any]) -> Iterator[Any]:
        """Only while a chunk is made, as a generator's surroundings are those of its caller."""
        while True:
            with jax.set_mesh(self.mesh):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk


def open_autoencoder(model: str, dtype: Any = None, mesh: Mesh | str | None = None, tile: int | None = None):
    """The autoencoder of a model.

    Args:
        model: see `WanPipeline.from_pretrained`.
        dtype: of its matrix products; None is float32, and bfloat16 on TPU.
        mesh: the devices to share the work; see `WanPipeline.from_pretrained`.
        tile: cut frames into overlapping squares of so many pixels; approximate, for one device.

    Raises:
        WanError: there is no such model, or tiles are asked for where several devices share frames.
    """
    enable_compilation_cache()
    dtype = parse_dtype(dtype or default_vae_dtype())
    mesh = sharding.as_mesh(mesh)
    if tile is not None and mesh.size > 1:
        raise WanError(f"tile={tile} is for one device; {mesh.size} devices share frames exactly, without tiles")
    tiles = None
    if tile is not None:
        if tile < 32 or tile % 8:
            raise WanError(f"tile={tile} must be a multiple of 8, at least 32; 512 is usual")
        tiles = Tiling(tile, tile // 32 * 8)
    name, config, params = load_vae(model, dtype, mesh)
    return Autoencoder(name, WanVAE(config, dtype), params, mesh, tiles)


@partial(jax.jit, static_argnames=("height", "width"))
def to_pixels(chunk: Float["1 f h w 3"], height: int, width: int) -> tuple[UInt8["f h w 3"], jax.Array]:
    """The frames' upper left part as bytes, truncated as in `export_to_video`, and whether all values are finite."""
    unit = to_unit_range(chunk[0, :, :height, :width])
    return (unit * 255).astype(jnp.uint8), jnp.all(jnp.isfinite(unit))


def to_unit_range(video: jax.Array) -> jax.Array:
    """[-1, 1] to [0, 1]."""
    return jnp.clip(video / 2 + 0.5, 0, 1)


def fetch(pixels: jax.Array, finite: jax.Array) -> UInt8["f h w 3"]:
    """What `to_pixels` made, on the host.

    Raises:
        WanError: not all values are finite.
    """
    if not finite:
        raise WanError("the frames hold NaN or infinite values: the model's output is broken")
    return sharding.to_host(pixels)


@jax.jit
def from_pixels(frames: UInt8["b f h w 3"]) -> Float["b f h w 3"]:
    """As the network takes them: float32 from -1 to 1."""
    return frames / jnp.float32(127.5) - 1


def _chunks(frames: Iterable[UInt8["h w c"]], config: VAEConfig) -> Iterator[UInt8["1 f h w 3"]]:
    """One frame, then as many as a latent frame stands for; the last is repeated until its chunk is full."""
    frames, length = iter(frames), 1
    while held := list(itertools.islice(frames, length)):
        held += held[-1:] * (length - len(held))
        h, w, _ = held[0].shape
        margin = ((0, 0), (0, -h % config.spatial_factor), (0, -w % config.spatial_factor), (0, 0))
        yield np.pad(np.stack(held), margin, mode="edge")[None]
        length = config.temporal_factor


def _fingerprint(params: Params) -> str:
    # Rounded: the same whether they were read as float32 or as bfloat16.
    rounded = (np.asarray(leaf.astype(jnp.bfloat16)) for leaf in jax.tree.leaves(params))
    return digest(np.frombuffer("".join(map(digest, rounded)).encode(), np.uint8))[:12]
