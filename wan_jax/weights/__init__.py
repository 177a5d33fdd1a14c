"""Models that travel with the package, each in a folder with its card."""

from pathlib import Path

DEFAULT = "wan_mini"  # of `generate`


def names() -> list[str]:
    return sorted(card.parent.name for card in Path(__file__).parent.glob("*/README.md"))


def folder(name: str) -> Path | None:
    """Where the model of this name is, which may be spelt wan-mini for wan_mini; None if there is none."""
    name = name.replace("-", "_")
    return Path(__file__).parent / name if name in names() else None
