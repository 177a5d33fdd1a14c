"""PSNR and SSIM against their formulas, computed another way in float64."""

import numpy as np
from scipy.signal import convolve2d

from wan_jax.metrics import psnr, ssim


def videos(noise=0.1):
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 1, (2, 24, 30, 3))
    a = (a + np.roll(a, 1, axis=1) + np.roll(a, 1, axis=2)) / 3
    return a.astype(np.float32), np.clip(a + noise * rng.standard_normal(a.shape), 0, 1).astype(np.float32)


def slow_ssim(a, b):
    """Wang et al. 2004, equations 13 to 17, with the window's deviations summed about the local mean."""
    row = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(row, row) / np.outer(row, row).sum()
    values = []
    for f in range(a.shape[0]):
        for c in range(3):
            x, y = np.float64(a[f, :, :, c]), np.float64(b[f, :, :, c])
            mean_x, mean_y = convolve2d(x, window, "valid"), convolve2d(y, window, "valid")
            for i, j in np.ndindex(mean_x.shape):
                dx, dy = x[i : i + 11, j : j + 11] - mean_x[i, j], y[i : i + 11, j : j + 11] - mean_y[i, j]
                structure = 2 * np.sum(window * dx * dy) + 0.03**2
                contrast = np.sum(window * dx * dx) + np.sum(window * dy * dy) + 0.03**2
                p, q = mean_x[i, j], mean_y[i, j]
                luminance = (2 * p * q + 0.01**2) / (p * p + q * q + 0.01**2)
                values.append(luminance * structure / contrast)
    return np.mean(values)


def test_ssim():
    a, b = videos()
    np.testing.assert_allclose(ssim(a, b), slow_ssim(a, b), rtol=1e-5)
    np.testing.assert_allclose(ssim(a, a), 1.0, rtol=1e-6)


def test_psnr():
    a, b = videos()
    frames = [10 * np.log10(1 / np.mean((np.float64(x) - y) ** 2)) for x, y in zip(a, b)]
    np.testing.assert_allclose(psnr(a, b), np.mean(frames), rtol=1e-5)
    assert np.isinf(psnr(a, a))
