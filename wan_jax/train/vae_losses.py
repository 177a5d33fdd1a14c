"""What the VAE learns from: reconstruction, posterior, and a discriminator.  Scalars in float32.

Wan's second stage weighs L1 with 3, KL with 3e-6 and LPIPS with 3; the third adds a GAN (arXiv:2503.20314, §4.1.2).
The paper gives neither the reduction of these terms (see `kl_loss`) nor anything about the GAN: the forms here are
those of latent diffusion (arXiv:2112.10752) and VQGAN (arXiv:2012.09841), which other video autoencoders use as well.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from wan_jax.typing import Float, typechecked

Reduction = Literal["mean", "sum"]


class LogitAverages(NamedTuple):
    """Running means of the discriminator's logits, scalars; a run begins with zeros.

    Attributes:
        real: those of clips.
        fake: those of reconstructions.
    """

    real: Float[""]
    fake: Float[""]


@typechecked
def reconstruction_loss(video: Float["b f h w 3"], again: Float["b f h w 3"]) -> Float[""]:
    """mean |video − again| over all numbers, under either reduction of the KL term."""
    return jnp.abs(_wide(video) - _wide(again)).mean()


@typechecked
def kl_loss(
    video: Float["b f h w 3"], mean: Float["b g i j z"], log_variance: Float["b g i j z"], reduction: Reduction
) -> Float[""]:
    """½·Σ(μ² + σ² − 1 − log σ²) over a clip's latents, mean over clips: how far they are from a standard normal.

    Wan's weights 3 / 3e-6 / 3 may be read in two ways:

    "mean" divides the sum by the pixel numbers f·h·w·3 of a clip, so that it is the mean per latent number over R, the
        pixel numbers for each latent number.  Latent diffusion sums L1, LPIPS (spread over all pixels) and KL over a
        clip; divided by the pixel numbers that is mean L1, LPIPS and this, and its weights 1 / 1e-6 / 1 are a third of
        Wan's.  The balance does not depend on the clip's size, except that R grows with its length: 12 for an image,
        30 for 5 frames, 48 in the limit.  A mean KL per latent number weighs 3e-6 / 30 = 1e-7 at 5 frames.  Wan's
        released latents, with deviations up to 3.3, speak for so weak a term.
    "sum" leaves the sum as it is beside the mean L1.  A clip of 5×128×128 has 8192 latent numbers, each of which weighs
        3e-6: at 4 nats each this is 0.1, as much as an L1 of 0.033, and it grows with the clip.

    Args:
        video: the clips that the posterior belongs to, for their size.
        mean: μ.
        log_variance: log σ², clamped to [-30, 20] as in the official code; beyond, it has no gradient.
        reduction: see above.
    """
    mean, log_variance = _wide(mean), jnp.clip(_wide(log_variance), -30.0, 20.0)
    divergence = 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance)
    per_clip = divergence.sum(axis=(1, 2, 3, 4)).mean()
    return per_clip / video[0].size if reduction == "mean" else per_clip


@typechecked
def generator_loss(fake: Float["b g i j"]) -> Float[""]:
    """−mean(fake), of the logits of reconstructions (hinge; arXiv:1705.02894)."""
    return -_wide(fake).mean()


@typechecked
def discriminator_loss(real: Float["b g i j"], fake: Float["b g i j"]) -> Float[""]:
    """½·(mean max(0, 1 − real) + mean max(0, 1 + fake)), of logits (hinge; the half is VQGAN's)."""
    return 0.5 * (jax.nn.relu(1.0 - _wide(real)).mean() + jax.nn.relu(1.0 + _wide(fake)).mean())


@typechecked
def r1_penalty(discriminate: Callable, video: Float["b f h w 3"]) -> Float[""]:
    """½·‖∇D(video)‖² of each clip, mean over clips, where D is the mean of a clip's logits (arXiv:1801.04406).

    Args:
        discriminate: clips → logits [b g i j]; those of a clip must depend on no other clip.
        video: real clips.
    """

    def total(video: jax.Array) -> jax.Array:
        return _wide(discriminate(video)).mean(axis=(1, 2, 3)).sum()

    return 0.5 * jnp.square(jax.grad(total)(_wide(video))).sum(axis=(1, 2, 3, 4)).mean()


@typechecked
def lecam_penalty(real: Float["b g i j"], fake: Float["b g i j"], averages: LogitAverages) -> Float[""]:
    """mean (real − ᾱ_fake)² + mean (fake − ᾱ_real)² (arXiv:2104.03310), with ᾱ the averages, held fixed.

    This is the paper's formula.  The authors' code counts only what is real > ᾱ_fake and fake < ᾱ_real.
    """
    average = jax.lax.stop_gradient(averages)
    return jnp.square(_wide(real) - average.fake).mean() + jnp.square(_wide(fake) - average.real).mean()


@typechecked
def update_averages(
    averages: LogitAverages, real: Float["b g i j"], fake: Float["b g i j"], decay: float
) -> LogitAverages:
    """decay·ᾱ + (1 − decay)·mean of the logits; without a gradient."""
    means = LogitAverages(_wide(real).mean(), _wide(fake).mean())
    moved = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, averages, means)
    return jax.lax.stop_gradient(moved)


@typechecked
def adaptive_weight(grad_rec: Float["..."], grad_gan: Float["..."]) -> Float[""]:
    """‖grad_rec‖ / (‖grad_gan‖ + 1e-4), at most 1e4, held fixed (arXiv:2012.09841).

    It makes the generator's loss as strong as the reconstruction's in the decoder's last layer, to whose kernel the
    gradients belong.
    """
    weight = jnp.linalg.norm(_wide(grad_rec).ravel()) / (jnp.linalg.norm(_wide(grad_gan).ravel()) + 1e-4)
    return jax.lax.stop_gradient(jnp.clip(weight, 0.0, 1e4))


def _wide(x: jax.Array) -> jax.Array:
    return jnp.asarray(x, jnp.float32)
