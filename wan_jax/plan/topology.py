"""Slices of TPU chips to compile for, on a machine that has none."""

import importlib.metadata
import importlib.util
import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from wan_jax.chips import CHIPS, Chip
from wan_jax.errors import WanError

# libtpu asks the machine what it runs on, unless it is told; the compiler alone needs no answer.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v6e-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True)
class Topology:
    """A slice, such as v6e:2x4."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @cached_property
    def devices(self) -> list[Any]:
        """Stand-ins for its devices, to make a mesh from and compile for; nothing runs on them.

        Raises:
            WanError: libtpu is missing, or knows no such slice.
        """
        prepare()
        import jax
        from jax.experimental import topologies

        # A slice of one chip is a part of a host, which libtpu takes for 2×2 chips by default.
        alone = {"chips_per_host_bounds": [1, 1, 1]} if set(self.shape) == {1} else {}
        try:
            return topologies.get_topology_desc(platform="tpu", topology_name=self.name, **alone).devices
        except jax.errors.JaxRuntimeError as error:
            raise WanError(
                f"topology {self.name}: libtpu {libtpu_version()} says: {str(error).splitlines()[0]}"
            ) from None


def parse_topology(text: str) -> Topology:
    """Reads "v6e:2x4".

    Raises:
        WanError: it names no such chip, or no slice of them.
    """
    name, _, sizes = text.partition(":")
    if name not in CHIPS:
        raise WanError(f"topology {text!r}: the chip must be one of {', '.join(CHIPS)}, as in v6e:2x4")
    chip = CHIPS[name]
    if not re.fullmatch(r"\d+(x\d+)*", sizes):
        raise WanError(f"topology {text!r} is not CHIP:AxB or CHIP:AxBxC, such as v6e:2x4 or v5p:2x2x4")
    shape = tuple(map(int, sizes.split("x")))
    if len(shape) != len(chip.pod):
        raise WanError(f"topology {text!r}: slices of {name} have {len(chip.pod)} axes, such as {_example(chip)}")
    largest = "x".join(map(str, chip.pod))
    if any(size < 1 or size > limit for size, limit in zip(sorted(shape), sorted(chip.pod))):
        raise WanError(f"topology {text!r}: the largest slice of {name} is {largest}")
    if any(size > 1 and size % 2 for size in shape):
        raise WanError(f"topology {text!r}: the sizes of a slice are 1 or even, such as {_example(chip)}")
    return Topology(chip, shape)


def larger(topology: Topology) -> Topology | None:
    """The next slice with more chips, as Cloud TPU offers them; None after the largest."""
    shape = list(topology.shape)
    if set(shape) == {1}:
        shape[:2] = 2, 2
    else:
        axis = max(i for i, size in enumerate(shape) if size == min(shape))
        shape[axis] *= 2
    try:
        return parse_topology(f"{topology.chip.name}:{'x'.join(map(str, shape))}")
    except WanError:
        return None


def prepare():
    """Lets JAX find the TPU compiler without a TPU; to be called before JAX starts.

    Raises:
        WanError: libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise WanError("the planner needs the TPU compiler, which works without a TPU: pip install libtpu")
    os.environ.update(_ENVIRONMENT)


def libtpu_version() -> str:
    return importlib.metadata.version("libtpu")


def _example(chip: Chip) -> str:
    return f"{chip.name}:2x4" if len(chip.pod) == 2 else f"{chip.name}:2x2x4"
