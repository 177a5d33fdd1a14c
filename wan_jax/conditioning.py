"""What a video is conditioned on.  A task is only a `Conditioning`; neither sampling nor training asks which it is."""

import flax.struct
import jax

from wan_jax.typing import Float


@flax.struct.dataclass
class Conditioning:
    """What the transformer is told besides the noisy latents.

    Attributes:
        text: umT5 states of the prompts; rows past the end of a text are zero.
        negative_text: those of the negative prompts; None where no expert is guided, and in training.
        channels: what is appended to the noisy latents along channels, such as a mask and an encoded image.
        clean_frames: so many latent frames at the start are given: free of noise, at timestep 0, and not learned
            (Wan2.2, wan/textimage2video.py).
    """

    text: Float["b s d"]
    negative_text: Float["b s d"] | None = None
    channels: Float["b f h w m"] | None = None
    clean_frames: int = flax.struct.field(pytree_node=False, default=0)


def text_to_video(latents: Float["b f h w c"], text: Float["b s d"], key: jax.Array) -> Conditioning:
    """A prompt alone."""
    return Conditioning(text)


def first_frame_to_video(latents: Float["b f h w c"], text: Float["b s d"], key: jax.Array) -> Conditioning:
    """A prompt and the first latent frame, as TI2V-5B is given it."""
    return Conditioning(text, clean_frames=1)
