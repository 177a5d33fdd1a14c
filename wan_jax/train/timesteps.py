"""Which noise levels are trained how often.

A density is shifted towards high noise, then cut to the expert's range: an expert sees the *conditional* density on the
shifted axis.  To cut first and shift afterwards would move the boundary, with shift 5 from 0.875 to 0.972.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from wan_jax.diffusion import flow
from wan_jax.errors import WanError
from wan_jax.typing import Float


@dataclass(frozen=True, kw_only=True)
class Density:
    """How often each noise level is trained: σ = shift·u / (1 + (shift − 1)·u) with a random u in [0, 1].

    The paper has a logit-normal u without naming mean, std or shift (arXiv:2503.20314 §4.2.2); VACE, of the same group,
    a uniform u with a shift (arXiv:2503.07598, table 3).

    Attributes:
        kind: of u: "uniform", or "logit_normal" (arXiv:2403.03206 §3.1), the sigmoid of a normal number.
        shift: more than 1 leans towards high noise.
        mean, std: of the normal number.

    Raises:
        WanError: shift or std is not positive.
    """

    kind: Literal["uniform", "logit_normal"] = "uniform"
    shift: float = 5.0
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        for name in ("shift", "std"):
            if not 0 < getattr(self, name) < math.inf:
                raise WanError(f"density.{name}={getattr(self, name)} must be positive")


def sample_sigma(density: Density, key: jax.Array, count: int, noise_range: tuple[float, float]) -> Float[" b"]:
    """Noise levels from the part of a density that lies in [low, high), the expert's range, by inverse distribution."""
    low, high = (flow.shift_sigma(sigma, 1 / density.shift) for sigma in noise_range)
    if density.kind == "uniform":
        u = jax.random.uniform(key, (count,), minval=low, maxval=high)
    else:
        normal = _normal_between(key, count, _standard(density, low), _standard(density, high))
        u = jax.nn.sigmoid(density.mean + density.std * normal)
    return jnp.clip(flow.shift_sigma(u, density.shift), *_float32_ends(noise_range))


def share(density: Density, noise_range: tuple[float, float]) -> float:
    """How much of a density lies in a range of noise levels."""
    low, high = (flow.shift_sigma(sigma, 1 / density.shift) for sigma in noise_range)
    if density.kind == "uniform":
        return high - low
    return _normal_cdf(_standard(density, high)) - _normal_cdf(_standard(density, low))


def boundary_from_snr(sigma_max: float) -> float:
    """The noise level with half the log signal-to-noise ratio of the noisiest one: 1 / (1 + √((1 − σ) / σ)).

    So Wan2.2 words the switch of experts ("half of SNR_min", README); its 0.875 belongs to σ = 0.98, 0.9 to 81/82.

    Raises:
        WanError: `sigma_max` is not between 0 and 1.
    """
    if not 0 < sigma_max < 1:
        raise WanError(f"sigma_max={sigma_max} is not between 0 and 1, such as 0.98")
    return 1 / (1 + math.sqrt((1 - sigma_max) / sigma_max))


def _standard(density: Density, u: float) -> float:
    """The standard normal number that `u` is made of."""
    logit = math.log(u / (1 - u)) if 0 < u < 1 else math.copysign(math.inf, u - 0.5)
    return (logit - density.mean) / density.std


def _normal_cdf(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2


def _normal_between(key: jax.Array, count: int, low: float, high: float) -> Float[" b"]:
    """Standard normal numbers in a range."""
    if low > -high:  # float32 has fine probabilities near 0 and coarse ones near 1: the upper tail is drawn mirrored
        return -_normal_between(key, count, -high, -low)
    return ndtri(jax.random.uniform(key, (count,), minval=_normal_cdf(low), maxval=_normal_cdf(high)))


def _float32_ends(noise_range: tuple[float, float]) -> tuple[np.float32, np.float32]:
    """The least and the greatest float32 that lie in [low, high) both as noise level and as the timestep made of it.

    The float32 next to 0.9, for one, is less than 0.9, but its timestep is 900.
    """

    def outside(sigma: np.float32) -> bool:
        return any(not low * unit <= float(sigma * unit) < high * unit for unit in (1, flow.TRAIN_TIMESTEPS))

    low, high = noise_range
    first, last = np.float32(low), np.float32(high)
    while outside(first):
        first = np.nextafter(first, np.float32(1))
    while outside(last):
        last = np.nextafter(last, np.float32(0))
    return first, last
