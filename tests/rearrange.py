"""The rule table applied to tensors in memory, as plainly as can be: the converter itself goes file by file."""

from collections.abc import Callable, Iterator

import numpy as np

from convert.rules import Layout, Rule


def to_jax(rule: Rule, layout: Layout, shape: tuple[int, ...], dtype, get: Callable[[str], np.ndarray]) -> np.ndarray:
    """One parameter of ours from PyTorch tensors."""
    out = np.empty(shape, dtype)
    for layer, name in zip(out if rule.stacked else [out], rule.names(layout, shape[0] if rule.stacked else 1)):
        layer[...] = rule.transform_of(layout).to_jax(get(name))
    return out


def to_torch(rule: Rule, layout: Layout, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The PyTorch tensors, with their names, that one parameter of ours stands for."""
    layers = array if rule.stacked else [array]
    for name, layer in zip(rule.names(layout, len(layers)), layers):
        yield name, np.ascontiguousarray(rule.transform_of(layout).to_torch(layer))
