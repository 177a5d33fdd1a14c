"""Which tile the attention kernel uses, and what it costs: modelled, from a table that `benchmarks.kernel_tiles` makes.

An entry of "tiles" in tiles.json holds bundles, each a cycle of one core, of a tile of `q` queries × `kv` keys:

    start   before the first keys of a block of queries       finish  after the last keys
    step    fetching and bookkeeping, at every grid step      tile    all keys of a tile
    rest    the last tile, if `rest_kv` keys are left for it  few     256 keys with a running maximum; rare, not counted

Tiles that were not measured take the nearest entry, scaled by their size (`is_measured`).

The entries of "backward" are of the two kernels of the gradient, of which one goes over keys and the other over
queries; there `rest` is the last tile of a row, if it is not whole.
"""

import functools
import json
import math
import re
from pathlib import Path

from wan_jax.chips import CHIPS, by_kind

_OTHERWISE = "v6e"
_WIDTH = {"v5e": 128, "v5p": 128, "v6e": 256}  # of the matrix unit
_NAME = re.compile(r"(flash|flash_backward_queries|flash_backward_keys)_q(\d+)_kv(\d+)_s(\d+)_x(\d+)")


def choose(device_kind: str, n: int, s: int) -> tuple[int, int]:
    """The tile (queries, keys) for n queries over s keys; "TPU v6 lite" or "v6e" name a chip.

    Of the tiles that cost at most a percent more than the cheapest, the one with the least code: compilation is slow.
    """
    generation = _generation(device_kind)
    costs = {}
    for entry in _table()[generation]:
        kv = min(entry["kv"], _round_up(s, 256))
        for q in range(_round_up(entry["q"] // 2, 128), entry["q"] * 5 // 4 + 1, 128):
            tile = min(q, _round_up(n, 128)), kv
            costs[tile] = math.ceil(n / tile[0]) * _block_cost(generation, *tile, s)
    most = 1.01 * min(costs.values())
    code = lambda q, kv: q * (s % kv + (kv if s >= kv else 0))  # noqa: E731
    return min((tile for tile in costs if costs[tile] <= most), key=lambda tile: (code(*tile), costs[tile]))


def name(block_q: int, block_kv: int, s: int, steps: int, kernel: str = "flash") -> str:
    """What a kernel is called, so that its cost can be told from a compiled program.

    Args:
        s: what the kernel goes over: keys, or queries where it makes the gradients of keys and values.
        steps: of the grid.
    """
    return f"{kernel}_q{block_q}_kv{block_kv}_s{s}_x{steps}"


def bundles(generation: str, name: str) -> float | None:
    """Cycles of the kernel called `name` on a chip; None if it is not such a kernel, or the chip is not known."""
    match = _NAME.search(name)
    if match is None or generation not in _table():
        return None
    kernel, (q, kv, s, steps) = match[1], map(int, match.groups()[1:])
    if kernel == "flash":
        cost = steps / math.ceil(s / kv) * _block_cost(generation, q, kv, s)
    else:
        cost = _backward_cost(generation, kernel, q, kv, s, steps)
    return cost / CHIPS[generation].cores


def is_measured(generation: str, name: str) -> bool:
    """Whether the tile in a kernel's name is in the table, and its cost not scaled from another's."""
    match = _NAME.search(name)
    if match is None or generation not in _table():
        return False
    entries = _table()[generation] if match[1] == "flash" else _backward_entries(generation, match[1])
    return any((entry["q"], entry["kv"]) == (int(match[2]), int(match[3])) for entry in entries)


def _block_cost(generation: str, q: int, kv: int, s: int) -> float:
    """Bundles of q queries over s keys."""
    entry = _nearest(_table()[generation], q, kv)
    whole, rest = divmod(s, kv)
    keys = whole * entry["tile"] * kv / entry["kv"]
    if rest:
        deeper = _round_up(rest, _WIDTH[generation]) - entry["rest_kv"]
        keys += max(entry["rest"] + deeper * entry["tile"] / entry["kv"], 0)
    wide = (2 * q + _round_up(q, _WIDTH[generation])) / (3 * entry["q"])  # half of a pass costs two thirds
    return (entry["start"] + keys + entry["finish"]) * wide + math.ceil(s / kv) * entry["step"]


def _backward_cost(generation: str, kernel: str, q: int, kv: int, s: int, steps: int) -> float:
    """Bundles of a kernel of the gradient that goes over s keys, or queries, in each row of its tiles."""
    entry = _nearest(_backward_entries(generation, kernel), q, kv)
    outer, inner = ("q", "kv") if kernel.endswith("queries") else ("kv", "q")
    size = {"q": q, "kv": kv}
    wide, deep = size[outer] / entry[outer], size[inner] / entry[inner]
    rows = steps / math.ceil(s / size[inner])
    rests = rows if s % size[inner] else 0
    tiles = (steps - rests) * entry["tile"] + rests * entry["rest"]
    return (tiles * deep + rows * (entry["start"] + entry["finish"])) * wide + steps * entry["step"]


def _nearest(entries: list[dict], q: int, kv: int) -> dict:
    return min(entries, key=lambda entry: abs(math.log(entry["q"] / q)) + abs(math.log(entry["kv"] / kv)))


def _round_up(x: int, multiple: int) -> int:
    return math.ceil(x / multiple) * multiple


def _generation(device_kind: str) -> str:
    if device_kind in _table():
        return device_kind
    chip = by_kind(device_kind)
    return chip.name if chip is not None and chip.name in _table() else _OTHERWISE


def _table() -> dict[str, list[dict[str, int]]]:
    return _measured()["tiles"]


def _backward_entries(generation: str, kernel: str) -> list[dict[str, int]]:
    return _measured()["backward"][generation][kernel.removeprefix("flash_backward_")]


@functools.cache
def _measured() -> dict:
    return json.loads(Path(__file__).with_name("tiles.json").read_text())
