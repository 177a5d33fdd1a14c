"""FVD, the Fréchet distance between two sets of videos (Unterthiner et al. 2018, arXiv:1812.01717)."""

import jax
import numpy as np

from wan_jax.errors import WanError
from wan_jax.perceptual import i3d
from wan_jax.typing import Float, Params, typechecked

_BATCH = 4  # videos at a time: 16 frames take about 1 GB each


@typechecked
def fvd(params: Params, a: Float["n f h w 3"], b: Float["m f h w 3"]) -> float:
    """The FVD of two sets of videos in [-1, 1], given the weights of `i3d.load()`; 0 for equal sets.

    Its estimate is biased upward, the more so the fewer the videos: compare only sets of one size, at least 256
    videos each; 2048 are usual.  Sets too large for memory go through `features` in parts.

    Raises:
        WanError: fewer than 9 frames, or than 2 videos.
    """
    return frechet_distance(features(params, a), features(params, b))


@typechecked
def features(params: Params, videos: Float["n f h w 3"]) -> Float["n d"]:
    """What FVD compares of videos in [-1, 1]: I3D's logits.

    Raises:
        WanError: fewer than 9 frames.
    """
    parts = [i3d.logits(params, videos[i : i + _BATCH]) for i in range(0, len(videos), _BATCH)]
    return np.concatenate(jax.device_get(parts))


@typechecked
def frechet_distance(a: Float["n d"], b: Float["m d"]) -> float:
    """|μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) of two sets of features, with covariances over n − 1; in float64.

    Source: Heusel et al. 2017 (arXiv:1706.08500), equation 6.

    Raises:
        WanError: a set has fewer than 2 members, or one that is not finite.
    """
    for features in (a, b):
        if len(features) < 2:
            raise WanError(f"a Fréchet distance needs 2 videos or more in each set, not {len(features)}")
        if not np.isfinite(features).all():
            raise WanError("a Fréchet distance needs finite features, and some are not; look for NaN in the videos")
    (mean_a, root_a), (mean_b, root_b) = _moments(a), _moments(b)
    # tr (Σ_a Σ_b)^½ is the sum of the singular values of R_a R_bᵀ, where Σ = RᵀR: no covariance is ever formed, and no
    # root is taken of eigenvalues that are nothing but rounding errors.
    overlap = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    spread = np.square(root_a).sum() + np.square(root_b).sum()
    return float(np.square(mean_a - mean_b).sum() + spread - 2 * overlap)


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean [d], and a square root R of the covariance RᵀR."""
    features = np.asarray(features, np.float64)
    mean = features.mean(0)
    return mean, np.linalg.qr(features - mean, mode="r") / np.sqrt(len(features) - 1)
