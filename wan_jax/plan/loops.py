"""How often a loop of a compiled module runs."""

from wan_jax.plan.hlo import Computation, Module, Operation

Known = dict[int, int]  # the elements of a computation's argument, a tuple, whose value is known
_TRANSPARENT = {"copy", "bitcast", "convert", "reshape"}


def trip_count(module: Module, computation: Computation, known: Known, loop: Operation) -> int | None:
    """The number of runs of the `while` operation `loop`; None if it depends on the program's arguments."""
    if loop.trip_count is not None:
        return loop.trip_count
    condition = module.computations[loop.attribute("condition").lstrip("%")]
    body = module.computations[loop.called[0]]
    test = condition.root
    if test.opcode != "compare" or test.attribute("direction") != "LT":
        return None
    counter = _element(condition, test.operands[0])
    start = _values(computation, known, loop)
    limit = _value(condition, start, test.operands[1])
    step = None if counter is None else _step(body, counter)
    if counter not in start or limit is None or step is None:
        return None
    return max(0, -(-(limit - start[counter]) // step))


def known_inside(module: Module, computation: Computation, known: Known, loop: Operation) -> Known:
    """What the body of `loop` can know of its argument: the elements that it hands on as they are."""
    body = module.computations[loop.called[0]]
    kept = body.root.operands if body.root.opcode == "tuple" else ()
    start = _values(computation, known, loop)
    return {i: start[i] for i, name in enumerate(kept) if i in start and _element(body, name) == i}


def _values(computation: Computation, known: Known, loop: Operation) -> Known:
    """The known elements of the tuple that `loop` starts with."""
    start = computation.by_name[loop.operands[0]]
    values = {i: _value(computation, known, name) for i, name in enumerate(start.operands) if start.opcode == "tuple"}
    return {i: value for i, value in values.items() if value is not None}


def _value(computation: Computation, known: Known, name: str) -> int | None:
    """The scalar called `name`, if it is a constant."""
    op = _source(computation, name)
    if op.opcode == "constant" and op.arguments.lstrip("-").isdecimal():
        return int(op.arguments)
    return known.get(_element(computation, name))


def _step(body: Computation, counter: int) -> int | None:
    """What `body` adds to the loop's counter, which is an element of its argument."""
    if body.root.opcode != "tuple":
        return None
    update = _source(body, body.root.operands[counter])
    if update.opcode != "add" or counter not in [_element(body, name) for name in update.operands]:
        return None
    return next((step for name in update.operands if (step := _value(body, {}, name))), None)


def _element(computation: Computation, name: str) -> int | None:
    """Which element of the computation's argument `name` is; None if it is something else."""
    op = _source(computation, name)
    is_element = op.opcode == "get-tuple-element" and computation.by_name[op.operands[0]].opcode == "parameter"
    return int(op.attribute("index")) if is_element else None


def _source(computation: Computation, name: str) -> Operation:
    """The operation called `name`, or what it is a copy of."""
    op = computation.by_name[name]
    while op.opcode in _TRANSPARENT:
        op = computation.by_name[op.operands[0]]
    return op
