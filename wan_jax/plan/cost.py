"""What a compiled program costs, read from its text.

The scheduled module carries the compiler's own estimate of cycles on every fusion, copy and matrix product.  The model
adds them up, a loop's body times its number of runs.  Its other choices:

- A loop whose bounds are arguments (the denoising loop) counts once; of the branches of a conditional the dearest one.
- A Pallas kernel has no estimate: it costs the larger of its bundles (a table made from the compiler's own schedule)
  and of its operands and results at the speed of HBM, wherever they really are.
- A few operations that move data have no estimate either (reshapes to other tiles): they cost their bytes as well.
- Copies between HBM and VMEM that run beside the computation (copy-start, slice-start) are free.
- Collectives take turns on the links, even where they could share them.  One that is started early hides behind what
  is computed until its result is needed, and the computer waits for the rest; one that is not, is waited for.
"""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from wan_jax.plan import hlo
from wan_jax.plan.hlo import Computation, Module, Operation
from wan_jax.plan.links import COLLECTIVES, Slice, Transfer
from wan_jax.plan.loops import Known, known_inside, trip_count

CATEGORIES = ("matmul", "attention", "copy", "other")
_MATMUL = {"convolution", "dot"}
_LAYOUT = {
    *("parameter", "constant", "tuple", "get-tuple-element", "fusion", "bitcast", "bitcast-convert", "convert"),
    *("copy", "transpose", "reshape", "slice", "dynamic-slice", "dynamic-update-slice", "concatenate", "pad"),
    *("broadcast", "gather", "select", "iota", "compare", "reverse"),
}
_MOVES = {"reshape", "concatenate", "transpose", "copy"}  # those that move nothing are called bitcast
_KERNEL_TARGET = '"tpu_custom_call"'

Bundles = Callable[[str], float | None]  # of all grid steps of the Pallas kernel of this name


@dataclass(frozen=True)
class Item:
    """An operation and how often it runs; `source` tells who priced it: compiler, bundles or bytes."""

    category: str
    source: str
    name: str
    op_name: str
    shape: str
    cycles: float  # of one run
    runs: int = 1

    @property
    def total(self) -> float:
        return self.cycles * self.runs


@dataclass(frozen=True)
class Cost:
    """What a computation costs on each chip.

    `exposed_s` is the part of the collectives' time that the chip waits.  `notes` say where the model had to guess.
    """

    clock_hz: float
    items: tuple[Item, ...] = ()
    transfers: tuple[tuple[Transfer, int], ...] = ()  # and how often
    exposed_s: float = 0.0
    notes: frozenset[str] = field(default_factory=frozenset)

    def times(self, runs: int) -> "Cost":
        return dataclasses.replace(
            self,
            items=tuple(dataclasses.replace(item, runs=item.runs * runs) for item in self.items),
            transfers=tuple((transfer, count * runs) for transfer, count in self.transfers),
            exposed_s=self.exposed_s * runs,
        )

    def cycles(self, category: str | None = None) -> float:
        return sum(item.total for item in self.items if category in (None, item.category))

    @property
    def seconds(self) -> float:
        return self.cycles() / self.clock_hz + self.exposed_s

    @property
    def collective_bytes(self) -> float:
        """Sent by each chip."""
        return sum(transfer.bytes * count for transfer, count in self.transfers)

    @property
    def collective_s(self) -> float:
        """If nothing were hidden."""
        return sum(transfer.seconds * count for transfer, count in self.transfers)


def read_cost(text: str, chips: Slice, bundles: Bundles) -> Cost:
    """The cost of one run of a program from `compiled.as_text()`."""
    module = hlo.parse(text)
    return _Reader(module, chips, bundles).computation(module.entry, {})


@dataclass
class _Network:
    """The links while a computation runs: one transfer after the other, beside the computation."""

    now: float = 0.0
    free: float = 0.0  # when the last transfer that was started will be over
    waited: float = 0.0
    pending: dict[str, float] = field(default_factory=dict)

    def start(self, key: str, seconds: float):
        self.free = max(self.now, self.free) + seconds
        self.pending[key] = self.free

    def finish(self, key: str):
        wait = max(0.0, self.pending.pop(key, 0.0) - self.now)
        self.waited += wait
        self.now += wait


