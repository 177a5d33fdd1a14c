"""One video for the page: from what its form says to a file, with a look at every step."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wan_jax import weights
from wan_jax.app import history
from wan_jax.app.explorer import Explorer
from wan_jax.cli import editing
from wan_jax.cli.editing import Editing
from wan_jax.cli.options import parse_size
from wan_jax.errors import WanError
from wan_jax.typing import Float

if TYPE_CHECKING:
    from wan_jax.config import Sampling, WanConfig

TEXT, FRAMES, INPAINT, EXTEND, RESTYLE, REFERENCES = (
    "Text",
    "First or last frame",
    "Inpaint",
    "Extend",
    "Restyle",
    "References",
)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the form says; what is None or empty is the model's own value, or nothing.

    Attributes:
        task: one of `tasks_of`; what is given for other tasks does not count.
        image, last_image, source, references: files.
        mask: a file too, white where the source is painted anew.
        added: frames to add to the source; `before` says on which side.
        strength: how much of the source changes.
        preset: see `wan_jax.pipelines.presets`.
        size: WIDTHxHEIGHT.
        options: further arguments of `WanPipeline.__call__`.
    """

    prompt: str
    task: str = TEXT
    image: str | None = None
    last_image: str | None = None
    source: str | None = None
    mask: str | None = None
    added: int | None = None
    before: bool = False
    strength: float | None = None
    references: tuple[str, ...] = ()
    preset: str = "auto"
    size: str = ""
    frames: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """How far a video is.

    Attributes:
        said: in words.
        done: the share of all steps.
        preview: what it is going to be, a frame for each latent one in [0, 1]; None before the first step.
    """

    said: str
    done: float = 0.0
    preview: Float["f h w 3"] | None = None


def tasks_of(config: "WanConfig") -> list[str]:
    """What a model can do."""
    if config.takes_context:
        # Ours has the place for references, but has never been shown any.
        return [TEXT, FRAMES, INPAINT, EXTEND, *([] if weights.folder(config.name) else [REFERENCES])]
    if config.shows_images_as_channels:
        return [FRAMES]
    return [TEXT, *([FRAMES] if config.expand_timesteps else []), RESTYLE]


def generate(explorer: Explorer, wish: Wish, report: Callable[[Progress], None]) -> tuple[Path, dict[str, Any]]:
    """Makes a video in the folder of the explorer.

    Args:
        report: called before the work and after every step; may raise, which ends the work.

    Returns:
        its path and settings.

    Raises:
        WanError: the wish is impossible.
    """
    from wan_jax.pipelines.preview import colours_of, of_callback
    from wan_jax.video_io import check_output, export_to_video

    asked = arguments(explorer.config, wish)
    check_output(path := history.new_path(explorer.folder))
    report(Progress("Loading the model"))
    pipe = explorer.pipeline(wish.preset)
    report(Progress("Fitting the colours of the preview"))
    colours = explorer.colours()
    report(Progress("Preparing the first step; a new size is compiled first, which takes a while"))
    steps = _steps(asked, pipe.config.sampling)
    ended: list[float] = []  # when each step did

    def watch(pipe: Any, step: int, timestep: int, tensors: dict[str, Any]) -> None:
        ended.append(time.monotonic())
        latents = of_callback(tensors["denoised"])[len(wish.references) :]
        expert = _expert(pipe.config.boundary_ratio, timestep)
        said = f"Step {step + 1} of {steps}{expert}{_left(ended, steps)}"
        report(Progress(said, (step + 1) / steps, colours_of(latents, colours)))

    result = pipe(**asked, callback_on_step_end=watch)
    settings = result.settings[0] | {"model": explorer.model, "task": wish.task}
    export_to_video(result.frames[0], path, metadata=settings)
    return path, settings


def arguments(config: "WanConfig", wish: Wish) -> dict[str, Any]:
    """Those of `WanPipeline.__call__` that a wish comes to.

    Raises:
        WanError: something is missing, cannot be read, or is impossible.
    """
    if not wish.prompt.strip():
        raise WanError("The prompt is empty: say what to show")
    size = parse_size(wish.size, "Size") if wish.size else (None, None)
    images = {"image": wish.image, "last_image": wish.last_image} if wish.task == FRAMES else {}
    edited, _ = editing.arguments(config, _editing(wish), *_ends(images), size, wish.frames)
    made = {name: value for name, value in edited.items() if value is not None}
    known = {name: value for name, value in wish.options.items() if value is not None}
    return (
        {"prompt": wish.prompt, "num_frames": wish.frames, "width": size[0], "height": size[1]} | known | made | images
    )


def random_seed() -> int:
    return random.randrange(2**32)


def strange_words(explorer: Explorer, prompt: str) -> list[str]:
    """Words that one of the package's own models has never heard."""
    from wan_jax.pipelines.known_words import unknown_words

    folder = weights.folder(explorer.model)
    return [] if folder is None else unknown_words(prompt, folder / "tokenizer")


def _ends(images: dict[str, str | None]) -> tuple[str | None, str | None]:
    return images.get("image"), images.get("last_image")


def _editing(wish: Wish) -> Editing:
    """The flags of the command line that say the same."""
    if wish.task == FRAMES and wish.image is None and wish.last_image is None:
        raise WanError("There is no picture: add the first frame, the last, or both")
    if wish.task == REFERENCES:
        if not wish.references:
            raise WanError("There is no reference: add up to three pictures")
        return Editing(reference=wish.references)
    if wish.task in (TEXT, FRAMES):
        return Editing()
    if wish.source is None:
        raise WanError("There is no source video: add one, or use one that was made here")
    if wish.task == RESTYLE:
        return Editing(video=wish.source, strength=wish.strength)
    if wish.task == EXTEND:
        return Editing(video=wish.source, extend=f"{wish.added or 0}{'before' if wish.before else 'after'}")
    if wish.mask is None:
        raise WanError("Nothing says what to paint anew: paint over it, or add a mask")
    return Editing(video=wish.source, mask=wish.mask)


def _steps(asked: dict[str, Any], sampling: "Sampling") -> int:
    """How many are made: of a video that is started from, the last ones alone."""
    from wan_jax.diffusion.solvers import make_steps

    count = asked.get("num_inference_steps") or sampling.num_inference_steps
    schedule, _ = make_steps(sampling.solver, count, sampling.flow_shift, strength=asked.get("strength") or 1.0)
    return len(schedule)


def _expert(boundary: float | None, timestep: int) -> str:
    from wan_jax.experts import segments
    from wan_jax.explain.experts import NAMES

    if boundary is None:
        return ""
    (segment,) = segments(np.array([timestep]), boundary)
    return f", {NAMES[segment.expert]}"


def _left(ended: list[float], steps: int) -> str:
    """Seconds of denoising; the first step, which may hold compiling, does not count."""
    left = steps - len(ended)
    if len(ended) < 2 or not left:
        return "" if left else "; decoding"
    seconds = (ended[-1] - ended[0]) / (len(ended) - 1) * left
    return f", {seconds:.0f} s of denoising left" if seconds >= 1 else ", less than a second left"
