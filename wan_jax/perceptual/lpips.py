"""LPIPS, the learned perceptual distance of images (Zhang et al. 2018, arXiv:1801.03924), version 0.1.

An image goes through a network that was trained to classify, whose features after five of its layers are normalised,
compared and weighted.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from wan_jax.errors import WanError
from wan_jax.perceptual.weights import SOURCES, load_weights
from wan_jax.precision import matmul_precision
from wan_jax.typing import Float, Params, typechecked

Net = Literal["vgg", "alex"]

# The mean and deviation of ImageNet's colours, moved from [0, 1] to [-1, 1] (the official lpips.py).
_SHIFT = np.float32([-0.030, -0.088, -0.188])
_SCALE = np.float32([0.458, 0.448, 0.450])
# Inside the root, so that features which are all zero have a gradient.  Those of pictures, black ones too, have squared
# lengths of 0.7 and more.
_EPS = 1e-10


@dataclass(frozen=True)
class _Layout:
    """Five blocks of convolutions.

    Attributes:
        convs: how many each block has.
        pools: the window of the max pool, of stride 2, before each block; 0 for none.
        stride, padding: of the very first convolution; the others keep the size.
        min_size: the shortest side that leaves the last block a pixel.
        trunk: what the file of weights calls the network.
    """

    convs: tuple[int, ...]
    pools: tuple[int, ...]
    stride: int
    padding: int
    min_size: int
    trunk: str


_LAYOUTS = {
    "vgg": _Layout((2, 2, 3, 3, 3), (0, 2, 2, 2, 2), stride=1, padding=1, min_size=16, trunk="VGG16_0"),
    "alex": _Layout((1, 1, 1, 1, 1), (0, 3, 3, 0, 0), stride=4, padding=2, min_size=31, trunk="AlexNet_0"),
}


def load(net: Net) -> Params:
    """The pretrained weights, fetched the first time: see `from_named`.

    Raises:
        WanError: they cannot be fetched; the message says what to do.
    """
    return from_named(load_weights(SOURCES[net]), net)


def from_named(weights: dict[str, np.ndarray], net: Net) -> Params:
    """{"convs": [{"kernel" [h w c c], "bias" [c]}, …], "heads": [[c], …]} from weights by their names in the file."""
    layout = _LAYOUTS[net]
    convs = [f"{layout.trunk}/Conv_{i}" for i in range(sum(layout.convs))]
    heads = [f"NetLinLayer_{i}/Conv_0" for i in range(len(layout.convs))]
    return {
        "convs": [{part: jnp.asarray(weights[f"{conv}/{part}"]) for part in ("kernel", "bias")} for conv in convs],
        "heads": [jnp.asarray(weights[f"{head}/kernel"]).reshape(-1) for head in heads],
    }


@partial(jax.jit, static_argnames=("net", "dtype"))
@typechecked
def lpips(
    params: Params, a: Float["n h w 3"], b: Float["n h w 3"], net: Net = "vgg", dtype: DTypeLike = jnp.float32
) -> Float[" n"]:
    """The perceptual distance of each of n pairs of images in [-1, 1]; 0 for equal ones, about 0.7 for unlike ones.

    Convolutions compute in `dtype`, all else in float32.  The gradient is finite everywhere.

    Raises:
        WanError: the images are smaller than 16×16 (vgg) or 31×31 (alex).
    """
    layers = zip(features(params, a, net, dtype), features(params, b, net, dtype), params["heads"])
    return sum((jnp.square(_normalize(x) - _normalize(y)) * head).sum(-1).mean((1, 2)) for x, y, head in layers)


@typechecked
def features(
    params: Params, images: Float["n h w 3"], net: Net = "vgg", dtype: DTypeLike = jnp.float32
) -> list[jax.Array]:
    """What LPIPS compares of images in [-1, 1]: five arrays [n h w c] of `dtype`, from fine to coarse.

    Raises:
        WanError: the images are too small, as for `lpips`.
    """
    layout = _LAYOUTS[net]
    height, width = images.shape[1:3]
    if min(height, width) < layout.min_size:
        least = layout.min_size
        raise WanError(
            f"images of {width}x{height} are too small for LPIPS ({net}); it takes {least}x{least} and larger"
        )
    x = ((images.astype(jnp.float32) - _SHIFT) / _SCALE).astype(dtype)
    convs = iter(params["convs"])
    x = _conv(x, next(convs), layout.stride, [(layout.padding, layout.padding)] * 2)
    found = []
    for block, (count, window) in enumerate(zip(layout.convs, layout.pools)):
        if window:
            x = _max_pool(x, window)
        for _ in range(count - (block == 0)):  # the first convolution of all is done
            x = _conv(x, next(convs), 1, "SAME")
        found.append(x)
    return found


def _conv(x: jax.Array, conv: Params, stride: int, padding) -> jax.Array:
    """Convolution, bias, ReLU."""
    y = jax.lax.conv_general_dilated(
        x,
        conv["kernel"].astype(x.dtype),
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=matmul_precision(x.dtype),
    )
    return jax.nn.relu(y + conv["bias"].astype(x.dtype))


def _max_pool(x: jax.Array, window: int) -> jax.Array:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, 2, 2, 1), "VALID")


def _normalize(x: jax.Array) -> jax.Array:
    """Features of length 1, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + _EPS)
