"""The loss against its formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wan_jax.conditioning import Conditioning
from wan_jax.train.objective import drop_captions, flow_matching_loss

BATCH, FRAMES, HEIGHT, WIDTH, CHANNELS = 2, 3, 4, 6, 5
SIGMA = np.array([0.93, 0.31], np.float32)


def predict(latents, timestep, text, row, context):
    """A network that depends on all that it is told, on the time of each token too."""
    time = timestep if row is None else timestep[:, row]
    time = jnp.broadcast_to(time, (BATCH, FRAMES * HEIGHT // 2 * WIDTH // 2)).reshape(BATCH, FRAMES, HEIGHT // 2, -1)
    time = time.repeat(2, axis=2).repeat(2, axis=3)[..., None]
    extra = latents[..., CHANNELS:].sum(-1, keepdims=True)
    return 0.7 * latents[..., :CHANNELS] + 0.3 * extra + time / 1000 + text.mean(axis=(1, 2))[:, None, None, None, None]


def formula(clean, noise, text, channels, clean_frames) -> np.ndarray:
    losses = []
    for x0, eps, words, extra, sigma in zip(clean, noise, text, channels, SIGMA.astype(np.float64)):
        squares = []
        for frame in range(clean_frames, FRAMES):
            noisy = (1 - sigma) * x0[frame] + sigma * eps[frame]
            velocity = 0.7 * noisy + 0.3 * extra[frame].sum(-1, keepdims=True) + sigma + words.mean()
            squares.append((velocity - (eps[frame] - x0[frame])) ** 2)
        losses.append(np.mean(squares))
    return np.array(losses)


def batch(extra_channels=0):
    rng = np.random.default_rng(0)
    size = (BATCH, FRAMES, HEIGHT, WIDTH)
    shapes = (*size, CHANNELS), (*size, CHANNELS), (BATCH, 7, 8), (*size, extra_channels)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("clean_frames", [0, 1, 2])
@pytest.mark.parametrize("extra_channels", [0, 4])
def test_loss(clean_frames, extra_channels):
    clean, noise, text, channels = batch(extra_channels)
    given = clean[:, :clean_frames] if clean_frames else None
    conditioning = Conditioning(text, channels=channels if extra_channels else None, clean=given)
    found = jax.jit(lambda c: flow_matching_loss(predict, clean, noise, SIGMA, c))(conditioning)
    expected = formula(*(x.astype(np.float64) for x in (clean, noise, text, channels)), clean_frames)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_clean_frames_are_shown_as_they_are():
    """Without noise and at timestep 0, whatever is predicted for them."""
    clean, noise, text, _ = batch()
    seen = {}

    def look(latents, timestep, text, row, context):
        seen.update(latents=latents, timestep=timestep[:, row].reshape(BATCH, FRAMES, -1))
        return jnp.zeros_like(latents).at[:, 0].set(jnp.nan)

    loss = flow_matching_loss(look, clean, noise, SIGMA, Conditioning(text, clean=clean[:, :1]))
    assert np.isfinite(loss).all()
    np.testing.assert_array_equal(seen["latents"][:, 0], clean[:, 0])
    assert not seen["timestep"][:, 0].any()
    np.testing.assert_allclose(seen["timestep"][:, 1:], np.broadcast_to(1000 * SIGMA[:, None, None], (2, 2, 6)))


def test_float32_whatever_the_network_returns():
    clean, noise, text, _ = batch()
    half = lambda *inputs: predict(*inputs).astype(jnp.bfloat16)  # noqa: E731
    loss = flow_matching_loss(half, clean, noise, SIGMA, Conditioning(text))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, flow_matching_loss(predict, clean, noise, SIGMA, Conditioning(text)), rtol=0.01)


def test_dropped_captions():
    rng = np.random.default_rng(0)
    text, no_text = (rng.standard_normal((n, 2, 3)).astype(np.float32) for n in (10_000, 1))
    mixed = np.asarray(drop_captions(text, no_text, jax.random.key(0), 0.1))
    dropped = (mixed == no_text).all(axis=(1, 2))
    assert 0.1 - 0.012 < dropped.mean() < 0.1 + 0.012  # four standard deviations
    np.testing.assert_array_equal(mixed[~dropped], text[~dropped])
    np.testing.assert_array_equal(drop_captions(text, no_text, jax.random.key(0), 0.0), text)
