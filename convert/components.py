"""What the converter knows about each part of a model."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import jax
import numpy as np

from convert.clip import CLIP_FUSED, CLIP_IGNORED, clip_aliases, clip_rules
from convert.dit import dit_rules
from convert.names import ITS_OWN, Names
from convert.rules import Layout, Rule, check, flat
from convert.tensor_files import TensorInfo
from convert.umt5 import UMT5_ALIASES, umt5_rules
from convert.vae import vae_rules
from wan_jax import checkpoint, quantization
from wan_jax.config import CLIPConfig, ComponentConfig, DiTConfig, UMT5Config, VAEConfig, WanConfig
from wan_jax.models import abstract_params


@dataclass(frozen=True)
class Component:
    """One weight folder: its rule table, and its flat parameters with the dtypes they are made in.

    Stored they are the same, but for matrices in eight bits.
    """

    name: str
    config: ComponentConfig
    rules: list[Rule]
    shapes: dict[str, jax.ShapeDtypeStruct]
    stored: dict[str, jax.ShapeDtypeStruct]
    names: Names = ITS_OWN

    @property
    def stacked(self) -> set[str]:
        return {rule.path for rule in self.rules if rule.stacked}

    @property
    def stored_stacked(self) -> set[str]:
        return self.stacked | {path for path in self.stored if _kernel(path) in self.stacked}

    @property
    def nbytes(self) -> int:
        return sum(x.size * x.dtype.itemsize for x in self.stored.values())

    def parts(self, path: str, value: np.ndarray) -> dict[str, np.ndarray]:
        """What is stored of a parameter, or of one layer of it."""
        dtype = self.stored[path].dtype
        if dtype == value.dtype:
            return {path: value}
        values, scale = map(np.asarray, quantization.quantize(value, self.config.quantization))
        name = path.removesuffix("kernel") + quantization.SCALE
        return {path: values, name: scale.astype(self.stored[name].dtype)}

    def source_path(self, path: str) -> str:
        """The parameter that what is stored at `path` is made of."""
        return path if path in self.shapes else _kernel(path)

    def layers(self, path: str) -> int:
        """The layers of a stacked parameter; 1 of any other."""
        return self.shapes[path].shape[0] if path in self.stacked else 1

    def places(self, layout: Layout) -> dict[str, tuple[Rule, int | None]]:
        """Where each PyTorch tensor goes: its rule, and its layer in a stacked parameter."""
        return {
            name: (rule, layer if rule.stacked else None)
            for rule in self.rules
            for layer, name in enumerate(rule.names(layout, self.layers(rule.path)))
        }

    def check(self, layout: Layout, found: Mapping[str, TensorInfo], where: str):
        """Raises a WanError that lists every tensor that does not fit."""
        check(self.rules, layout, self.shapes, {name: info.shape for name, info in found.items()}, where)


def components(config: WanConfig, dtype) -> dict[str, Component]:
    """The parts of a model, with the dtypes in which `dtype` has them stored.

    The autoencoder stays in float32: it is small, and rounding its weights is visible.
    """
    return {
        name: _component(name, part, np.dtype(np.float32 if name == "vae" else dtype))
        for name, part in checkpoint.components(config).items()
    }


@cache
def _component(name: str, config: ComponentConfig, dtype: np.dtype) -> Component:
    stored = flat(abstract_params(config, dtype))
    match config:
        case DiTConfig():
            shapes = flat(abstract_params(dataclasses.replace(config, quantization=None), dtype))
            return Component(name, config, dit_rules(config), shapes, stored)
        case VAEConfig():
            return Component(name, config, vae_rules(config), stored, stored)
        case UMT5Config():
            return Component(name, config, umt5_rules(config), stored, stored, Names(UMT5_ALIASES))
        case CLIPConfig():
            names = Names(clip_aliases(config), CLIP_FUSED, CLIP_IGNORED)
            return Component(name, config, clip_rules(config), stored, stored, names)


def _kernel(path: str) -> str:
    return path.removesuffix(quantization.SCALE) + "kernel" if path.endswith(quantization.SCALE) else path
