"""How fast a run goes."""

import time

import jax

from wan_jax import chips


class Meter:
    """Steps a second and model flops utilisation since the last reading; the time between `pause` and `go` is left out.

    It starts paused.
    """

    def __init__(self):
        peak = chips.peak_flops(jax.devices()[0].device_kind)
        self._peak = peak and peak * jax.device_count()
        self._went: float | None = None
        self._steps, self._flops, self._seconds = 0, 0.0, 0.0

    def go(self):
        if self._went is None:
            self._went = time.monotonic()

    def pause(self):
        if self._went is not None:
            self._seconds += time.monotonic() - self._went
            self._went = None

    def step(self, flops: float | None):
        """Counts a step of so many useful operations; None if they are not known."""
        if self._went is not None:
            self._steps += 1
            self._flops += flops or 0.0

    def read(self) -> dict[str, float]:
        """{"speed/steps_per_s", "speed/mfu"}, the latter where peak and operations are known; then starts anew."""
        going = self._went is not None
        self.pause()
        steps, flops, seconds = self._steps, self._flops, self._seconds
        self._steps, self._flops, self._seconds = 0, 0.0, 0.0
        if going:
            self.go()
        if not steps:
            return {}
        rate = {"speed/steps_per_s": steps / seconds}
        return rate | ({"speed/mfu": flops / seconds / self._peak} if self._peak and flops else {})
