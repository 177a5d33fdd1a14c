"""Points in the plane, and two ways to turn noise into them: flow matching and diffusion.

Both mix data x0 with Gaussian noise ε over a time that runs from 1 (noise) to 0 (data), and both are sampled by an
ordinary differential equation:

    flow matching   x = (1 − t)·x0 + t·ε            the network predicts the velocity ε − x0
    diffusion       x = α·x0 + √(1 − α²)·ε          the network predicts the noise ε

The first is `wan_jax.diffusion.flow`, by which Wan is trained, with σ for the time.  The second keeps the variance, by
the linear β of DDPM and of score-based models (arXiv:2006.11239, arXiv:2011.13456).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from wan_jax.diffusion import flow
from wan_jax.errors import WanError
from wan_jax.typing import Float

_BETA = 0.1, 20.0  # at time 0 and 1 (arXiv:2011.13456, appendix C)


def draw(data: str, key: jax.Array, count: int) -> Float["n 2"]:
    """Points of one of `DATA`: their mean is 0, and their variance 1 (mean over both axes).

    Raises:
        WanError: there are no such data.
    """
    if data not in DATA:
        raise WanError(f"data={data!r} is unknown; use one of {', '.join(DATA)}")
    return DATA[data](key, count)


def _eight_gaussians(key: jax.Array, count: int) -> Float["n 2"]:
    which, blur = jax.random.split(key)
    angle = 2 * jnp.pi / 8 * jax.random.randint(which, (count,), 0, 8)
    return 1.41 * _round(angle) + 0.07 * jax.random.normal(blur, (count, 2))


def _two_moons(key: jax.Array, count: int) -> Float["n 2"]:
    which, where, blur = jax.random.split(key, 3)
    upper = jax.random.bernoulli(which, 0.5, (count, 1))
    arc = _round(jax.random.uniform(where, (count,), maxval=jnp.pi))
    points = jnp.where(upper, arc, jnp.array([1, 0.5]) - arc) - jnp.array([0.5, 0.25])
    return 1.42 * (points + 0.06 * jax.random.normal(blur, (count, 2)))


def _spiral(key: jax.Array, count: int) -> Float["n 2"]:
    where, blur = jax.random.split(key)
    angle = 3 * jnp.pi * jnp.sqrt(jax.random.uniform(where, (count,), minval=0.02))  # even along the arm
    points = 0.2194 * angle[:, None] * _round(angle) + jnp.array([0.099, -0.423])
    return points + 0.06 * jax.random.normal(blur, (count, 2))


def _round(angle: Float[" n"]) -> Float["n 2"]:
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)


DATA = {"eight Gaussians": _eight_gaussians, "two moons": _two_moons, "spiral": _spiral}


@dataclass(frozen=True)
class Way:
    """A way from noise to data: `noised(clean, noise, time)`, and `target(clean, noise)`, which is predicted there."""

    name: str
    noised: Callable = field(repr=False)
    target: Callable = field(repr=False)


@dataclass(frozen=True)
class Solver:
    """How to walk it: `step(prediction, x, now, then)` is x at the time `then`."""

    name: str
    way: Way
    step: Callable = field(repr=False)


def diffusion_path(time: Float["*n"]) -> tuple[Float["*n"], Float["*n"]]:
    """What there is of the data and of the noise at a time: α and √(1 − α²)."""
    first, last = _BETA
    log_alpha = -(time**2) * (last - first) / 4 - time * first / 2
    return jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2 * log_alpha))


def _diffused(clean: Float["n 2"], noise: Float["n 2"], time: Float["n 1"]) -> Float["n 2"]:
    alpha, sigma = diffusion_path(time)
    return alpha * clean + sigma * noise


def _euler(velocity, x, now, then):
    return x + (then - now) * velocity


def _ddim(noise, x, now, then):
    (alpha, sigma), (alpha_then, sigma_then) = diffusion_path(now), diffusion_path(then)
    return alpha_then * (x - sigma * noise) / alpha + sigma_then * noise


def _probability_flow(noise, x, now, then):
    first, last = _BETA
    beta = first + now * (last - first)
    return _euler(-beta / 2 * (x - noise / diffusion_path(now)[1]), x, now, then)


FLOW = Way("flow matching", flow.interpolate, flow.velocity)
DIFFUSION = Way("diffusion", _diffused, lambda clean, noise: noise)

EULER = Solver("Euler", FLOW, _euler)
# To the clean points that the predicted noise implies, noised anew by the same (arXiv:2010.02502).
DDIM = Solver("DDIM", DIFFUSION, _ddim)
# Euler on dx/dt = −β/2·(x − ε/σ), which has the marginals of the random process (arXiv:2011.13456, eq. 13).
PROBABILITY_FLOW = Solver("Euler", DIFFUSION, _probability_flow)
