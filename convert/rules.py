"""The rule table: one line per parameter, strict, and invertible.

A rule says which PyTorch tensors one parameter of ours comes from, under its Diffusers and its original Wan name, and
how the numbers are laid out.  A name with "{i}" stands for one tensor per transformer block, stacked along a leading
layer axis.  Both directions are pure rearrangements, so a round trip is bit-exact.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from wan_jax.errors import WanError

Layout = Literal["diffusers", "original"]
Rearrange = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Transform:
    """A rearrangement of one tensor and its inverse."""

    to_jax: Rearrange
    to_torch: Rearrange


@dataclass(frozen=True)
class Rule:
    """Where the parameter at `path` comes from."""

    path: str
    diffusers: str
    original: str
    transform: Transform
    original_transform: Transform | None = None  # where the original layout has another one

    def transform_of(self, layout: Layout) -> Transform:
        return (layout == "original" and self.original_transform) or self.transform

    @property
    def stacked(self) -> bool:
        return "{i}" in self.diffusers

    def names(self, layout: Layout, layers: int) -> list[str]:
        """The tensors this parameter is made of, in the order of its layers."""
        name = getattr(self, layout)
        return [name.replace("{i}", str(i)) for i in range(layers)] if self.stacked else [name]


VECTOR = Transform(lambda x: x, lambda x: x)
LINEAR = Transform(lambda x: x.T, lambda x: x.T)  # [out, in] → [in, out]


def conv(spatial_axes: int) -> Transform:
    """[out, in, *window] → [*window, in, out]."""
    axes = tuple(range(2, 2 + spatial_axes))
    return Transform(
        lambda x: x.transpose(*axes, 1, 0), lambda x: x.transpose(x.ndim - 1, x.ndim - 2, *range(x.ndim - 2))
    )


def squeeze(*shape: int) -> Transform:
    """Drops or restores axes of size one; `shape` is the PyTorch one, with -1 for the axis that has a size."""
    return Transform(lambda x: x.reshape(-1), lambda x: x.reshape(shape))


def flat(abstract: Mapping) -> dict[str, jax.ShapeDtypeStruct]:
    """A tree of parameters as {"blocks/norm/scale": array}."""
    return flatten_dict(abstract, sep="/")


def torch_shapes(rules: list[Rule], layout: Layout, abstract: Mapping) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint of this layout must hold, with its shape.

    Raises:
        WanError: the table and the parameter tree do not cover each other.
    """
    params = flat(abstract)
    if set(params) != {rule.path for rule in rules} or len(rules) != len(params):
        odd = sorted(set(params) ^ {rule.path for rule in rules}) or "duplicates"
        raise WanError(f"the rule table does not match the parameter tree: {odd}")
    shapes = {}
    for rule in rules:
        shape = params[rule.path].shape
        # A view of a single zero has the right shape and takes no memory.
        one = np.broadcast_to(np.uint8(0), shape[1:] if rule.stacked else shape)
        for name in rule.names(layout, shape[0] if rule.stacked else 1):
            shapes[name] = rule.transform_of(layout).to_torch(one).shape
    return shapes


def check(rules: list[Rule], layout: Layout, abstract: Mapping, found: Mapping[str, tuple[int, ...]], where: str):
    """Compares the tensors of a checkpoint with what the model needs.

    Raises:
        WanError: lists every missing, unexpected and misshapen tensor.
    """
    wanted = torch_shapes(rules, layout, abstract)
    problems = [f"  missing {name} {list(wanted[name])}" for name in wanted if name not in found]
    problems += [f"  unexpected {name} {list(found[name])}" for name in found if name not in wanted]
    problems += [
        f"  misshapen {name} {list(found[name])}, expected {list(wanted[name])}"
        for name in wanted
        if name in found and tuple(found[name]) != wanted[name]
    ]
    if problems:
        raise WanError(f"{where}: {len(problems)} tensors do not fit this model\n" + "\n".join(problems))
