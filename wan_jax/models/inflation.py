"""From an image autoencoder to a video autoencoder and back (arXiv:2503.20314, §4.1.2: train the former first).

The image autoencoder has the tree of VAE 2.1, but its 3×3×3 kernels are 3×3, and nothing resamples time.  The paper
does not say how its weights are inflated.  Here the past gets zeros, so that the video autoencoder begins as the image
one: on a single frame they are equal, and of a clip it keeps frames 0, 4, 8, … and shows each of these, but the first,
four times.
"""

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from wan_jax.config import VAEConfig
from wan_jax.errors import WanError
from wan_jax.models.wan_vae import abstract_params
from wan_jax.typing import Params

_IN_TIME = "time_conv"  # the modules that an image has no use for
_VIDEO_AXES = 5  # of a kernel [kf kh kw c d]


def image_params(params: Params) -> Params:
    """The parameters that a single frame sees: the newest tap of each kernel, [h w c d], and no convolution in time."""
    flat = flatten_dict(params)
    return unflatten_dict(
        {path: x[-1] if x.ndim == _VIDEO_AXES else x for path, x in flat.items() if _IN_TIME not in path}
    )


def inflate(image: Params, config: VAEConfig) -> Params:
    """Parameters of `WanVAE(config)` that do to every frame what those of the image autoencoder do to an image.

    Args:
        image: as from `image_params`; tracers will do.
        config: of the video autoencoder.

    Raises:
        WanError: a parameter is missing, unknown or of another shape.
    """
    abstract = abstract_params(config)
    _check(image, jax.eval_shape(image_params, abstract))
    given = flatten_dict(image)

    def inflated(path: tuple[str, ...], like: jax.ShapeDtypeStruct) -> jax.Array:
        if _IN_TIME in path:
            return _newest_frame(like) if path[-1] == "kernel" else jnp.zeros(like.shape, like.dtype)
        return _with_past(given[path], like.shape[0]) if len(like.shape) == _VIDEO_AXES else given[path]

    return unflatten_dict({path: inflated(path, like) for path, like in flatten_dict(abstract).items()})


def _with_past(kernel: jax.Array, frames: int) -> jax.Array:
    """[f h w c d] from [h w c d]: zeros, then the kernel as the tap of the newest frame."""
    return jnp.pad(kernel[None], ((frames - 1, 0), (0, 0), (0, 0), (0, 0), (0, 0)))


def _newest_frame(like: jax.ShapeDtypeStruct) -> jax.Array:
    """A kernel [f 1 1 c d] that passes the newest frame on: once where d = c, to both frames of a pair where d = 2c."""
    *_, c, d = like.shape
    return jnp.zeros(like.shape, like.dtype).at[-1, 0, 0].set(jnp.tile(jnp.eye(c, dtype=like.dtype), (1, d // c)))


def _check(image: Params, expected: Params) -> None:
    found, wanted = (
        {path: tuple(x.shape) for path, x in flatten_dict(tree, sep="/").items()} for tree in (image, expected)
    )
    wrong = sorted(path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path))
    if wrong:
        path = wrong[0]
        raise WanError(
            f"{len(wrong)} parameters do not fit this image autoencoder, among them {path}: its shape is "
            f"{found.get(path, 'missing')}, expected {wanted.get(path, 'none')}; take the config it was trained with"
        )
