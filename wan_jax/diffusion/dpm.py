"""DPM-Solver++(2M), deterministic (arXiv:2211.01095, algorithm 2; Wan2.2, wan/utils/fm_solvers.py).

With α = 1 − σ, λ = log(α/σ), h = λ' − λ:

    x' = (σ'/σ)·x − α'·(e^(−h) − 1)·(m + ½·(m − m₁)/r),   r = h₁/h

First order at the first step, which has no history, and at the last, where λ' is infinite.
"""

import numpy as np

FIRST_SIGMA = 1.0


def weights(sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [N, 5] of the corrector, which passes the sample on, and [N, 3] of the predictor, float64."""
    n = len(sigmas) - 1
    alphas = 1 - sigmas
    corrector, predictor = np.zeros((n, 5)), np.zeros((n, 3))
    corrector[:, 0] = 1
    h_previous = None
    for i in range(n - 1):
        # α/σ as a ratio, not a difference of logarithms: α is 0 at the first step.
        decay = (alphas[i] / sigmas[i]) / (alphas[i + 1] / sigmas[i + 1])
        h = -np.log(decay) if decay > 0 else np.inf
        half_d = 0.5 * h / h_previous if i > 0 else 0.0
        scale = alphas[i + 1] * (1 - decay)
        predictor[i] = [sigmas[i + 1] / sigmas[i], scale * (1 + half_d), -scale * half_d]
        h_previous = h
    predictor[n - 1, 1] = 1  # at σ' = 0 the update is the prediction itself
    return corrector, predictor
