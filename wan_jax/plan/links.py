"""Collectives on the links between chips: what is sent, and how long the busiest link needs for it.

Data goes along the first axis of the slice, then the second, then the third, the short way round where the axis is a
ring.  In a gather every link carries each source's piece once, and a chip passes on what it received; a scatter is a
gather backwards, and a reduction of the whole is one of each.  In an exchange of all with all every pair has a message
of its own.  Compilers know better schedules on several axes, so the time is a bound from above for groups that span
two axes, and exact for lines and rings.  Latency (about a microsecond a hop) is left out.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from wan_jax.chips import Chip
from wan_jax.plan.hlo import Operation

COLLECTIVES = {"all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute"}

Groups = tuple[tuple[int, ...], ...]
Coords = tuple[int, ...]


@dataclass(frozen=True)
class Transfer:
    """One collective: the bytes that a chip sends, and the seconds that it takes alone."""

    kind: str
    bytes: float
    seconds: float
    op_name: str


@dataclass(frozen=True)
class Slice:
    """The chips of a mesh, in its order, and where they are in the slice."""

    chip: Chip
    coords: tuple[Coords, ...]

    def transfer(self, op: Operation, kind: str, input_bytes: int) -> Transfer:
        """What the collective `op` does with `input_bytes` on every chip."""
        groups = permutation(op) if kind == "collective-permute" else replica_groups(op.attributes, len(self.coords))
        members = len(groups[0])
        sent, busiest = {
            "all-gather": lambda: (members - 1, self.gather(groups)),
            "reduce-scatter": lambda: ((members - 1) / members, self.gather(groups) / members),
            "all-reduce": lambda: (2 * (members - 1) / members, 2 * self.gather(groups) / members),
            "all-to-all": lambda: ((members - 1) / members, self.exchange(groups) / members),
            "collective-permute": lambda: (float(any(a != b for a, b in groups)), self.permute(groups)),
        }[kind]()
        return Transfer(kind, sent * input_bytes, busiest * input_bytes / self.chip.link_bandwidth, op.op_name)

    @cache  # noqa: B019 - slices live as long as the process
    def gather(self, groups: Groups) -> int:
        """How many chips' pieces the busiest link carries when each piece goes to all chips of its group."""
        return _busiest(
            {link for target in group for link in self.route(source, target)} for group in groups for source in group
        )

    @cache  # noqa: B019
    def exchange(self, groups: Groups) -> int:
        """How many messages the busiest link carries when each chip sends one to each other of its group."""
        return _busiest(self.route(a, b) for group in groups for a in group for b in group)

    @cache  # noqa: B019
    def permute(self, pairs: Groups) -> int:
        return _busiest(self.route(a, b) for a, b in pairs)

    @property
    def shape(self) -> Coords:
        return tuple(max(sizes) + 1 for sizes in zip(*self.coords))

    def route(self, source: int, target: int) -> list[tuple[Coords, int, int]]:
        """The links (chip, axis, direction) from one chip to another."""
        here, links = list(self.coords[source]), []
        is_torus = all(size % self.chip.wrap == 0 for size in self.shape)
        for axis, (size, there) in enumerate(zip(self.shape, self.coords[target])):
            distance = there - here[axis]
            if is_torus and abs(distance) > size // 2:
                distance -= size if distance > 0 else -size
            direction = 1 if distance > 0 else -1
            for _ in range(abs(distance)):
                links.append((tuple(here), axis, direction))
                here[axis] = (here[axis] + direction) % size
        return links


def replica_groups(attributes: str, devices: int) -> Groups:
    """The groups of devices within which a collective works, in any of the notations of XLA.

    {{0,1},{2,3}}; [2,2]<=[4] and [2,2]<=[2,2]T(1,0) (device numbers in order, reshaped, perhaps transposed); and
    mesh['a'=2,'b'=2] {'b'} (groups along axis b, or a part of it).
    """
    if listed := re.search(r"replica_groups=(\{\{[\d,{}]*\}\})", attributes):
        return _number_lists(listed[1])
    if counted := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        shape, source, order = (tuple(map(int, part.split(","))) if part else None for part in counted.groups())
        numbers = np.arange(devices).reshape(source)
        return _as_groups((numbers if order is None else numbers.transpose(order)).reshape(shape))
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{('[^}]*)\}", attributes):
        return _groups_along(mesh[1], mesh[2])
    if "replica_groups={}" in attributes:
        return (tuple(range(devices)),)
    raise ValueError(f"cannot read the groups of a collective: {attributes[:200]}")


def _groups_along(mesh: str, along: str) -> Groups:
    """Groups from "'a'=2,'b'=8" and "'a'", or "'b':(2)4" where they lie along the middle of b as 2 × 4 × 1."""
    parts = {name: (pre, size) for name, pre, size in re.findall(r"'([^']*)'(?::\((\d+)\)(\d+))?", along)}
    shape: list[int] = []
    inside: list[int] = []
    for name, size in re.findall(r"'([^']*)'=(\d+)", mesh):
        if name in parts:
            before, within = (int(n) for n in parts[name]) if parts[name][0] else (1, int(size))
            inside.append(len(shape) + 1)
            shape += [before, within, int(size) // (before * within)]
        else:
            shape.append(int(size))
    outside = [i for i in range(len(shape)) if i not in inside]
    numbers = np.arange(math.prod(shape)).reshape(shape).transpose(*outside, *inside)
    return _as_groups(numbers.reshape(-1, math.prod(shape[i] for i in inside)))


def permutation(op: Operation) -> Groups:
    """The (source, target) pairs of a collective-permute."""
    return _number_lists(re.search(r"source_target_pairs=(\{\{[\d,{}]*\}\})", op.attributes)[1])


def _number_lists(text: str) -> Groups:
    return tuple(tuple(map(int, part.split(","))) for part in re.findall(r"\{([\d,]+)\}", text))


def _as_groups(numbers: np.ndarray) -> Groups:
    return tuple(tuple(int(n) for n in group) for group in numbers)


def _busiest(routes: Iterator) -> int:
    loads = Counter(link for route in routes for link in route)
    return max(loads.values(), default=0)
