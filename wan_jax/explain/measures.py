"""How straight a way is, and how far two sets of points are apart."""

import numpy as np

from wan_jax.typing import Float, typechecked

_DIRECTIONS = 64


@typechecked
def straightness(path: Float["m n *d"]) -> float:
    """How far the velocity is from constant: S of rectified flow (arXiv:2209.03003, eq. 7), relative to the way.

        S = ∫ E‖(x(1) − x(0)) − dx/dt‖² dt  /  E‖x(1) − x(0)‖²

    0 where one step of Euler makes no error.  It depends on the time as well: a straight line that is run through
    unevenly is not straight in this sense, and a solver with even steps feels it.

    Args:
        path: n ways at m evenly spaced times.
    """
    flat = _flat(path)
    chord, velocity = flat[-1] - flat[0], np.diff(flat, axis=0) * (len(flat) - 1)
    return float(np.mean(np.sum((velocity - chord) ** 2, -1)) / np.mean(np.sum(chord**2, -1)))


@typechecked
def bend(path: Float["m n *d"]) -> Float[" n"]:
    """The length of each of n ways over the distance between its ends: 1 is straight, whatever the time."""
    flat = _flat(path)
    length = np.linalg.norm(np.diff(flat, axis=0), axis=-1).sum(0)
    return length / np.linalg.norm(flat[-1] - flat[0], axis=-1)


@typechecked
def turns(path: Float["m n *d"]) -> Float["k n"]:
    """The angle in degrees between each two steps that follow each other: m − 2 of each of n ways."""
    moves = np.diff(_flat(path), axis=0)
    unit = moves / np.linalg.norm(moves, axis=-1, keepdims=True)
    return np.degrees(np.arccos(np.clip(np.sum(unit[1:] * unit[:-1], -1), -1, 1)))


@typechecked
def sliced_distance(a: Float["n 2"], b: Float["n 2"]) -> float:
    """The sliced Wasserstein distance of two sets of as many points.

    Projected on a direction, the sorted points of both are compared; the mean over 64 directions around the half circle
    (Rabin et al. 2011, "Wasserstein barycenter and its application to texture mixing").
    """
    angle = np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    directions = np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32)
    a, b = (np.sort(np.asarray(points) @ directions, axis=0) for points in (a, b))
    return float(np.mean(np.abs(a - b)))


def _flat(path: Float["m n *d"]) -> Float["m n e"]:
    path = np.asarray(path, np.float64)
    return path.reshape(*path.shape[:2], -1)
