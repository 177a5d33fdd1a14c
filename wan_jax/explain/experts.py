"""The division of labour between the experts: who does which step, how large they are, and what is known of it."""

import math
from dataclasses import dataclass, replace
from functools import cache

import jax
import numpy as np

from wan_jax.config import WanConfig
from wan_jax.diffusion.solvers import make_steps
from wan_jax.errors import WanError
from wan_jax.experts import segments
from wan_jax.models import abstract_params

NAMES = "high-noise expert", "low-noise expert"
TASKS = "layout and motion", "texture and detail"
COLOURS = "#7c3aed", "#0d9488"  # by which figures and the Explorer tell them apart
_CARD = "wan_jax/weights/wan_mini/README.md"
_WAN = "Wan2.2, README.md"


@dataclass(frozen=True)
class Step:
    """A step of a run.

    Attributes:
        sigma: the noise level before it.
        timestep: what the network is told, an integer.
        expert: 0 is high noise, or the only one; 1 is low noise.
    """

    sigma: float
    timestep: int
    expert: int

    @property
    def snr(self) -> float:
        """The power of the video over that of the noise, ((1 − σ)/σ)²."""
        return ((1 - self.sigma) / self.sigma) ** 2

    @property
    def snr_db(self) -> float:
        """The same in decibels; −∞ for noise alone."""
        return 10 * math.log10(self.snr) if self.snr else -math.inf


def plan(
    config: WanConfig,
    num_inference_steps: int | None = None,
    flow_shift: float | None = None,
    solver: str | None = None,
) -> list[Step]:
    """The steps of a run, and who does each.  None stands for the model's own value.

    Raises:
        WanError: unknown solver.
    """
    own = config.sampling
    steps, shift = num_inference_steps or own.num_inference_steps, flow_shift or own.flow_shift
    schedule, _ = make_steps(solver or own.solver, steps, shift)
    experts = [s.expert for s in segments(schedule.timesteps, config.boundary_ratio) for _ in range(s.start, s.stop)]
    return [Step(*each) for each in zip(schedule.sigmas.tolist(), schedule.timesteps.tolist(), experts)]


def with_boundary(config: WanConfig, ratio: float) -> WanConfig:
    """The model with its experts changing elsewhere: at 0 the first does all steps, above 1 the second
    (at 1 itself a grid that starts from pure noise leaves the first one step).

    Raises:
        WanError: there is one expert only, or `ratio` is negative.
    """
    if config.boundary_ratio is None:
        raise WanError(f"{config.name} has one expert; a boundary takes a model with two, such as wan_mini")
    if not ratio >= 0:
        raise WanError(f"boundary={ratio} must not be negative; the model's own is {config.boundary_ratio}")
    return replace(config, boundary_ratio=ratio)


@dataclass(frozen=True)
class Parameters:
    """Of a model's transformers: all of them, and the one that works in a step."""

    total: int
    active: int


@cache
def parameters(config: WanConfig) -> Parameters:
    """Counted from the shapes of the network; no weights are read."""
    leaves = jax.tree.leaves(abstract_params(config.transformer, np.float32))
    active = sum(math.prod(leaf.shape) for leaf in leaves)
    return Parameters(active * len(config.transformers), active)


@dataclass(frozen=True)
class Fact:
    """A line of the table.

    Attributes:
        what: of whom it is.
        high: what is known of the high-noise expert, or of both together where `low` is empty.
        low: what is known of the low-noise expert.
        source: where it is from.
        reported: said by others and not measured here.
    """

    what: str
    high: str
    low: str
    source: str
    reported: bool


FACTS = (
    Fact(
        "Wan2.2-A14B: works on",
        "early steps: the overall layout",
        "later steps: refines details",
        _WAN,
        reported=True,
    ),
    Fact("Wan2.2-A14B: size", "27B in all", "14B active in a step", _WAN, reported=True),
    Fact(
        "Wan2.2-A14B: they change",
        "where the signal-to-noise ratio is half of its least, which the figure draws as a logarithm",
        "",
        _WAN,
        reported=True,
    ),
    Fact(
        "Wan2.2-A14B: validation loss, read off the figure",
        "Wan2.1 alone 0.1209; with the high-noise expert 0.1208",
        "with the low-noise expert 0.1204; both experts 0.1203",
        _WAN,
        reported=True,
    ),
    Fact(
        "wan_mini: right of what 200 prompts ask for, English and Chinese",
        "each its own steps: 93.1 and 92.4 %",
        "low-noise expert alone: 89.1 and 89.0 %",
        _CARD,
        reported=False,
    ),
    Fact(
        "wan_mini: each does the other's steps",
        "56.2 and 59.3 %; chance is 25.6 and 28.2 %",
        "",
        _CARD,
        reported=False,
    ),
    Fact(
        "wan_mini: what the high-noise expert adds",
        "4.0 and 3.4 points in all, 10 and 12.5 of them in motion",
        "",
        _CARD,
        reported=False,
    ),
)
