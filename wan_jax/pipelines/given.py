"""What a call of the pipeline is given besides its prompts; what a task makes of it."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from wan_jax.config import WanConfig
from wan_jax.typing import Float, UInt8

# (pieces of a clip in [-1, 1], its frames, height, width) → its normalised latents.
Encode = Callable[[Iterable[Float["1 g h w 3"]], int, int, int], Float["1 f h w c"]]
# pictures → CLIP's tokens, one picture after the other.
See = Callable[[list[UInt8["h w 3"]]], Float["1 i d"]]
Size = tuple[int, int, int]  # frames, height and width of the video to be made


def short_digest(pixels: np.ndarray) -> str:
    """Twelve hex digits that tell a picture, or a clip, from others."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:12]


@dataclass(frozen=True)
class Given:
    """Nothing, which is text to video.  The tasks of other models say what else there is."""

    @property
    def lead(self) -> int:
        """Latent frames that are generated before those of the video, and dropped."""
        return 0

    def fields(
        self, config: WanConfig, height: int | None, width: int | None, num_frames: int | None
    ) -> dict[str, Any]:
        """Those of `Request` that follow what was given, where the caller leaves them open.

        Raises:
            WanError: they do not go together.
        """
        return {"height": height, "width": width, "num_frames": num_frames}

    def conditions(self, config: WanConfig, size: Size, encode: Encode, see: See) -> dict[str, Any]:
        """The fields of `Conditioning` that show it."""
        return {}

    def start(self, size: Size, encode: Encode) -> Float["1 f h w c"] | None:
        """The latents of the video to begin from, for which noise is mixed in; None to begin from noise alone."""
        return None

    def digests(self) -> dict[str, Any]:
        """What tells it from others, for the settings of a video."""
        return {}
