"""How long a user waits for the first denoising step, and what for."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from wan_jax import executables


class StartUp:
    """A clock that runs from its creation to the first step.

    `first_step_s` is None until then.  The step has been handed to the device by that time, not finished.
    """

    def __init__(self):
        self.first_step_s: float | None = None
        self._began = time.monotonic()
        self._loading = 0.0
        self._compiling_before = executables.tally.seconds

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Around all that waits for weights."""
        began = time.monotonic()
        yield
        self._loading += time.monotonic() - began

    def first_step(self, bar: tqdm):
        """Stops the clock, the first time, and tells the user unless they want no progress bar."""
        if self.first_step_s is not None:
            return
        self.first_step_s = time.monotonic() - self._began
        compiling = executables.tally.seconds - self._compiling_before
        if not bar.disable:
            parts = f"waiting for weights {self._loading:.1f} s, compiling {compiling:.1f} s"
            bar.write(f"first step after {self.first_step_s:.1f} s ({parts})", file=bar.fp)
