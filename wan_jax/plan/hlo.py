"""Reads the text of a compiled XLA module into computations and operations."""

import math
import re
from dataclasses import dataclass
from functools import cached_property

_HEADER = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"\s+(ROOT )?%([\w.\-]+) = (.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%([\w.\-]+)")
_SEVERAL_CALLED = re.compile(r"(?:branch|called)_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Operation:
    """One line of a computation."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    arguments: str  # what is between the parentheses: a literal for constants, an index for parameters
    attributes: str
    is_root: bool

    @cached_property
    def called(self) -> tuple[str, ...]:
        """The computations that it runs, a loop's condition apart."""
        several = _SEVERAL_CALLED.search(self.attributes)
        return (*_CALLED.findall(self.attributes), *(_NAME.findall(several[1]) if several else ()))

    @property
    def op_name(self) -> str:
        """Where in the traced program it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def estimated_cycles(self) -> int | None:
        """The compiler's own cost model."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else None

    @property
    def trip_count(self) -> int | None:
        """Of a loop, where the compiler states it."""
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"', self.attributes)
        return int(found[1]) if found else None

    @property
    def bytes(self) -> int:
        return shape_bytes(self.shape)

    def attribute(self, name: str) -> str | None:
        """The word after `name=`."""
        found = re.search(rf"\b{name}=([^\s,]+)", self.attributes)
        return found[1] if found else None


@dataclass(frozen=True)
class Computation:
    """A straight list of operations, in the order in which they run."""

    name: str
    operations: tuple[Operation, ...]

    @cached_property
    def by_name(self) -> dict[str, Operation]:
        return {op.name: op for op in self.operations}

    @cached_property
    def root(self) -> Operation:
        return next(op for op in self.operations if op.is_root)


@dataclass(frozen=True)
class Module:
    computations: dict[str, Computation]
    entry: Computation

    def inside(self, op: Operation):
        """The operations of the computations that `op` calls, and of those that they call."""
        for name in op.called:
            for inner in self.computations[name].operations:
                yield inner
                yield from self.inside(inner)


def parse(text: str) -> Module:
    """Reads `compiled.as_text()`."""
    computations, entry, lines, name = {}, None, [], None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name, lines = header[2], []
            entry = name if header[1] else entry
        elif line.startswith("}") and name is not None:
            computations[name] = Computation(name, tuple(lines))
            name = None
        elif name is not None and (match := _OPERATION.match(line)):
            lines.append(_operation(*match.groups()))
    return Module(computations, computations[entry])


def shape_bytes(shape: str) -> int:
    """The bytes of an array, or of all arrays of a tuple; padding of the layout is left out."""
    return sum(_item_bytes(kind) * math.prod(map(int, filter(None, dims.split(",")))) for kind, dims in arrays(shape))


def arrays(shape: str) -> list[tuple[str, str]]:
    """The (element type, sizes) of an array or of a tuple's arrays."""
    return [(kind, dims) for kind, dims in _ARRAY.findall(shape)]


def _item_bytes(kind: str) -> float:
    if kind in ("pred", "token"):
        return 1
    bits = re.search(r"\d+", kind)
    return int(bits[0]) / 8 if bits else 0


def _operation(root: str | None, name: str, rest: str) -> Operation:
    shape, rest = _split_after(rest, _closing(rest) if rest.startswith("(") else rest.index(" ") - 1)
    opcode, _, rest = rest.strip().partition("(")
    arguments, attributes = _split_after("(" + rest, _closing("(" + rest))
    return Operation(
        name, shape, opcode, tuple(_NAME.findall(arguments)), arguments[1:-1], attributes, root is not None
    )


def _closing(text: str) -> int:
    """Where the parenthesis that `text` begins with is closed."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"unbalanced parentheses: {text[:80]}")


def _split_after(text: str, index: int) -> tuple[str, str]:
    return text[: index + 1], text[index + 1 :]
