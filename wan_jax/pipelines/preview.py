"""What a video is going to be, while it is made: latents to colours by a linear map.

The map is fitted to the autoencoder at hand, on what it makes of random latents, so it is right for every model.  A
table for another one would turn colours round.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from wan_jax.cluster import is_leader
from wan_jax.pipelines.contact_sheet import write_frames
from wan_jax.sharding import to_host
from wan_jax.typing import Float, typechecked

if TYPE_CHECKING:
    from wan_jax.pipelines.wan import WanPipeline

_CELLS = 32  # latents along each side of a picture that the map is fitted to
_PICTURES = 4
_ZOOM = 4  # pixels of a preview for each latent


class Preview:
    """A callback for `WanPipeline.__call__` that keeps a picture of what is being made: eight frames of it.

    pipe("a red ball", callback_on_step_end=Preview("preview.png"))
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._colours: Float["n 3"] | None = None

    def __call__(self, pipe: "WanPipeline", step: int, timestep: int, tensors: dict[str, Any]) -> None:
        if self._colours is None:
            self._colours = fit_colours(pipe)
        latents = of_callback(tensors["denoised"])
        if is_leader():
            write_frames(self._path, enlarged(colours_of(latents, self._colours)))


def of_callback(latents: Float["b c f h w"]) -> Float["f h w c"]:
    """Of what a callback is given, that of the first video, on the host."""
    return np.moveaxis(to_host(latents)[0], 0, -1)


def fit_colours(pipe: "WanPipeline") -> Float["n 3"]:
    """The linear map from a latent, and 1, to the mean colour of its pixels, by least squares."""
    rng = np.random.default_rng(0)
    side, latents, colours = pipe.config.vae.spatial_factor, [], []
    for _ in range(_PICTURES):
        one = rng.standard_normal((1, 1, _CELLS, _CELLS, pipe.config.vae.z_dim)).astype(np.float32)
        pixels = np.asarray(pipe.decode(jnp.asarray(one))).reshape(_CELLS, side, _CELLS, side, 3)
        latents.append(one.reshape(_CELLS**2, -1))
        colours.append(pixels.mean((1, 3)).reshape(_CELLS**2, 3))
    return np.linalg.lstsq(_with_one(np.concatenate(latents)), np.concatenate(colours), rcond=None)[0]


@typechecked
def colours_of(latents: Float["f h w c"], colours: Float["n 3"]) -> Float["f h w 3"]:
    """A frame in [0, 1] for each latent frame, a pixel for each latent."""
    return np.clip(_with_one(latents) @ colours, 0, 1).astype(np.float32)


def enlarged(frames: Float["f h w 3"]) -> Float["f i j 3"]:
    """Each pixel as a square."""
    return frames.repeat(_ZOOM, 1).repeat(_ZOOM, 2)


def _with_one(latents: Float["*n c"]) -> Float["*n d"]:
    return np.concatenate([latents, np.ones((*latents.shape[:-1], 1), np.float32)], axis=-1)
