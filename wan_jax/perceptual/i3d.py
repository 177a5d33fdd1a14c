"""I3D (Carreira and Zisserman 2017, arXiv:1705.07750), trained on Kinetics-400: the network that FVD looks through."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from wan_jax.errors import WanError
from wan_jax.perceptual.weights import SOURCES, load_weights
from wan_jax.precision import matmul_precision
from wan_jax.typing import Float, Params, typechecked

MIN_FRAMES = 9  # after three halvings, the last pool wants two
_SIZE = 224
_BATCH_NORM_EPS = 1e-3  # Sonnet's default
# The blocks in order; numbers are windows and strides [f h w] of a max pool before them.
_BLOCKS = (
    ((1, 3, 3), (1, 2, 2), ("Mixed_3b", "Mixed_3c")),
    ((3, 3, 3), (2, 2, 2), ("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f")),
    ((2, 2, 2), (2, 2, 2), ("Mixed_5b", "Mixed_5c")),
)


def load() -> Params:
    """The pretrained weights, fetched the first time: see `from_named`.

    Raises:
        WanError: they cannot be fetched; the message says what to do.
    """
    return from_named(load_weights(SOURCES["i3d"]))


def from_named(weights: dict[str, np.ndarray]) -> Params:
    """A tree of convolutions {"kernel" [f h w c c], "bias" [c]} from weights by their names in the file.

    Each batch norm only shifts and scales when nothing is trained: it goes into the convolution before it.
    """
    params = {}
    for name, kernel in weights.items():
        if name.endswith("/Conv_0/kernel"):
            unit = name.removeprefix("params/").removesuffix("/Conv_0/kernel")
            params[unit] = _fold(weights, unit, kernel)
    return unflatten_dict(params, sep="/")


def _fold(weights: dict[str, np.ndarray], unit: str, kernel: np.ndarray) -> Params:
    norm, statistics = f"params/{unit}/BatchNorm_0/bias", f"batch_stats/{unit}/BatchNorm_0"
    if norm not in weights:  # the last layer has none
        return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(weights[f"params/{unit}/Conv_0/bias"])}
    mean, variance = (np.float64(weights[f"{statistics}/{part}"]).reshape(-1) for part in ("mean", "var"))
    scale = 1 / np.sqrt(variance + _BATCH_NORM_EPS)
    return {
        "kernel": jnp.asarray(kernel * scale, jnp.float32),
        "bias": jnp.asarray(weights[norm].reshape(-1) - mean * scale, jnp.float32),
    }


@jax.jit
@typechecked
def logits(params: Params, videos: Float["n f h w 3"]) -> Float["n c"]:
    """The 400 logits of n videos in [-1, 1], averaged over time; frames are resized to 224×224 as FVD does it.

    Raises:
        WanError: the videos have fewer than 9 frames.
    """
    if (frames := videos.shape[1]) < MIN_FRAMES:
        raise WanError(f"I3D, and with it FVD, takes videos of {MIN_FRAMES} frames and more, not of {frames}")
    x = _resize(_resize(videos.astype(jnp.float32), axis=2), axis=3)
    x = _unit(params["Conv3d_1a_7x7"], x, stride=2)
    x = _max_pool(x, (1, 3, 3), (1, 2, 2))
    x = _unit(params["Conv3d_2b_1x1"], x)
    x = _unit(params["Conv3d_2c_3x3"], x)
    for window, strides, names in _BLOCKS:
        x = _max_pool(x, window, strides)
        for name in names:
            x = _inception(params[name], x)
    # The official pool is 2×7×7 with stride 1: frames at the ends count half as much as those between.
    x = x.mean((2, 3))
    x = (x[:, :-1] + x[:, 1:]).mean(1) / 2
    head = params["Logits"]["Conv3d_0c_1x1"]
    return jnp.dot(x, head["kernel"][0, 0, 0], precision=matmul_precision(x.dtype)) + head["bias"]


def _inception(params: Params, x: jax.Array) -> jax.Array:
    """Four branches side by side, along the channels."""
    second, third = params["Branch_1"], params["Branch_2"]
    branches = [
        _unit(params["Branch_0"]["Conv3d_0a_1x1"], x),
        _unit(second["Conv3d_0b_3x3"], _unit(second["Conv3d_0a_1x1"], x)),
        _unit(third["Conv3d_0b_3x3"], _unit(third["Conv3d_0a_1x1"], x)),
        _unit(params["Branch_3"]["Conv3d_0b_1x1"], _max_pool(x, (3, 3, 3), (1, 1, 1))),
    ]
    return jnp.concatenate(branches, axis=-1)


def _unit(conv: Params, x: jax.Array, stride: int = 1) -> jax.Array:
    """Convolution, bias, ReLU; padded as TensorFlow pads."""
    y = jax.lax.conv_general_dilated(
        x,
        conv["kernel"],
        (stride,) * 3,
        "SAME",
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        precision=matmul_precision(x.dtype),
    )
    return jax.nn.relu(y + conv["bias"])


def _max_pool(x: jax.Array, window: tuple[int, ...], strides: tuple[int, ...]) -> jax.Array:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, *window, 1), (1, *strides, 1), "SAME")


def _resize(x: jax.Array, axis: int) -> jax.Array:
    """Bilinear along one axis, without anti-aliasing and from corner to corner of the pixels' grid.

    So does TensorFlow 1's `resize_bilinear`, which the official FVD calls
    (google-research, frechet_video_distance/frechet_video_distance.py).
    """
    size = x.shape[axis]
    position = np.arange(_SIZE) * size / _SIZE
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, size - 1)
    weight = np.expand_dims(np.float32(position - low), tuple(range(1, x.ndim - axis)))
    return jnp.take(x, low, axis) * (1 - weight) + jnp.take(x, high, axis) * weight
