"""Flow matching on straight paths (arXiv:2210.02747, arXiv:2209.03003): every sign and time is stated here.

Noise level σ runs from 1 (pure noise) down to 0 (clean):

    x_σ = (1 − σ)·x0 + σ·noise              the path
    v   = dx/dσ = noise − x0                the velocity, which the network predicts
    x0  = x_σ − σ·v                         the clean sample it implies
    t   = 1000·σ                            the timestep, which the network is told
    λ   = log((1 − σ)/σ)                    half the log signal-to-noise ratio, in which solvers extrapolate

Sampling walks along v from σ = 1 to σ = 0.  A *shift* s > 1 spends more of the steps at high noise, where larger
videos need them (arXiv:2403.03206 §5.3.2).
"""

TRAIN_TIMESTEPS = 1000


def interpolate(clean, noise, sigma):
    """The sample at noise level `sigma`."""
    return (1 - sigma) * clean + sigma * noise


def velocity(clean, noise):
    """What the network should predict anywhere on the path from `noise` to `clean`."""
    return noise - clean


def denoised(sample, velocity, sigma):
    """The clean sample that a velocity at noise level `sigma` points to."""
    return sample - sigma * velocity


def shift_sigma(sigma, shift):
    """Bends a grid of noise levels towards 1, keeping 0 and 1 in place."""
    return shift * sigma / (1 + (shift - 1) * sigma)
