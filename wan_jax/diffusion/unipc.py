"""UniPC, second order, B₂(h) = e^h − 1, with corrector (arXiv:2302.04867), on data predictions.

Step i from noise level s to s', with α = 1 − σ, λ = log(α/σ), h = λ' − λ and φ = e^(−h) − 1:

    predictor   x' = (σ'/σ)·c − α'·φ·(m + ½·D),            D = (m₁ − m)/r,  r = (λ₁ − λ)/h
    corrector   c  = (σ/σ₁)·c₁ − α·φ·(m₁ + ρ₁·D₁ + ρ₂·(m − m₁)),  on the interval just crossed,
                                                           D₁ = (m₂ − m₁)/r₁

The corrector uses the prediction m made at the *uncorrected* sample and does not ask the network again.  The first and
last predictor are first order, and a corrector has the order of the predictor it corrects.
"""

import numpy as np

# Training noise levels start at 0.999, and the official sampler starts there too, before the shift
# (Wan2.2, wan/utils/fm_solvers_unipc.py).
FIRST_SIGMA = float(np.float32(0.999))


def weights(sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [N, 5] of the corrector and [N, 3] of the predictor for N + 1 noise levels ending in 0, float64."""
    n = len(sigmas) - 1
    alphas = 1 - sigmas
    lambdas = np.log(alphas[:-1]) - np.log(sigmas[:-1])  # the last one, at σ = 0, is infinite and never needed
    corrector, predictor = np.zeros((n, 5)), np.zeros((n, 3))
    order = [min(2, n - i, i + 1) for i in range(n)]

    corrector[0, 0] = 1
    for i in range(1, n):
        h = lambdas[i] - lambdas[i - 1]
        phi = np.expm1(-h)
        if order[i - 1] == 1:
            d1, rho1, rho2 = 1.0, 0.0, 0.5
        else:
            d1 = h / (lambdas[i - 2] - lambdas[i - 1])
            g1 = -phi / h - 1
            b1, b2 = g1 / phi, 2 * (-g1 / h - 0.5) / phi
            rho1 = (b1 - b2) / (1 - 1 / d1)
            rho2 = b1 - rho1
        scale = -alphas[i] * phi
        corrector[i] = [
            0,
            sigmas[i] / sigmas[i - 1],
            scale * rho2,
            scale * (1 - rho1 * d1 - rho2),
            scale * rho1 * d1,
        ]

    for i in range(n - 1):
        h = lambdas[i + 1] - lambdas[i]
        scale = -alphas[i + 1] * np.expm1(-h)
        half_d = 0.5 * h / (lambdas[i - 1] - lambdas[i]) if order[i] == 2 else 0.0
        predictor[i] = [sigmas[i + 1] / sigmas[i], scale * (1 - half_d), scale * half_d]
    predictor[n - 1, 1] = 1  # at σ' = 0 the update is the prediction itself
    return corrector, predictor
