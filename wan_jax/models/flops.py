"""How much work the transformer is: operations of its matrix products, which hardly anything else adds to."""

from wan_jax.config import DiTConfig
from wan_jax.models.dit import PATCH


def forward_flops(config: DiTConfig, latent_shape: tuple[int, int, int, int, int]) -> float:
    """Of the blocks, for latents of shape [b f h w c]; a multiplication and an addition are two.

    The gradient takes twice as many again.  What is computed a second time to save memory does not count.
    """
    batch, frames, height, width, _ = latent_shape
    n, c, m = frames * height * width // PATCH**2, config.dim, config.ffn_dim
    linear = 2 * n * (6 * c * c + 2 * c * m)  # q, k, v, o; q, o of the cross-attention; feed-forward
    text = 2 * config.text_len * 2 * c * c  # keys and values of the cross-attention
    attention = 4 * n * (n + config.text_len) * c
    projections = 2 * n * c * c * (len(config.vace_layers) + bool(config.vace_layers))  # of hints, and before the first
    return float(batch * (config.num_blocks * (linear + text + attention) + projections))
