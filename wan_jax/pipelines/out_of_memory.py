"""What to do when a device runs out of memory, in one line instead of the compiler's list of buffers."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from wan_jax import checkpoint, chips, sharding
from wan_jax.config import WanConfig
from wan_jax.errors import WanError
from wan_jax.models import abstract_params
from wan_jax.models.dit import PATCH
from wan_jax.pipelines.given import Size

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"(\d+(?:\.\d+)?)\s*([KMGT]?)"  # of 1024 times what is below

# The compiler of TPUs, which knows one program and counts its arguments, in an older and a newer wording.
_COMPILING = (
    re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
    re.compile(rf"required[^()]*\({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
)
# A TPU, a GPU and a CPU at work: one buffer is too much beside all the others.
_RUNNING = (
    re.compile(rf"Attempting to (?:allocate|reserve) {_SIZE}.*?There are {_SIZE} free"),
    re.compile(rf"Failed to allocate request for {_SIZE}"),
    re.compile(rf"Out of memory (?:while trying to allocate|allocating) {_SIZE}"),
)
_SPARE = 0.95  # of what should fit, as not all memory follows the number of tokens


@dataclass(frozen=True)
class Shortage:
    """What a message tells, in bytes.

    Attributes:
        needed: by a whole program if `compiling`, otherwise by one buffer; None if it is not told.
        available: for it; None if it is not told.
        compiling: whether the program does not fit a device that holds nothing else.
    """

    needed: float | None = None
    available: float | None = None
    compiling: bool = False


@dataclass(frozen=True)
class Use:
    """What is done for the memory already, and what it is needed for.

    Attributes:
        config: of the model, as it is on the device.
        component: whose programs run, or whose weights are read.
        offload: see `wan_jax.pipelines.residency`.
        size: frames, height and width of a video; None where the memory does not follow it.
        videos: of that size, made at once.
        weight_bytes: the part of a program's memory that does not follow the size.
        unified: whether the device's memory is the host's, so that nothing can wait there.
    """

    config: WanConfig
    component: str = "transformer"
    offload: str | None = None
    size: Size | None = None
    videos: int = 1
    weight_bytes: float = 0
    unified: bool = False


@contextmanager
def explained(
    config: WanConfig,
    component: str,
    dtype,
    mesh: Mesh,
    offload: str | None,
    size: Size | None = None,
    videos: int = 1,
) -> Iterator[None]:
    """Around what may run out of memory; other errors pass.

    Args:
        config, component, offload, size, videos: see `Use`.
        dtype: of the component.
        mesh: the devices.

    Raises:
        WanError: what was needed, what there is, and what to try.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # JAX places arrays with ValueErrors
        shortage = None if isinstance(error, WanError) else parse(str(error))
        if shortage is None:
            raise
        device = mesh.local_devices[0]
        shortage, limit = _completed(shortage, device)
        streams = offload == "blocks" and _is_expert(component)
        weights = 0 if streams else _weight_bytes(config, component, dtype, mesh)
        use = Use(config, component, offload, size, videos, weights, device.platform == "cpu")
        where = f"out of memory on {device.device_kind}: "
        raise WanError(f"{where}{describe(shortage, limit)}; try {advise(shortage, use)}") from error


def parse(message: str) -> Shortage | None:
    """What an error of JAX says is missing; None if that is not a device's memory.

    Quotas of storage are RESOURCE_EXHAUSTED too, and so is the scratch memory of a kernel, whatever the video's size.
    """
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
        return None
    if re.search(r"memory space (vmem|smem|cmem)|on (vmem|smem|cmem)\b", message, re.IGNORECASE):
        return None
    for pattern in _COMPILING:
        if found := pattern.search(message):
            return Shortage(_bytes(*found.groups()[:2]), _bytes(*found.groups()[2:]), compiling=True)
    for pattern in _RUNNING:
        if found := pattern.search(message):
            needed, available = found.groups()[:2], found.groups()[2:]
            return Shortage(_bytes(*needed), _bytes(*available) if available else None)
    return Shortage() if re.search(r"memory|allocat", message, re.IGNORECASE) else None


