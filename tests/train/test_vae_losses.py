"""The VAE's losses against their formulas in float64, their gradients against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compare import relative_error
from wan_jax.train import vae_losses
from wan_jax.train.vae_losses import LogitAverages

TOLERANCE = 1e-6
CLIP, LATENTS, LOGITS = (2, 5, 8, 16, 3), (2, 2, 1, 2, 16), (2, 3, 2, 4)
AVERAGES = LogitAverages(jnp.float32(0.7), jnp.float32(-0.4))


def draw(shape, seed, std=1.0):
    return (std * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def wide(*arrays):
    return [np.asarray(x, np.float64) for x in arrays]


def test_reconstruction():
    video, again = draw(CLIP, 0), draw(CLIP, 1)
    loss, gradient = jax.value_and_grad(vae_losses.reconstruction_loss, argnums=1)(video, again)
    a, b = wide(video, again)
    assert relative_error(loss, np.mean(np.abs(a - b))) <= TOLERANCE
    assert relative_error(gradient, np.sign(b - a) / a.size) <= TOLERANCE


@pytest.mark.parametrize("reduction, divisor", [("mean", 5 * 8 * 16 * 3), ("sum", 1)])
def test_kl(reduction, divisor):
    mean, log_variance = draw(LATENTS, 0, 2.0), draw(LATENTS, 1, 2.0)
    # Beyond the clamp; e²⁰ would drown the other terms, so only one of the cases has it.
    log_variance[0, 0, 0, 0, :2] = 25.0 if reduction == "mean" else 3.0, -40.0
    loss = lambda m, v: vae_losses.kl_loss(draw(CLIP, 2), m, v, reduction)  # noqa: E731
    m, v = wide(mean, log_variance)
    c = np.clip(v, -30, 20)
    share = 1 / (len(m) * divisor)
    expected = share * np.sum(0.5 * (m**2 + np.exp(c) - 1 - c))
    assert relative_error(loss(mean, log_variance), expected) <= TOLERANCE
    by_mean, by_log_variance = jax.grad(loss, argnums=(0, 1))(mean, log_variance)
    assert relative_error(by_mean, share * m) <= TOLERANCE
    assert relative_error(by_log_variance, np.where(v == c, share * 0.5 * (np.exp(c) - 1), 0)) <= TOLERANCE


def test_kl_means_what_latent_diffusion_means():
    """Its sums over a clip, with weights 1 and 1e-6, are ours times the numbers in a clip."""
    video, again, mean, log_variance = draw(CLIP, 0), draw(CLIP, 1), draw(LATENTS, 2), draw(LATENTS, 3)
    a, b, m, v = wide(video, again, mean, log_variance)
    theirs = (np.abs(a - b).sum() + 1e-6 * 0.5 * np.sum(m**2 + np.exp(v) - 1 - v)) / len(a)
    kl = vae_losses.kl_loss(video, mean, log_variance, "mean")
    ours = 3 * vae_losses.reconstruction_loss(video, again) + 3e-6 * kl
    assert relative_error(ours * a[0].size / 3, theirs) <= TOLERANCE
    # R is 30 at 5 frames: a unit KL per latent number then weighs 1/30.
    unit = vae_losses.kl_loss(video, np.full(LATENTS, np.sqrt(2), np.float32), np.zeros(LATENTS, np.float32), "mean")
    assert relative_error(unit, 1 / 30) <= TOLERANCE


def test_hinge():
    real, fake = draw(LOGITS, 0, 2.0), draw(LOGITS, 1, 2.0)
    r, f = wide(real, fake)
    loss, gradients = jax.value_and_grad(vae_losses.discriminator_loss, argnums=(0, 1))(real, fake)
    assert relative_error(loss, (np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean()) / 2) <= TOLERANCE
    assert relative_error(gradients[0], -0.5 * (r < 1) / r.size) <= TOLERANCE
    assert relative_error(gradients[1], 0.5 * (f > -1) / f.size) <= TOLERANCE
    loss, gradient = jax.value_and_grad(vae_losses.generator_loss)(fake)
    assert relative_error(loss, -f.mean()) <= TOLERANCE
    assert relative_error(gradient, np.full(LOGITS, -1 / f.size)) <= TOLERANCE


def test_r1():
    """Of D = mean(w·video²) over a clip's logits, whose gradient is 2w·video / logits, and its own gradient by w."""
    video = draw(CLIP, 0)
    penalty = lambda w: vae_losses.r1_penalty(lambda x: w * jnp.square(x).sum(-1), video)  # noqa: E731
    value, gradient = jax.value_and_grad(penalty)(jnp.float32(0.3))
    (x,) = wide(video)
    squares = 0.5 * np.mean(np.sum((2 * x / x[0, ..., 0].size) ** 2, axis=(1, 2, 3, 4)))
    assert relative_error(value, 0.3**2 * squares) <= TOLERANCE
    assert relative_error(gradient, 2 * 0.3 * squares) <= TOLERANCE


def test_lecam():
    real, fake = draw(LOGITS, 0), draw(LOGITS, 1)
    r, f = wide(real, fake)
    loss, gradients = jax.value_and_grad(vae_losses.lecam_penalty, argnums=(0, 1, 2))(real, fake, AVERAGES)
    assert relative_error(loss, np.mean((r + 0.4) ** 2) + np.mean((f - 0.7) ** 2)) <= TOLERANCE
    assert relative_error(gradients[0], 2 * (r + 0.4) / r.size) <= TOLERANCE
    assert relative_error(gradients[1], 2 * (f - 0.7) / f.size) <= TOLERANCE
    assert gradients[2] == LogitAverages(0, 0)
    moved = vae_losses.update_averages(AVERAGES, real, fake, 0.9)
    assert relative_error(moved.real, 0.9 * 0.7 + 0.1 * r.mean()) <= TOLERANCE
    assert relative_error(moved.fake, 0.9 * -0.4 + 0.1 * f.mean()) <= TOLERANCE


def test_adaptive_weight():
    a, b = draw((3, 3, 3, 4, 3), 0), draw((3, 3, 3, 4, 3), 1, 0.01)
    expected = np.linalg.norm(wide(a)[0]) / (np.linalg.norm(wide(b)[0]) + 1e-4)
    assert relative_error(vae_losses.adaptive_weight(a, b), expected) <= TOLERANCE
    assert vae_losses.adaptive_weight(a, 0 * b) == 1e4  # 18 / 1e-4 is more
    assert not np.any(jax.grad(vae_losses.adaptive_weight, argnums=1)(a, b))


def test_float32_whatever_comes_in():
    logits = jnp.asarray(draw(LOGITS, 0), jnp.bfloat16)
    clip, latents = (jnp.asarray(draw(shape, 0), jnp.bfloat16) for shape in (CLIP, LATENTS))
    losses = [
        vae_losses.reconstruction_loss(clip, -clip),
        vae_losses.kl_loss(clip, latents, latents, "mean"),
        vae_losses.generator_loss(logits),
        vae_losses.discriminator_loss(logits, logits),
        vae_losses.r1_penalty(lambda x: x.sum(-1).astype(jnp.bfloat16), clip),
        vae_losses.lecam_penalty(logits, logits, AVERAGES),
        *vae_losses.update_averages(AVERAGES, logits, logits, 0.9),
        vae_losses.adaptive_weight(clip, clip),
    ]
    assert {loss.dtype for loss in losses} == {jnp.dtype(jnp.float32)}
