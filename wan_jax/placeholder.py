"""The untrained placeholder: a model of the real layout with random weights, written by our own exporter."""

import os
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np

from wan_jax.byte_tokenizer import write_byte_tokenizer
from wan_jax.cache import cache_dir
from wan_jax.checkpoint import components
from wan_jax.config import WanConfig, get_config
from wan_jax.models import abstract_params
from wan_jax.typing import Params

NAME = "untrained"
NOTE = (
    "untrained placeholder weights: the video is coloured noise. "
    "Name a model for more, e.g. --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers (tens of GB are downloaded)"
)
_VERSION = 1  # of the weights: another one is written anew


def folder() -> Path:
    """The placeholder in the Diffusers layout; written on first use."""
    target = cache_dir("models") / f"{NAME}-{_VERSION}"
    if not target.exists():
        from convert.export import export_model  # above us in the tree, and only needed once

        with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            config = get_config(NAME)
            write_byte_tokenizer(f"{temporary}/tokenizer")
            export_model(config, random_params(config), Path(temporary) / "tokenizer", Path(temporary) / "model")
            try:
                os.rename(f"{temporary}/model", target)
            except OSError:  # another process was first
                shutil.rmtree(f"{temporary}/model")
    return target


def random_params(config: WanConfig, seed: int = 0, std: float = 0.2) -> dict[str, Params]:
    """Random weights for every component, float32.

    With the usual initialisation outputs hardly depend on inputs; a large `std` makes every path matter.
    """
    rng = np.random.default_rng(seed)

    def draw(path, x) -> np.ndarray:
        around = 1.0 if path[-1].key == "scale" else 0.0
        return (around + std * rng.standard_normal(x.shape)).astype(np.float32)

    return {
        name: jax.tree_util.tree_map_with_path(draw, abstract_params(part, np.float32))
        for name, part in components(config).items()
    }
