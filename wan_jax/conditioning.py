"""What a video is conditioned on.  A task is only a `Conditioning`; neither sampling nor training asks which it is.

In training a task is a function of clean latents, text states and a key; in the pipeline it is made of what the user
gives.
"""

from collections.abc import Callable, Iterator

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from wan_jax.models.dit import Context
from wan_jax.typing import Bool, Float


@flax.struct.dataclass
class Conditioning:
    """What the transformer is told besides the noisy latents.

    Attributes:
        text: umT5 states of the prompts; rows past the end of a text are zero.
        negative_text: those of the negative prompts; None where no expert is guided, and in training.
        channels: what is appended to the noisy latents along channels, such as a mask and an encoded image.
        clean: latent frames at the start that are given: free of noise, at timestep 0, and not learned (Wan2.2,
            wan/textimage2video.py).
        shown: in training, of each sample whether its clean frames are given after all; None: all are.
        context: what a VACE model is given; see `wan_jax.vcu`.
        image: CLIP's tokens of the pictures, one after the other, for transformers with an `image_dim`.
    """

    text: Float["b s d"]
    negative_text: Float["b s d"] | None = None
    channels: Float["b f h w m"] | None = None
    clean: Float["b g h w c"] | None = None
    shown: Bool[" b"] | None = None
    context: Context | None = None
    image: Float["a i d"] | None = None


def text_to_video(latents: Float["b f h w c"], text: Float["b s d"], key: jax.Array) -> Conditioning:
    """A prompt alone."""
    return Conditioning(text)


def text_image_to_video(latents: Float["b f h w c"], text: Float["b s d"], key: jax.Array) -> Conditioning:
    """A prompt, and for half of the clips their first latent frame: both tasks of TI2V-5B.  The share is ours."""
    if latents.shape[1] == 1:
        return Conditioning(text)  # after its first frame a picture has nothing to be learned
    return Conditioning(text, clean=latents[:, :1], shown=jax.random.bernoulli(key, 0.5, (len(latents),)))


def frames_with_gaps(
    first: Float["b h w 3"], last: Float["b h w 3"] | None, count: int
) -> Iterator[Float["b g h w 3"]]:
    """A clip in pieces of which only its ends are given, in [-1, 1]; between them is grey."""
    yield first[:, None]
    grey = np.zeros_like(first)[:, None]
    for _ in range(count - 1 - (last is not None)):
        yield grey
    if last is not None:
        yield last[:, None]


def masked_channels(
    encode: Callable[[Iterator[Float["b g h w 3"]]], Float["b f h w c"]],
    first: Float["b h w 3"],
    last: Float["b h w 3"] | None,
    count: int,
    temporal_factor: int,
) -> Float["b f h w m"]:
    """Mask and encoded frames, as the image-to-video models of Wan2.1 and 2.2 are given them (Wan2.2, image2video.py).

    Args:
        encode: pieces of a clip → its normalised latents.
        first: the first image, in [-1, 1].
        last: the last one, or None.
        count: frames of the clip.
        temporal_factor: pixel frames to a latent frame, and channels of the mask: each says of one pixel frame whether
            it is given.  The first latent frame stands for one pixel frame, of which all of its channels speak.
    """
    latents = encode(frames_with_gaps(first, last, count))
    given = np.zeros(count, np.float32)
    given[0] = 1
    given[-1] = given[-1] if last is None else 1
    mask = np.concatenate([np.repeat(given[:1], temporal_factor), given[1:]]).reshape(-1, temporal_factor)
    mask = jnp.broadcast_to(mask[None, :, None, None], (*latents.shape[:4], temporal_factor))
    return jnp.concatenate([mask, latents], axis=-1)
