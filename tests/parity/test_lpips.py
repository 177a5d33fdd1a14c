"""LPIPS against the same sums in PyTorch, in float64 and as the paper has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.compare import relative_error
from wan_jax.errors import WanError
from wan_jax.perceptual import lpips
from wan_jax.perceptual.weights import SOURCES, load_weights

TOLERANCE = 1e-5
TRUNK = {"vgg": "VGG16_0", "alex": "AlexNet_0"}
KERNELS = {"vgg": [3] * 13, "alex": [11, 5, 3, 3, 3]}
# Narrower than the real ones, and no two blocks alike.
WIDTHS = {"vgg": [8, 8, 12, 12, 16, 16, 16, 20, 20, 20, 24, 24, 24], "alex": [12, 20, 24, 16, 28]}
TAPS = {"vgg": [1, 3, 6, 9, 12], "alex": [0, 1, 2, 3, 4]}


def random_weights(net: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    weights, channels = {}, 3
    for i, (size, width) in enumerate(zip(KERNELS[net], WIDTHS[net])):
        weights[f"{TRUNK[net]}/Conv_{i}/kernel"] = 0.2 * rng.standard_normal((size, size, channels, width), np.float32)
        weights[f"{TRUNK[net]}/Conv_{i}/bias"] = 0.2 * rng.standard_normal(width, np.float32)
        channels = width
    for i, tap in enumerate(TAPS[net]):
        weights[f"NetLinLayer_{i}/Conv_0/kernel"] = rng.uniform(0, 1, (1, 1, WIDTHS[net][tap], 1)).astype(np.float32)
    return weights


def torch_features(weights: dict[str, np.ndarray], images: torch.Tensor, net: str) -> list[torch.Tensor]:
    """torchvision's VGG16 and AlexNet, layer by layer; images [n c h w]."""

    def conv(i: int, x: torch.Tensor, **options) -> torch.Tensor:
        kernel, bias = (torch.tensor(weights[f"{TRUNK[net]}/Conv_{i}/{part}"]).double() for part in ("kernel", "bias"))
        return F.relu(F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, **options))

    shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]]).double()[:, None, :, None, None]
    x = (images - shift) / scale
    if net == "alex":
        x1 = conv(0, x, stride=4, padding=2)
        x2 = conv(1, F.max_pool2d(x1, 3, 2), padding=2)
        x3 = conv(2, F.max_pool2d(x2, 3, 2), padding=1)
        x4 = conv(3, x3, padding=1)
        return [x1, x2, x3, x4, conv(4, x4, padding=1)]
    found = []
    for i in range(13):
        x = conv(i, F.max_pool2d(x, 2) if i in (2, 4, 7, 10) else x, padding=1)
        if i in TAPS["vgg"]:
            found.append(x)
    return found


def torch_lpips(weights: dict[str, np.ndarray], a: np.ndarray, b: np.ndarray, net: str):
    """(values, gradient of their sum by a), with the official epsilon outside the root."""
    a, b = (torch.tensor(x).double().permute(0, 3, 1, 2) for x in (a, b))
    a.requires_grad_()
    total = 0
    for i, pair in enumerate(zip(torch_features(weights, a, net), torch_features(weights, b, net))):
        x, y = (f / ((f * f).sum(1, keepdim=True).sqrt() + 1e-10) for f in pair)
        head = torch.tensor(weights[f"NetLinLayer_{i}/Conv_0/kernel"]).double().permute(3, 2, 0, 1)
        total = total + F.conv2d((x - y) ** 2, head).mean((1, 2, 3))
    total.sum().backward()
    return total.detach().numpy(), a.grad.permute(0, 2, 3, 1).numpy()


@jax.jit(static_argnames="net")
def value_and_gradient(params, a, b, net):
    values, pullback = jax.vjp(lambda a: lpips.lpips(params, a, b, net), a)
    return values, *pullback(jnp.ones_like(values))


def check(weights: dict[str, np.ndarray], a: np.ndarray, b: np.ndarray, net: str):
    values, gradient = value_and_gradient(lpips.from_named(weights, net), a, b, net)
    their_values, their_gradient = torch_lpips(weights, a, b, net)
    np.testing.assert_allclose(values, their_values, rtol=TOLERANCE)
    assert relative_error(gradient, their_gradient) <= TOLERANCE


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_random_weights(net):
    """Odd sizes leave pixels over at the pools."""
    weights = random_weights(net)
    a, b = np.random.default_rng(1).uniform(-1, 1, (2, 3, 53, 39, 3)).astype(np.float32)
    check(weights, a, b, net)
    ours = lpips.features(lpips.from_named(weights, net), a, net)
    theirs = torch_features(weights, torch.tensor(a).double().permute(0, 3, 1, 2), net)
    for x, y in zip(ours, theirs):
        assert relative_error(x, y.permute(0, 2, 3, 1)) <= TOLERANCE


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_real_weights(net, real_weights, real_clip):
    """A picture against one with noise, the next frame but seven, and another part of it."""
    weights = load_weights(SOURCES[net])
    a = real_clip[0, 200:240, 500:540]
    noisy = np.clip(a + 0.1 * np.random.default_rng(0).standard_normal(a.shape), -1, 1).astype(np.float32)
    others = np.stack([noisy, real_clip[8, 200:240, 500:540], real_clip[0, 200:240, 700:740]])
    a = np.stack([a] * 3)
    check(weights, a, others, net)

    params = lpips.load(net)
    exact, rounded = (lpips.lpips(params, a, others, net, dtype) for dtype in (jnp.float32, jnp.bfloat16))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_gradients_are_finite(net):
    """Where the official sums give 0/0: equal images, and features that are all zero."""
    params = lpips.from_named(random_weights(net), net)
    dead = jax.tree.map(jnp.zeros_like, params)
    noise = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    black = -np.ones_like(noise)
    for p, a, b in [(params, noise, noise), (params, black, black), (params, black, noise), (dead, noise, black)]:
        values, gradient = value_and_gradient(p, a, b, net)
        assert np.isfinite(gradient).all()
        if a is b or p is dead:
            np.testing.assert_allclose(values, 0, atol=1e-6)


@pytest.mark.parametrize("net, least", [("vgg", 16), ("alex", 31)])
def test_smallest_images(net, least):
    params = lpips.from_named(random_weights(net), net)
    black, white = -jnp.ones((1, least, least, 3)), jnp.ones((1, least, least, 3))
    assert np.isfinite(lpips.lpips(params, black, white, net)).all()
    with pytest.raises(WanError, match=f"{least}x{least - 1} .*{least}x{least} and larger"):
        lpips.lpips(params, black[:, 1:], white[:, 1:], net)
