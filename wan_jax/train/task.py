"""What a run trains, on what, and what comes of it: all that the loop leaves to others."""

from collections.abc import Iterator
from typing import Any, Protocol

import jax
from etils import epath

from wan_jax.train.state import TrainState


class Batch(Protocol):
    """Clips of one size on the mesh, and the ids of those in the rows that this process holds."""

    ids: list[str]


class Task(Protocol):
    """Every process calls every method, inside of the run's mesh.

    Attributes:
        abstract: shapes and places of the state.
    """

    abstract: TrainState

    def begin(self) -> TrainState:
        """The state of a new run, with its first weights."""

    def resume(self):
        """Gets what a checkpoint does not hold, instead of `begin`."""

    def batches(self, start: int) -> Iterator[Batch]:
        """Training clips without end; `start` were seen before, over all processes."""

    def size(self, batch: Batch) -> tuple[int, ...]:
        """What a step is compiled for."""

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """What a step takes beside the state."""

    def lower(self, state: TrainState, *inputs) -> jax.stages.Lowered:
        """(state, *inputs) → (the next state, `wan_jax.train.step.Report`), ready to compile."""

    def flops(self, batch: Batch) -> float | None:
        """Useful operations of a step on all devices; None where nobody counts them."""

    def validate(self, state: TrainState) -> dict[str, float]:
        """Scalars on held-out clips, "validation/loss" among them; none without such clips."""

    def show(self, state: TrainState, folder: epath.Path, step: int):
        """Writes what people may look at, if the run asks for it."""

    def finish(self, state: TrainState, folder: epath.Path) -> str:
        """Writes what the run was for, and says where."""
