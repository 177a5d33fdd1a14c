"""The files that PyTorch weights come in: safetensors, and `.pth` where the original release has nothing else."""

import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import ml_dtypes
import numpy as np

from wan_jax.errors import WanError

_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_SHOWN = 3  # tensors named where all of a file is lost


class TensorInfo(NamedTuple):
    """What a header says of a tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def words(self) -> tuple[list[int], str]:
        """Shape and dtype as a safetensors header has them; `tensor_info` reads them back."""
        return list(self.shape), _NAMES[self.dtype]


class TensorFile(Protocol):
    """A file of named tensors."""

    header: dict[str, TensorInfo]

    def read(self, name: str) -> np.ndarray: ...


def tensor_file(path: Path) -> TensorFile:
    """Opens a file by its suffix."""
    return TorchFile(path) if path.suffix == ".pth" else SafetensorsFile(path)


def tensor_info(name: str, shape: list[int], dtype: str, where: str) -> TensorInfo:
    """From the words of a safetensors header.

    Raises:
        WanError: the dtype is not one that weights come in.
    """
    if dtype not in _DTYPES:
        raise WanError(f"{where}: {name} has dtype {dtype}; weights come in {', '.join(_DTYPES)}")
    return TensorInfo(tuple(shape), _DTYPES[dtype])


class SafetensorsFile:
    """A safetensors file (github.com/huggingface/safetensors, "Format"), read tensor by tensor.

    The package's own reader keeps the whole file mapped, and mapped pages count as resident; and what it says of a
    truncated file does not name a tensor.

    Raises:
        WanError: the header is damaged, or the file ends before its tensors do.
    """

    def __init__(self, path: Path):
        self._path = path
        size = path.stat().st_size
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                entries = json.loads(file.read(length)) if length < size else None
            entries.pop("__metadata__", None)
            self.header = {
                name: tensor_info(name, entry["shape"], entry["dtype"], str(path)) for name, entry in entries.items()
            }
            self._starts = {name: 8 + length + entry["data_offsets"][0] for name, entry in entries.items()}
            ends = {name: 8 + length + entry["data_offsets"][1] for name, entry in entries.items()}
            for name, info in self.header.items():
                if not 8 + length <= self._starts[name] == ends[name] - info.nbytes:
                    raise ValueError(name)
        except (struct.error, ValueError, AttributeError, KeyError, TypeError) as error:
            if isinstance(error, WanError):
                raise
            raise WanError(f"{path}: not a safetensors file, or its header is damaged") from error
        if lost := sorted((name for name in ends if ends[name] > size), key=ends.get):
            more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
            raise WanError(
                f"{path}: truncated at {size} of {max(ends.values())} bytes; lost {', '.join(lost[:_SHOWN])}{more}"
            )

    def read(self, name: str) -> np.ndarray:
        """One tensor, mapped; its pages are given back with the array."""
        return np.memmap(self._path, self.header[name].dtype, "r", self._starts[name], self.header[name].shape)


class TorchFile:
    """A `.pth` state dict, unpickled without running code.

    It is opened anew for every tensor, because the pages of a mapped tensor stay resident as long as the mapping.

    Raises:
        WanError: torch is not installed, or the file is damaged or holds something else.
    """

    def __init__(self, path: Path):
        self._path = path
        self.header = {}
        for name, tensor in self._load().items():
            dtype = str(getattr(tensor, "dtype", type(tensor))).removeprefix("torch.")
            if dtype not in [d.name for d in _NAMES]:
                raise WanError(f"{path}: {name} is {dtype}; weights come in {', '.join(d.name for d in _NAMES)}")
            self.header[name] = TensorInfo(tuple(tensor.shape), np.dtype(dtype))

    def read(self, name: str) -> np.ndarray:
        """One tensor, copied out of the mapping."""
        import torch

        tensor, dtype = self._load()[name].contiguous(), self.header[name].dtype
        return tensor.view(torch.int16).numpy().view(dtype).copy() if dtype.itemsize == 2 else tensor.numpy().copy()

    def _load(self) -> Mapping:
        try:
            import torch
        except ImportError:
            raise WanError(
                f"{self._path}: reading .pth files needs PyTorch; `pip install torch`, or take the Diffusers layout"
            ) from None
        try:
            return torch.load(self._path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, … for damaged files
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WanError(f"{self._path}: not a plain .pth state dict, or damaged ({reason[:120]})") from error


def write_safetensors(path: Path, header: Mapping[str, TensorInfo], get: Callable[[str], np.ndarray]):
    """Writes a file tensor by tensor; at most one is in memory."""
    entries, offset = {"__metadata__": {"format": "pt"}}, 0  # transformers insists on the format
    for name, info in header.items():
        end = offset + info.nbytes
        entries[name] = dict(zip(("shape", "dtype"), info.words())) | {"data_offsets": [offset, end]}
        offset = end
    head = json.dumps(entries, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name, info in header.items():
            value = np.ascontiguousarray(get(name), info.dtype)
            if value.shape != info.shape:
                raise AssertionError(f"{name}: {value.shape} is not {info.shape}")
            file.write(value.reshape(-1).view(np.uint8))
        file.flush()
        os.fsync(file.fileno())
