"""Which task a call is: that of the model, and of what it is given."""

from collections.abc import Sequence
from typing import Any

from wan_jax.config import WanConfig
from wan_jax.errors import WanError
from wan_jax.pipelines import pictures, vace, video_to_video
from wan_jax.pipelines.given import Given


def read(
    config: WanConfig,
    *,
    image: Any = None,
    last_image: Any = None,
    video: Any = None,
    mask: Any = None,
    reference_images: Any = None,
    conditioning_scale: float | Sequence[float] = 1.0,
    strength: float | None = None,
    num_frames: int | None = None,
) -> Given:
    """Everything that was given, read; the arguments are those of `WanPipeline.__call__`.

    Raises:
        WanError: the model takes none of it, inputs contradict each other, or one cannot be read.
    """
    shown = {"video": video, "mask": mask, "reference_images": reference_images}
    if config.takes_context:
        if strength is not None:
            raise WanError(f"strength: {config.name} keeps of a video what mask says; leave strength out")
        return vace.read(config, **shown, image=image, last_image=last_image, conditioning_scale=conditioning_scale)
    shown |= {"conditioning_scale": None if conditioning_scale == 1.0 else conditioning_scale, "video": None}
    for name, value in shown.items():
        if value is not None:
            raise WanError(f"{name}: {config.name} takes no {name}")
    if video is None:
        if strength is not None:
            raise WanError("strength: says how much of a video changes; give a video too")
        return pictures.read(config, image, last_image)
    if image is not None or last_image is not None:
        raise WanError("video: what a video begins from is either that or an image; give one of them")
    return video_to_video.read(config, video, strength, num_frames)
