"""A run that is told to stop: SIGTERM, as a machine that is taken away gets it, or Ctrl-C."""

import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Takes note of the signals while it is open, so that a step is never cut in two.

    Several processes leave SIGTERM to JAX, which tells all of them and has them stop at the same step.
    """

    def __init__(self):
        self.signal: int | None = None
        self._signals = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ()
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Preemption":
        self._before = {number: signal.signal(number, self._note) for number in self._signals}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def reached(self, step: int) -> bool:
        """Whether to save and stop after this step; asked after each, by every process."""
        return self.signal is not None or multihost_utils.reached_preemption_sync_point(step)

    def _note(self, number: int, frame: FrameType | None):
        self.signal = number
        signal.signal(number, self._before[number])  # a second one is not to wait for anything
