"""Noise levels against the distribution that they should have, worked out in float64."""

import jax
import numpy as np
import pytest
from scipy.special import ndtr

from wan_jax.errors import WanError
from wan_jax.train.timesteps import Density, boundary_from_snr, sample_sigma, share

DRAWS = 1_000_000
# Kolmogorov–Smirnov: the largest gap between two distributions that chance exceeds once in 10,000 times.
ALLOWED = np.sqrt(np.log(2 / 1e-4) / (2 * DRAWS))

DENSITIES = [
    Density(kind="uniform", shift=1.0),
    Density(kind="uniform", shift=12.0),
    Density(kind="logit_normal", shift=1.0),  # 1.4 % lie above 0.9
    Density(kind="logit_normal", shift=5.0, mean=-0.7, std=0.6),
    Density(kind="logit_normal", shift=12.0, mean=3.0, std=1.5),
]
FULL = (0.0, 1.0)


def unshifted(sigma, shift):
    return sigma / (shift - (shift - 1) * sigma)


def below(density: Density, sigma):
    """The share of a density below each noise level."""
    u = unshifted(np.asarray(sigma, np.float64), density.shift)
    if density.kind == "uniform":
        return u
    with np.errstate(divide="ignore"):
        return ndtr((np.log(u / (1 - u)) - density.mean) / density.std)


def conditional(density: Density, sigma, noise_range):
    low, high = below(density, noise_range)
    return (below(density, sigma) - low) / (high - low)


def cut_before_shift(density: Density, sigma, noise_range):
    """The distribution that others have trained with: the range is cut out of u, and what is left is shifted."""
    plain = Density(kind=density.kind, shift=1.0, mean=density.mean, std=density.std)
    return np.clip(conditional(plain, unshifted(sigma, density.shift), noise_range), 0, 1)


def gap(expected) -> float:
    """The Kolmogorov–Smirnov statistic, from the distribution function at sorted draws."""
    draws = len(expected)
    ranks = np.arange(draws + 1) / draws
    return max(np.max(ranks[1:] - expected), np.max(expected - ranks[:-1]))


@pytest.mark.parametrize("boundary", [0.875, 0.9])
@pytest.mark.parametrize("density", DENSITIES, ids=str)
def test_each_expert_draws_the_conditional_density(density, boundary):
    for seed, noise_range in enumerate([(boundary, 1.0), (0.0, boundary), FULL]):
        sigma = np.asarray(sample_sigma(density, jax.random.key(seed), DRAWS, noise_range))
        assert sigma.dtype == np.float32
        low, high = noise_range
        timestep = (sigma * np.float32(1000)).astype(np.float64)
        assert low <= sigma.min().astype(np.float64) and sigma.max().astype(np.float64) < high
        assert low * 1000 <= timestep.min() and timestep.max() < high * 1000

        draws = np.sort(sigma.astype(np.float64))
        assert gap(conditional(density, draws, noise_range)) <= ALLOWED
        if density.shift > 1 and noise_range != FULL:
            assert gap(cut_before_shift(density, draws, noise_range)) > ALLOWED


@pytest.mark.parametrize("side", [-1, 1])
def test_far_tails(side):
    """Nine standard deviations out, where probabilities in float32 are all 0 or, on the other side, all 1."""
    noise_range = (0.9999, 1.0) if side > 0 else (0.0, 1e-4)
    draws = sample_sigma(Density(kind="logit_normal", shift=1.0), jax.random.key(0), 10_000, noise_range)
    draws = np.asarray(draws, np.float64)
    outward = np.sort(side * np.log(draws / (1 - draws)))  # normal numbers beyond log(9999)
    assert gap(1 - ndtr(-outward) / ndtr(-np.log(9999))) <= 10 * ALLOWED


def test_the_float32_next_to_a_boundary_is_no_ones():
    """0.9 lies between two float32: the one below has timestep 900, which is the high-noise expert's."""
    narrow = [(0.9 - 1e-6, 0.9), (0.9, 0.9 + 1e-6)]
    low, high = (np.asarray(sample_sigma(DENSITIES[0], jax.random.key(0), 1000, r), np.float64) for r in narrow)
    assert low.max() < 0.9 <= high.min()
    assert (np.float32(low) * np.float32(1000)).max() < 900


@pytest.mark.parametrize(
    "shift, logit_normal, uniform",
    [(1, 0.026, 0.125), (3, 0.198, 0.300), (5, 0.368, 0.417), (7, 0.500, 0.500), (8, 0.553, 0.533), (12, 0.705, 0.632)],
)
def test_share(shift, logit_normal, uniform):
    assert share(Density(kind="logit_normal", shift=shift), (0.875, 1.0)) == pytest.approx(logit_normal, abs=5e-4)
    assert share(Density(kind="uniform", shift=shift), (0.875, 1.0)) == pytest.approx(uniform, abs=5e-4)
    assert share(Density(kind="uniform", shift=shift), FULL) == pytest.approx(1)


def test_boundary_from_snr():
    assert boundary_from_snr(0.98) == pytest.approx(0.875)
    assert boundary_from_snr(81 / 82) == pytest.approx(0.9)
    with pytest.raises(WanError, match="sigma_max=1 is not between 0 and 1"):
        boundary_from_snr(1)


@pytest.mark.parametrize("wrong", [{"shift": 0.0}, {"shift": -3.0}, {"std": 0.0}, {"shift": float("nan")}])
def test_impossible_densities(wrong):
    with pytest.raises(WanError, match=f"density.{next(iter(wrong))}=.* must be positive"):
        Density(**wrong)
