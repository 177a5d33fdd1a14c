"""A program that was compiled for devices that need not be there."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax

from wan_jax import compiler
from wan_jax.errors import WanError

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Program:
    """A compiled program.  Bytes are of one device.

    One that needs more memory than the device has is refused by the compiler, which only says how much: then `text`,
    `argument_bytes` and `temp_bytes` are None.
    """

    compile_s: float
    peak_bytes: float
    argument_bytes: int | None = None
    temp_bytes: int | None = None
    text: str | None = None
    host_temp_bytes: int = 0  # of host memory, beside the arguments that wait there


def compile_program(name: str, lower: Callable[[], jax.stages.Lowered], device_kind: str, function: str) -> Program:
    """Compiles as the pipeline and the trainer do.

    Args:
        name: for messages.
        lower: traces the program.
        function: the jitted function, whose options these are.

    Raises:
        WanError: the compiler fails, for another reason than memory.
    """
    started = time.monotonic()
    try:
        lowered = lower()
        started = time.monotonic()
        compiled = compiler.compile(lowered, device_kind, function)
        compile_s, text = time.monotonic() - started, compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        needed = re.search(r"Ran out of memory on HBM.*?required.*?\(([\d.]+)([KMGT]?)\)", str(error))
        if needed is None:
            raise WanError(f"{name}: the TPU compiler fails: {str(error).splitlines()[0]}") from error
        return Program(time.monotonic() - started, float(needed[1]) * _UNITS[needed[2]])
    memory = compiled.memory_analysis()
    peak = memory.peak_memory_in_bytes
    if memory.host_argument_size_in_bytes:  # which the compiler counts in its peak
        results = memory.output_size_in_bytes - memory.alias_size_in_bytes
        peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + results
    return Program(
        compile_s,
        peak,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        text,
        memory.host_temp_size_in_bytes,
    )
