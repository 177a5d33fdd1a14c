"""How close two videos are."""

import jax
import jax.numpy as jnp
import numpy as np

from wan_jax.typing import Float, typechecked


@jax.jit
@typechecked
def psnr(a: Float["f h w c"], b: Float["f h w c"]) -> Float[""]:
    """Peak signal-to-noise ratio in dB of videos in [0, 1], averaged over frames; infinite for equal frames."""
    error = jnp.mean(jnp.square(a - b), axis=(1, 2, 3), dtype=jnp.float32)
    return jnp.mean(-10.0 * jnp.log10(error))


@jax.jit
@typechecked
def ssim(a: Float["f h w c"], b: Float["f h w c"]) -> Float[""]:
    """Structural similarity of videos in [0, 1], averaged over frames, channels and positions.

    Wang et al. 2004 ("Image quality assessment: from error visibility to structural similarity"): gaussian window of
    11×11 with a deviation of 1.5, only where it fits into the frame, constants 0.01² and 0.03².
    """
    return jnp.mean(jax.lax.map(lambda frames: _ssim(*frames), (a, b)))


def _ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    # Variances do not depend on the origin, and lose least when the values are small.
    a, b = a.astype(jnp.float32) - 0.5, b.astype(jnp.float32) - 0.5
    mean_a, mean_b = _blur(a), _blur(b)
    variance = _blur(a * a) - mean_a**2 + _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + 0.5, mean_b + 0.5
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    return jnp.mean(luminance * (2 * covariance + 0.03**2) / (variance + 0.03**2))


def _blur(x: jax.Array) -> jax.Array:
    """The local mean [h-10 w-10 c] under the gaussian window."""
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    for axis in (0, 1):
        size = x.shape[axis] - 10
        shifted = [jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(11)]
        x = sum(weight * part for weight, part in zip((window / window.sum()).tolist(), shifted))
    return x
