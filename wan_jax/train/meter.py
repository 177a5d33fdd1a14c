"""How fast a run goes."""

import time

import jax

from wan_jax import chips
from wan_jax.config import DiTConfig
from wan_jax.models.flops import forward_flops


class Meter:
    """Steps a second and model flops utilisation since the last reading; the time between `pause` and `go` is left out.

    It starts paused.
    """

    def __init__(self, config: DiTConfig):
        self._config = config
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

    def step(self, latent_shape: tuple[int, ...]):
        """Counts a step, which is three forward passes' worth of work."""
        if self._went is not None:
            self._steps += 1
            self._flops += 3 * forward_flops(self._config, latent_shape)

    def read(self) -> dict[str, float]:
        """{"speed/steps_per_s", "speed/mfu"}, the latter where the chip's peak is known; then starts anew."""
        going = self._went is not None
        self.pause()
        steps, flops, seconds = self._steps, self._flops, self._seconds
        self._steps, self._flops, self._seconds = 0, 0.0, 0.0
        if going:
            self.go()
        if not steps:
            return {}
        rate = {"speed/steps_per_s": steps / seconds}
        return rate | ({"speed/mfu": flops / seconds / self._peak} if self._peak else {})
