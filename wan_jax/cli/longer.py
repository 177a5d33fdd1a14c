"""The flags of `generate` for videos longer than the model's window."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from wan_jax.cli.options import Switch, flag
from wan_jax.errors import WanError


@dataclass(frozen=True)
class Longer:
    """More than the model's window: segments that continue each other.

    Args:
        then: what happens next: the prompt of one more segment, which continues the one before; may be repeated.
        segments: how many there are in all; the last prompt is repeated.
        overlap: frames that a segment shares with the next, 4n + 1.
        restart: drop what a stopped command left, instead of going on with it.
    """

    then: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, flag("TEXT", "none")] = ()
    segments: Annotated[int | None, flag("N", "one for each prompt")] = None
    overlap: Annotated[int | None, flag("N", "a fifth of a segment")] = None
    restart: Switch = False

    def prompts(self, first: str, settings: dict[str, Any]) -> list[str]:
        """One for each segment.

        Args:
            first: prompt.
            settings: of an earlier video, whose segments these are unless others are asked for.

        Raises:
            WanError: there are more prompts than segments.
        """
        prompts = [first, *(self.then or settings.get("then", ()))]
        count = self.segments or len(prompts)
        if count < len(prompts):
            raise WanError(f"--segments {count} are fewer than the {len(prompts)} prompts; leave it out, or raise it")
        return prompts + prompts[-1:] * (count - len(prompts))


ONE_SEGMENT = Longer()
