"""What a call of the pipeline asks for, with every `None` replaced by the model's own value, and checked."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from wan_jax.config import WanConfig
from wan_jax.diffusion.guidance import is_guided
from wan_jax.diffusion.solvers import make_steps
from wan_jax.diffusion.step_cache import METHODS
from wan_jax.errors import WanError
from wan_jax.models.dit import PATCH


@dataclass(frozen=True, kw_only=True)
class Request:
    """A generation with nothing left open; `WanPipeline.__call__` explains the fields.

    As JSON it goes into the video file, and repeats the generation from there.
    """

    prompt: list[str]
    negative_prompt: list[str]
    height: int
    width: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    guidance_scale_2: float | None
    seed: int
    solver: str
    flow_shift: float
    sigma_grid: str
    quality: float = 1.0
    step_cache: str = "magnitude"
    strength: float | None = None

    @classmethod
    def make(cls, config: WanConfig, prompt: str | list[str], negative_prompt: str | list[str] | None, **given: Any):
        """Completes what was given with the model's own values.

        Raises:
            WanError: a value is impossible; the message names it and what is possible.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if negative_prompt is None:
            negative_prompt = config.sampling.negative_prompt
        negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt)

        own = dataclasses.asdict(config.sampling)
        if given.get("guidance_scale") is not None and given.get("guidance_scale_2") is None:
            given["guidance_scale_2"] = given["guidance_scale"]  # given alone, it applies to both experts
        if config.boundary_ratio is None:
            given["guidance_scale_2"] = own["guidance_scale_2"] = None
        values = {name: own.get(name) if value is None else value for name, value in given.items()}
        for name in ("guidance_scale", "guidance_scale_2"):  # an int would be traced as one
            values[name] = None if values[name] is None else float(values[name])
        request = cls(prompt=prompts, negative_prompt=negatives, **values)
        request.check(config)
        return request

    def check(self, config: WanConfig):
        spatial = config.vae.spatial_factor * PATCH
        if not self.prompt or not all(isinstance(text, str) for text in self.prompt):
            raise WanError(f"prompt={self.prompt!r} must be a string or a list of strings")
        if len(self.negative_prompt) != len(self.prompt):
            raise WanError(f"{len(self.negative_prompt)} negative prompts do not go with {len(self.prompt)} prompts")
        for name in ("height", "width"):
            value = getattr(self, name)
            if value < spatial or value % spatial:
                raise WanError(f"{name}={value} is not a multiple of {spatial}; use {_nearest(value, spatial)}")
        factor = config.vae.temporal_factor
        if self.num_frames < 1 or self.num_frames % factor != 1:
            below = max(0, (self.num_frames - 1) // factor) * factor + 1
            raise WanError(f"num_frames={self.num_frames} is not {factor}n+1; use {below} or {below + factor}")
        if self.num_inference_steps < 1:
            raise WanError(f"num_inference_steps={self.num_inference_steps} must be at least 1")
        steps = self.num_inference_steps
        if self.strength is not None and not 1 <= self.strength * steps <= steps:
            raise WanError(f"strength={self.strength} must be at most 1, and leave at least one of {steps} steps")
        if not (math.isfinite(self.flow_shift) and self.flow_shift > 0):
            raise WanError(f"flow_shift={self.flow_shift} must be positive")
        if not all(math.isfinite(scale) for scale in self.guidance_scales):
            raise WanError(f"guidance_scale={self.guidance_scales} must be finite")
        if not 0 < self.quality <= 1:
            raise WanError(f"quality={self.quality} must be above 0 and at most 1, which computes every step")
        if self.step_cache not in METHODS:
            raise WanError(f"step_cache={self.step_cache!r} is unknown; use one of {', '.join(METHODS)}")
        if self.step_cache == "guidance" and self.quality < 1 and not any(map(is_guided, self.guidance_scales)):
            raise WanError(
                f"step_cache='guidance' skips nothing at guidance_scale={self.guidance_scale}; use 'magnitude'"
            )
        if not 0 <= self.seed < 2**32:
            raise WanError(f"seed={self.seed} must be between 0 and {2**32 - 1}")
        make_steps(self.solver, 1, self.flow_shift, self.sigma_grid)  # names an unknown solver or grid

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        """One scale per expert."""
        return (self.guidance_scale,) if self.guidance_scale_2 is None else (self.guidance_scale, self.guidance_scale_2)

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height and width."""
        return self.num_frames, self.height, self.width

    def latent_shape(self, config: WanConfig, lead: int = 0) -> tuple[int, int, int, int, int]:
        """[b, f, h, w, c] of the latents, with so many frames before those of the video."""
        vae = config.vae
        frames = lead + (self.num_frames - 1) // vae.temporal_factor + 1
        size = self.height // vae.spatial_factor, self.width // vae.spatial_factor
        return len(self.prompt), frames, *size, vae.z_dim


def _nearest(value: int, step: int) -> str:
    below = value // step * step
    return f"{below} or {below + step}" if below else str(step)
