"""What the row kernels cost on TPU, modelled: the bundles that the compiler schedules, one a cycle.

Memory is nearly always slower: a cost model takes the larger of these and of the bytes at the speed of HBM.
"""

import re

from wan_jax.chips import CHIPS

# Bundles per 1024 elements of a row block 5120 wide (1280 for relayout), libtpu 0.0.52: `benchmarks.row_kernels`.
_BUNDLES = {
    "v5e": {"layernorm": 3.99, "qkrope": 2.94, "qknorm": 1.99, "relayout": 0.57},
    "v5p": {"layernorm": 4.10, "qkrope": 3.01, "qknorm": 2.05, "relayout": 0.61},
    "v6e": {"layernorm": 3.29, "qkrope": 2.23, "qknorm": 1.93, "relayout": 0.35},
}
_NAME = re.compile(r"(layernorm|qkrope|qknorm|relayout)_n(\d+)_c(\d+)_x(\d+)")


def bundles(generation: str, name: str) -> float | None:
    """Cycles of all steps of the kernel called `name`; None if it is none of ours, or the chip is not known."""
    match = _NAME.search(name)
    if match is None or generation not in _BUNDLES:
        return None
    kind, rows, width, steps = match[1], *map(int, match.groups()[1:])
    return _BUNDLES[generation][kind] * rows * width / 1024 * steps / CHIPS[generation].cores
