"""Euler's method on the velocity: x' = x + (σ' − σ)·v, the solver of few-step distilled models.

Written on the prediction m = x − σ·v, it is x' = (σ'/σ)·x + (1 − σ'/σ)·m.
"""

import numpy as np

FIRST_SIGMA = 1.0


def weights(sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [N, 5] of the corrector, which passes the sample on, and [N, 3] of the predictor, float64."""
    n = len(sigmas) - 1
    ratio = sigmas[1:] / sigmas[:-1]
    corrector = np.zeros((n, 5))
    corrector[:, 0] = 1
    return corrector, np.stack([ratio, 1 - ratio, np.zeros(n)], axis=1)