@dataclass(frozen=True)
class _Reader:
    module: Module
    chips: Slice
    bundles: Bundles

    def computation(self, computation: Computation, known: Known) -> Cost:
        costs, transfers, network = [], [], _Network()
        for op in computation.operations:
            cost = self._compute(computation, known, op)
            costs.append(cost)
            network.now += cost.seconds
            transfers += self._communicate(computation, op, network)
        for key in list(network.pending):
            network.finish(key)
        return Cost(
            self.chips.chip.clock_hz,
            tuple(item for cost in costs for item in cost.items),
            tuple(transfer for cost in costs for transfer in cost.transfers) + tuple((t, 1) for t in transfers),
            sum(cost.exposed_s for cost in costs) + network.waited,
            frozenset().union(*(cost.notes for cost in costs)),
        )

    def _compute(self, computation: Computation, known: Known, op: Operation) -> Cost:
        """What the chip itself does for `op`."""
        if op.opcode == "while":
            return self._loop(computation, known, op)
        if op.opcode in ("conditional", "call"):
            branches = [self.computation(self.module.computations[name], {}) for name in op.called]
            return max(branches, key=lambda cost: cost.seconds)
        if kernel := self._kernel(op):
            return self._cost_of_kernel(computation, op, kernel)
        if op.estimated_cycles is not None:
            return self._cost(op, self._category(op), "compiler", op.estimated_cycles)
        if op.opcode in _MOVES:
            return self._cost(op, "copy", "bytes", self._cycles_of_bytes(computation, op))
        return Cost(self.chips.chip.clock_hz)

    def _cost(self, op: Operation, category: str, source: str, cycles: float, notes: tuple[str, ...] = ()) -> Cost:
        item = Item(category, source, op.name, op.op_name, op.shape, cycles)
        return Cost(self.chips.chip.clock_hz, (item,), notes=frozenset(notes))

    def _cycles_of_bytes(self, computation: Computation, op: Operation) -> float:
        """Operands and result at the speed of HBM."""
        moved = op.bytes + sum(computation.by_name[operand].bytes for operand in op.operands)
        return moved / self.chips.chip.hbm_bandwidth * self.chips.chip.clock_hz

    def _loop(self, computation: Computation, known: Known, op: Operation) -> Cost:
        body = self.module.computations[op.called[0]]
        cost = self.computation(body, known_inside(self.module, computation, known, op))
        runs = trip_count(self.module, computation, known, op)
        if runs is None and computation is not self.module.entry:
            note = f"counted once, since its bounds are not constants: {op.op_name or op.name}"
            return dataclasses.replace(cost, notes=cost.notes | {note})
        return cost.times(1 if runs is None else runs)

    def _kernel(self, op: Operation) -> Operation | None:
        """The Pallas kernel that `op` is, or contains."""
        candidates = [op] if op.opcode == "custom-call" else self.module.inside(op)
        return next((inner for inner in candidates if _KERNEL_TARGET in inner.attributes), None)

    def _cost_of_kernel(self, computation: Computation, op: Operation, kernel: Operation) -> Cost:
        name = kernel_name(kernel)
        attends = name.startswith("flash") and "self_attention" in kernel.op_name
        category = "attention" if attends else "other"
        bundles, by_bytes = self.bundles(name), self._cycles_of_bytes(computation, op)
        notes = (f"no bundles are known for the kernel {name}: it counts as its bytes",) if bundles is None else ()
        source = "bytes" if bundles is None or bundles < by_bytes else "bundles"
        return self._cost(op, category, source, max(bundles or 0, by_bytes), notes)

    def _category(self, op: Operation) -> str:
        opcodes = {inner.opcode for inner in self.module.inside(op)} | {op.opcode}
        if opcodes & _MATMUL:
            return "matmul"
        return "copy" if opcodes <= _LAYOUT else "other"

    def _communicate(self, computation: Computation, op: Operation, network: _Network) -> list[Transfer]:
        """The collectives that `op` begins; the network learns what begins and what is needed."""
        if op.opcode.endswith("-done"):
            network.finish(op.operands[0])
            return []
        if op.opcode.removesuffix("-start") in COLLECTIVES:
            found = [(computation, op)]
        elif op.opcode in ("fusion", "async-start", "custom-call-update"):
            # A sparse core is woken by a start without operands, and told what to gather by the update.
            caller = computation.by_name[op.operands[0]] if op.opcode == "custom-call-update" else op
            bodies = [self.module.computations[name] for name in caller.called]
            found = [(body, inner) for body in bodies for inner in body.operations if inner.opcode in COLLECTIVES]
        else:
            found = []
        return [transfer for body, inner in found for transfer in self._transfer(op, body, inner, network)]

    def _transfer(self, op: Operation, body: Computation, inner: Operation, network: _Network) -> list[Transfer]:
        """A collective may be cut into fusions that share a channel: a start, pieces beside matmuls, an end."""
        key, starts, ends = op.name, op.opcode.endswith(("-start", "-update")), False
        if op.opcode == "fusion":
            key = f"channel {inner.attribute('channel_id')}"
            targets = {other.attribute("custom_call_target") for other in body.operations}
            starts, ends = '"AsyncCollectiveStart"' in targets, '"AsyncCollectiveDone"' in targets
        if ends:
            network.finish(key)
        if ends or key in network.pending:
            return []
        transfer = self.chips.transfer(inner, _kind(body, inner), sum(body.by_name[x].bytes for x in inner.operands))
        network.start(key, transfer.seconds)
        if not starts:
            network.finish(key)
        return [transfer]


def kernel_name(op: Operation) -> str:
    """The name that a Pallas kernel was given; the compiler appends numbers to make it unique."""
    return re.sub(r"(\.(\d+|clone|sunk))+$", "", op.name)


def _kind(body: Computation, op: Operation) -> str:
    """A reduce-scatter is written as the reduction of the whole, of which a slice is taken."""
    kind = op.opcode.removesuffix("-start")
    if kind == "all-reduce" and body.root.opcode == "dynamic-slice":
        return "reduce-scatter"
    return kind
