"""I3D against the same network in PyTorch, in float64, and the Fréchet distance against its formula."""

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F

from tests.compare import relative_error
from wan_jax.errors import WanError
from wan_jax.perceptual import fvd, i3d
from wan_jax.perceptual.weights import SOURCES, load_weights

TOLERANCE = 1e-5
MIXED = [f"Mixed_{name}" for name in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")]


def random_weights() -> dict[str, np.ndarray]:
    """A narrow network, under the names of the real one."""
    rng = np.random.default_rng(0)
    weights = {}

    def conv(unit: str, size: int, inputs: int, outputs: int):
        spread = 2 / (size**3 * inputs) ** 0.5  # a network without norms that act needs its signal kept up
        kernel = spread * rng.standard_normal((size, size, size, inputs, outputs), np.float32)
        weights[f"params/{unit}/Conv_0/kernel"] = kernel
        statistics = f"batch_stats/{unit}/BatchNorm_0"
        weights[f"params/{unit}/BatchNorm_0/bias"] = 0.2 * rng.standard_normal(outputs, np.float32)
        weights[f"{statistics}/mean"] = 0.2 * rng.standard_normal((1, 1, 1, 1, outputs), np.float32)
        weights[f"{statistics}/var"] = rng.uniform(0.5, 2, (1, 1, 1, 1, outputs)).astype(np.float32)

    conv("Conv3d_1a_7x7", 7, 3, 4)
    conv("Conv3d_2b_1x1", 1, 4, 5)
    conv("Conv3d_2c_3x3", 3, 5, 6)
    channels = 6
    for i, name in enumerate(MIXED):
        widths = [3, 2, 4, 2, 3, 2 + i % 2]
        conv(f"{name}/Branch_0/Conv3d_0a_1x1", 1, channels, widths[0])
        conv(f"{name}/Branch_1/Conv3d_0a_1x1", 1, channels, widths[1])
        conv(f"{name}/Branch_1/Conv3d_0b_3x3", 3, widths[1], widths[2])
        conv(f"{name}/Branch_2/Conv3d_0a_1x1", 1, channels, widths[3])
        conv(f"{name}/Branch_2/Conv3d_0b_3x3", 3, widths[3], widths[4])
        conv(f"{name}/Branch_3/Conv3d_0b_1x1", 1, channels, widths[5])
        channels = widths[0] + widths[2] + widths[4] + widths[5]
    weights["params/Logits/Conv3d_0c_1x1/Conv_0/kernel"] = rng.standard_normal((1, 1, 1, channels, 7), np.float32)
    weights["params/Logits/Conv3d_0c_1x1/Conv_0/bias"] = rng.standard_normal(7, np.float32)
    return weights


def same(x: torch.Tensor, window: tuple[int, ...], stride: tuple[int, ...], value: float) -> torch.Tensor:
    """TensorFlow's padding: as much as the last window lacks, the odd one behind."""
    pads = []
    for size, w, s in zip(x.shape[2:], window, stride):
        total = max((-(-size // s) - 1) * s + w - size, 0)
        pads = [total // 2, total - total // 2, *pads]
    return F.pad(x, pads, value=value)


def torch_logits(weights: dict[str, np.ndarray], videos: np.ndarray) -> np.ndarray:
    """The layers of the official i3d.py (deepmind/kinetics-i3d) and the resizing of the official FVD."""

    def tensor(name: str) -> torch.Tensor:
        return torch.tensor(weights[name]).double()

    def conv(unit: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        kernel = tensor(f"params/{unit}/Conv_0/kernel").permute(4, 3, 0, 1, 2)
        x = F.conv3d(same(x, kernel.shape[2:], (stride,) * 3, 0.0), kernel, stride=stride)
        mean, variance = (tensor(f"batch_stats/{unit}/BatchNorm_0/{part}").flatten() for part in ("mean", "var"))
        bias = tensor(f"params/{unit}/BatchNorm_0/bias").flatten()
        return F.relu(F.batch_norm(x, mean, variance, bias=bias, eps=1e-3))

    def pool(x: torch.Tensor, window: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
        return F.max_pool3d(same(x, window, stride, -torch.inf), window, stride)

    x = np.apply_along_axis(lambda row: np.interp(np.arange(224) * len(row) / 224, np.arange(len(row)), row), 2, videos)
    x = np.apply_along_axis(lambda row: np.interp(np.arange(224) * len(row) / 224, np.arange(len(row)), row), 3, x)
    x = conv("Conv3d_1a_7x7", torch.tensor(x).double().permute(0, 4, 1, 2, 3), 2)
    x = conv("Conv3d_2b_1x1", pool(x, (1, 3, 3), (1, 2, 2)))
    x = conv("Conv3d_2c_3x3", x)
    for name in MIXED:
        if name.endswith("3b"):
            x = pool(x, (1, 3, 3), (1, 2, 2))
        if name.endswith("4b"):
            x = pool(x, (3, 3, 3), (2, 2, 2))
        if name.endswith("5b"):
            x = pool(x, (2, 2, 2), (2, 2, 2))
        branch_1 = conv(f"{name}/Branch_1/Conv3d_0b_3x3", conv(f"{name}/Branch_1/Conv3d_0a_1x1", x))
        branch_2 = conv(f"{name}/Branch_2/Conv3d_0b_3x3", conv(f"{name}/Branch_2/Conv3d_0a_1x1", x))
        branch_3 = conv(f"{name}/Branch_3/Conv3d_0b_1x1", pool(x, (3, 3, 3), (1, 1, 1)))
        x = torch.cat([conv(f"{name}/Branch_0/Conv3d_0a_1x1", x), branch_1, branch_2, branch_3], 1)
    x = F.avg_pool3d(x, (2, 7, 7), 1)
    kernel = tensor("params/Logits/Conv3d_0c_1x1/Conv_0/kernel").permute(4, 3, 0, 1, 2)
    return F.conv3d(x, kernel, tensor("params/Logits/Conv3d_0c_1x1/Conv_0/bias")).mean((2, 3, 4)).numpy()


def test_random_weights():
    """An odd number of frames at every halving; a frame larger than 224 one way and smaller the other."""
    weights = random_weights()
    params = i3d.from_named(weights)
    video = np.random.default_rng(1).uniform(-1, 1, (1, 17, 40, 250, 3)).astype(np.float32)
    ours = i3d.logits(params, video)
    assert relative_error(ours, torch_logits(weights, video)) <= TOLERANCE
    assert relative_error(i3d.logits(params, -video), ours) > 1e-2  # the input matters
    with pytest.raises(WanError, match="9 frames and more, not of 8"):
        i3d.logits(params, video[:, :8])


def test_real_weights(real_weights, real_clip):
    weights = load_weights(SOURCES["i3d"])
    video = real_clip[None, :, 100:340, 400:720]
    assert relative_error(i3d.logits(i3d.load(), video), torch_logits(weights, video)) <= TOLERANCE


@pytest.mark.parametrize("a_members, b_members", [(60, 45), (8, 45), (8, 5)])
def test_frechet_distance(a_members, b_members):
    """With more members than features, and with fewer, whose covariances have no inverse."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((12, 12))
    a, b = rng.standard_normal((a_members, 12)), rng.standard_normal((b_members, 12)) @ mix + 0.5
    product = np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(product + 1e-12 * np.eye(12)).real
    trace = np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + trace
    assert fvd.frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)
    assert fvd.frechet_distance(b, a) == pytest.approx(fvd.frechet_distance(a, b), rel=1e-12)
    assert abs(fvd.frechet_distance(a, a)) < 1e-10


def test_fvd(monkeypatch):
    """Is the Fréchet distance of the features, of every video and however many are looked at together."""
    monkeypatch.setattr(
        i3d, "logits", lambda params, videos: params["weight"] * videos.mean((2, 3)).reshape(len(videos), -1)
    )
    a, b = np.random.default_rng(2).uniform(-1, 1, (2, 10, 9, 16, 16, 3)).astype(np.float32)
    b = 0.5 * b[:7]
    params = {"weight": np.float32(3)}
    expected = fvd.frechet_distance(*(3 * videos.mean((2, 3)).reshape(-1, 27) for videos in (a, b)))
    assert fvd.fvd(params, a, b) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(WanError, match="2 videos or more in each set, not 1"):
        fvd.fvd(params, a, b[:1])
    with pytest.raises(WanError, match="finite"):
        fvd.fvd(params, a, b * np.nan)
