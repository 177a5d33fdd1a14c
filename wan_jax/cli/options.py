"""What commands share: how options look, how their texts are read, and how a result is printed."""

import json
from typing import Annotated, Any

import tyro

from wan_jax.errors import WanError


def flag(metavar: str, default: str = "the model's own", **options: Any):
    """An option whose absence means something: say what, rather than None."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})", **options)


Switch = tyro.conf.FlagCreatePairsOff[bool]
Model = Annotated[str, tyro.conf.arg(metavar="DIR|HUB_ID|NAME")]
Mesh = Annotated[str | None, flag("AXES", "all accelerators")]


def parse_size(text: str, name: str = "--size") -> tuple[int, int]:
    parts = text.lower().replace("*", "x").split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise WanError(f"{name} {text!r} is not WIDTHxHEIGHT, such as 832x480")
    return int(parts[0]), int(parts[1])


def parse_number(text: str, name: str, kind: type = float) -> int | float:
    """Whole numbers are ints whatever the kind."""
    try:
        return int(text) if text.isdecimal() else kind(text)
    except ValueError:
        raise WanError(f"{name} {text!r} is not a {'whole ' if kind is int else ''}number") from None


def print_result(result: dict[str, Any], line: str, as_json: bool):
    print(json.dumps(result, ensure_ascii=False) if as_json else line)
