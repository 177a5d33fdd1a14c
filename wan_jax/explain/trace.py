"""A run, watched: after every step the latents, and a picture of what the video was going to be."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from wan_jax.errors import WanError
from wan_jax.explain.experts import Step, plan, with_boundary
from wan_jax.pipelines.eval_mini import use_experts
from wan_jax.pipelines.preview import colours_of, fit_colours, of_callback
from wan_jax.pipelines.wan import WanPipeline, gaussian_noise
from wan_jax.typing import Float


@dataclass(frozen=True)
class Trace:
    """What a run did.

    Attributes:
        steps: who did which.
        path: the latents before the first step and after each.
        previews: of each step, a frame for each latent one, in [0, 1].
        frames: the video in [0, 1].
        boundary: where the experts changed, as a fraction of 1000; None with one expert.
    """

    steps: list[Step]
    path: Float["m f h w c"]
    previews: Float["n f h w 3"]
    frames: Float["f h w 3"]
    boundary: float | None

    @property
    def switch(self) -> int:
        """The first step of the low-noise expert; the number of steps where it does none."""
        return sum(step.expert == 0 for step in self.steps)


def trace(
    pipe: WanPipeline,
    prompt: str,
    *,
    boundary: float | None = None,
    colours: Float["n 3"] | None = None,
    watch: Callable[[int, Step, Float["f h w 3"]], Any] = lambda number, step, preview: None,
    seed: int = 0,
    num_inference_steps: int | None = None,
    flow_shift: float | None = None,
    solver: str | None = None,
    **options: Any,
) -> Trace:
    """Generates a video from text and keeps what there was on the way.  None is the model's own value.

    Args:
        boundary: where the experts change, in this run alone.
        colours: of `pipelines.preview.fit_colours`, which are fitted where they are not given.
        watch: called after each step with its number, the step and its preview; may raise, which ends the run.
        seed: this and all that follows: see `WanPipeline.__call__`.

    Raises:
        WanError: a value is impossible, or there is one expert only and a `boundary`.
    """
    colours = fit_colours(pipe) if colours is None else colours
    run = {"num_inference_steps": num_inference_steps, "flow_shift": flow_shift, "solver": solver}
    path, previews = [], []
    with moved_boundary(pipe, boundary):
        ahead = plan(pipe.config, **run)

        def keep(pipe: WanPipeline, number: int, timestep: int, tensors: dict[str, Any]):
            path.append(of_callback(tensors["latents"]))
            previews.append(colours_of(of_callback(tensors["denoised"]), colours))
            watch(number, ahead[number], previews[-1])

        frames = pipe(prompt, seed=seed, callback_on_step_end=keep, **run, **options).frames[0]
        noise = np.asarray(gaussian_noise((1, *path[0].shape), seed)[0])
        return Trace(ahead, np.stack([noise, *path]), np.stack(previews), frames, pipe.config.boundary_ratio)


@contextmanager
def moved_boundary(pipe: WanPipeline, ratio: float | None) -> Iterator[None]:
    """Has the experts change elsewhere; see `experts.with_boundary`.  Nothing is compiled again.  None: as they do."""
    own = pipe.config
    if ratio is not None:
        pipe.config = with_boundary(own, ratio)
    try:
        yield
    finally:
        pipe.config = own


@contextmanager
def swapped(pipe: WanPipeline) -> Iterator[None]:
    """Has each expert do the other's steps.  Nothing is compiled again: two parameter trees change places.

    Raises:
        WanError: there is one expert only, or not both are on the device.
    """
    if pipe.weights.how is not None:
        raise WanError(f"offload={pipe.weights.how!r}: to change places, both experts have to be on the device")
    use_experts(pipe, "swapped")
    try:
        yield
    finally:
        use_experts(pipe, "swapped")
