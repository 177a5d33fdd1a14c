"""Straightness and distance against what geometry says."""

import numpy as np
import pytest

from wan_jax.explain import measures


def half_circle(points: int) -> np.ndarray:
    """One way of even speed around half the unit circle."""
    angle = np.linspace(0, np.pi, points)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)[:, None]


def test_straight_and_even_is_zero():
    path = np.linspace(0, 1, 11)[:, None, None] * np.array([[3.0, 4.0], [-1.0, 0.5]])
    assert measures.straightness(path) == pytest.approx(0, abs=1e-12)
    assert measures.bend(path) == pytest.approx(1)
    assert measures.turns(path) == pytest.approx(0, abs=1e-5)


def test_half_circle():
    """Speed π, chord 2: S = ∫|chord − v|²/4 = (π² − 4)/4, as ∫v is the chord; length π over 2; 180° in all."""
    path = half_circle(2001)
    assert measures.straightness(path) == pytest.approx((np.pi**2 - 4) / 4, rel=1e-5)
    assert measures.bend(path) == pytest.approx(np.pi / 2, rel=1e-5)
    assert measures.turns(path).sum() == pytest.approx(180, rel=1e-2)


def test_a_straight_line_at_uneven_speed():
    """x = t²: ∫(1 − 2t)² = 1/3, though nothing bends."""
    path = (np.linspace(0, 1, 2001) ** 2)[:, None, None] * np.array([[1.0, 0.0]])
    assert measures.straightness(path) == pytest.approx(1 / 3, rel=1e-3)
    assert measures.bend(path) == pytest.approx(1)


def test_long_ways_count_more():
    """S is a ratio of means: a long straight way hides a short bent one."""
    short, long = half_circle(501), 2 * np.linspace(0, 1, 501)[:, None, None] * np.array([[10.0, 0.0]])
    both = np.concatenate([short, long], axis=1)
    assert measures.straightness(both) == pytest.approx((np.pi**2 - 4) / (4 + 400), rel=1e-3)


def test_distance_of_a_shift():
    """Of points moved by d, the mean over directions of |d·cos| = 2/π·d; the order of points does not matter."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((500, 2)).astype(np.float32)
    moved = rng.permutation(points) + np.array([3, 0], np.float32)
    assert measures.sliced_distance(points, moved) == pytest.approx(3 * 2 / np.pi, rel=1e-3)
    assert measures.sliced_distance(points, rng.permutation(points)) == pytest.approx(0, abs=1e-6)