def describe(shortage: Shortage, limit: float | None = None) -> str:
    """What is needed and what there is, of `limit` bytes in all."""
    needed = "an unknown amount" if shortage.needed is None else _readable(shortage.needed)
    more = "" if shortage.compiling else " more"
    words = f"{needed}{more} is needed"
    if shortage.available is None:
        return words if limit is None else f"{words}, the device has {_readable(limit)}"
    if shortage.compiling:
        return f"{words}, there is {_readable(shortage.available)}"
    return f"{words}, {_readable(shortage.available)} {'' if limit is None else f'of {_readable(limit)} '}is free"


def advise(shortage: Shortage, use: Use) -> str:
    """The first setting that is not used yet, and smaller videos that should fit without it."""
    kinds = [_setting(shortage, use), *(_smaller(shortage, use) if use.size else ())]
    return " or ".join(filter(None, kinds)) or "more devices, with a mesh such as context=2, or a smaller model"


def _setting(shortage: Shortage, use: Use) -> str | None:
    # It helps a program that does not fit by itself as little that other weights go as where they are gone already.
    others = use.offload is None and not shortage.compiling
    if others and not use.unified:
        return 'offload="model" (--offload model)'
    if use.config.transformer.quantization is None and (others or _is_expert(use.component)):
        return 'quantization="int8" (--quantize int8)'
    if use.offload != "blocks" and not use.unified and _is_expert(use.component):
        return 'offload="blocks" (--offload blocks)'
    return None


def _smaller(shortage: Shortage, use: Use) -> Iterator[str]:
    """A batch, a size and a number of frames of about the tokens that fit."""
    share = fitting_share(shortage, use.weight_bytes)
    frames, height, width = use.size
    if use.videos > 1 and int(share * use.videos) >= 1:
        yield f"{int(share * use.videos)} prompt{'s' if share * use.videos >= 2 else ''} at a time"
    unit = use.config.vae.spatial_factor * PATCH
    rows, columns = (int(length * math.sqrt(share)) // unit * unit for length in (height, width))
    if rows and columns:
        yield f"width={columns}, height={rows} (--size {columns}x{rows})"
    stride = use.config.vae.temporal_factor
    steps = int(share * ((frames - 1) // stride + 1))
    if steps > 1 and use.component != "vae":  # which takes a few frames at a time, however many there are
        yield f"num_frames={(steps - 1) * stride + 1} (--frames {(steps - 1) * stride + 1})"


def fitting_share(shortage: Shortage, weight_bytes: float = 0) -> float:
    """Of the tokens, about the part that fits, in [0, 1); a half where nothing is known."""
    if not shortage.needed or shortage.available is None:
        return 0.5
    fixed = weight_bytes if shortage.compiling and weight_bytes < shortage.needed else 0
    share = (shortage.available - fixed) / (shortage.needed - fixed)
    return _SPARE * min(1, max(0, share))  # where memory is in pieces, more may be free than is needed


def _completed(shortage: Shortage, device: jax.Device) -> tuple[Shortage, float | None]:
    """With what the device tells where the message does not, and the device's memory in bytes."""
    stats = device.memory_stats() or {}
    chip = chips.by_kind(device.device_kind)
    limit = stats.get("bytes_limit", chip and chip.hbm_gib * 2**30)
    if shortage.available is None and limit is not None and "bytes_in_use" in stats:
        shortage = Shortage(shortage.needed, limit - stats["bytes_in_use"], shortage.compiling)
    return shortage, limit


def _is_expert(component: str) -> bool:
    return component.startswith("transformer")


def _weight_bytes(config: WanConfig, component: str, dtype, mesh: Mesh) -> int:
    """What the weights of a component take of each device."""
    placed = sharding.place(abstract_params(checkpoint.components(config)[component], dtype), mesh)
    return sharding.bytes_of_each(placed)


def _bytes(number: str, unit: str) -> float:
    return float(number) * _UNITS[unit]


def _readable(size: float) -> str:
    unit = next((unit for unit in "TGMK" if size >= _UNITS[unit]), "")
    return f"{size / _UNITS[unit]:.4g} {f'{unit}iB' if unit else 'bytes'}"
