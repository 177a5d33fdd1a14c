"""How far a video autoencoder looks back in time, and where a stream that was cut may therefore begin anew.

The autoencoders are causal and see a bounded past, so going on needs no saved cache.  A stream that begins some latent
frames before the cut differs at first, as its cache is that of a clip which begins there; from the reach on, every
value has seen only what it would have seen in the uninterrupted stream, and the same programs give the same bits.

Counted are the convolutions over three frames (`wan_jax.models.vae_layers`), each of which reaches two frames back at
the frame rate where it works: two in a residual block, four in the middle, one at each end, one where the rate changes.
"""

from typing import Literal

from wan_jax.config import VAEConfig

Method = Literal["encode", "decode"]

_CONV = 2  # frames that a convolution looks back
_BLOCK = 2 * _CONV
_MIDDLE = 2 * _BLOCK


def encoder_reach(config: VAEConfig) -> int:
    """Latent frames before its own from whose pixels a latent frame is made; 28 for the released models."""
    # The oldest frame that is seen, at the rate of each level, where 0 is the first that only this latent frame has.
    oldest = -_CONV - _MIDDLE
    for temporal in reversed((*config.temporal_downsample, False)):
        if temporal:
            oldest = 2 * oldest - 1  # frame t is made of 2t - 1, 2t and 2t + 1
        oldest -= config.num_res_blocks * _BLOCK
    return -((oldest - _CONV) // config.temporal_factor)


def decoder_reach(config: VAEConfig) -> int:
    """Latent frames before its own from which the pixels of a latent frame are made; 38 for the released models."""
    oldest = -_CONV
    for temporal in (False, *config.temporal_downsample):
        if temporal:
            oldest = oldest // 2 - _CONV  # frames 2t and 2t + 1 are made of t - 2, t - 1 and t
        oldest -= (config.num_res_blocks + 1) * _BLOCK
    return -(oldest - _MIDDLE - _CONV)


def restart_chunk(config: VAEConfig, method: Method, chunk: int, frames_per_chunk: int = 1) -> int:
    """The chunk whose last frame a new stream begins with, so that it is exact from `chunk` on.

    Chunk 0 is one latent frame, the others are `frames_per_chunk`, as in `wan_jax.models.streaming`.  The new stream
    has the cuts of the old one: its first chunk is that single frame, and all but it must be dropped before `chunk`.
    0 means the beginning of the clip.
    """
    reach = encoder_reach(config) if method == "encode" else decoder_reach(config)
    first = 1 + (chunk - 1) * frames_per_chunk  # latent frame of `chunk`
    return max((first - reach - 1) // frames_per_chunk, 0) if chunk else 0
