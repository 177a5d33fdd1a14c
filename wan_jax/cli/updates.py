"""The flags for low-rank updates of the weights."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from wan_jax.cli.options import flag

if TYPE_CHECKING:
    from wan_jax import WanPipeline

_File = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, flag("FILE[@S]", "none")]
_COMPONENTS = {"lora": "transformer", "lora_2": "transformer_2"}


@dataclass(frozen=True)
class Updates:
    """Low-rank updates of the weights.

    Args:
        lora: a low-rank update of the transformer, of two experts the high-noise one, in any of the usual styles; with
            its strength as in fast.safetensors@0.8.  May be repeated.
        lora_2: the same for the low-noise expert.
    """

    lora: _File = ()
    lora_2: _File = ()

    def chosen(self, settings: dict[str, Any]) -> dict[str, list[str]]:
        """Those that are given, otherwise those of an earlier video's settings; what is empty is left out."""
        found = {name: list(getattr(self, name) or settings.get(name, ())) for name in _COMPONENTS}
        return {name: files for name, files in found.items() if files}


NO_UPDATES = Updates()


def load(pipe: "WanPipeline", updates: dict[str, list[str]]):
    """Adds what `Updates.chosen` found.

    Raises:
        WanError: see `WanPipeline.load_lora_weights`.
    """
    for update in arguments(updates):
        pipe.load_lora_weights(**update)


def arguments(updates: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The same as arguments of `WanPipeline.load_lora_weights`, one call after the other."""
    return [_parse(file) | {"component": _COMPONENTS[name]} for name, files in updates.items() for file in files]


def _parse(text: str) -> dict[str, Any]:
    path, _, strength = text.rpartition("@")
    try:
        return {"path": path, "strength": float(strength)}
    except ValueError:  # it belongs to the name
        return {"path": text}
