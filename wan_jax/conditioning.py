"""What a video is conditioned on.  A task is only a `Conditioning`; the sampling loop never asks which task it runs."""

import flax.struct

from wan_jax.typing import Float


@flax.struct.dataclass
class Conditioning:
    """umT5 states of the prompts and of their negative prompts; rows past the end of a text are zero."""

    text: Float["b s d"]
    negative_text: Float["b s d"] | None  # None where no expert is guided
