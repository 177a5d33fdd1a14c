"""Latents of a video in a file that grows frame by frame.

The file is safetensors with one tensor "latents" [f h w c], float32, and JSON under "wan_jax" in its metadata.  The
format holds nothing that runs, any program can map it into memory, and frames that lie one after the other can be
appended: only the header tells their number, so it has a fixed width, filled up with the spaces that the format allows,
and is written again at the end.  (A folder of Zarr chunks would also grow, but would not be one file.)

While it grows the file is called NAME.part, and its header holds the settings that it is made with.
"""

import json
import math
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wan_jax.errors import WanError
from wan_jax.typing import Float

_HEADER_BYTES = 4096
_LONGEST_HEADER = 1 << 20  # that is read; others write such files too
_DTYPE = np.dtype("<f4")


@dataclass(frozen=True)
class LatentsFile:
    """A file of latents that was checked.

    Attributes:
        path: where it is.
        shape: of the tensor, [f h w c].
        metadata: what `LatentsWriter` was given.
        start: the byte at which values begin.
    """

    path: Path
    shape: tuple[int, int, int, int]
    metadata: dict[str, Any]
    start: int

    def pieces(self, first: int = 0, length: int = 16) -> Iterator[Float["b f h w c"]]:
        """The frames from `first` on, `length` at a time, with an axis for the batch in front."""
        frame = math.prod(self.shape[1:])
        with open(self.path, "rb") as file:
            file.seek(self.start + first * frame * _DTYPE.itemsize)
            for begin in range(first, self.shape[0], length):
                count = min(length, self.shape[0] - begin)
                values = np.fromfile(file, _DTYPE, count * frame)
                if values.size < count * frame:
                    raise WanError(f"cannot read {self.path}: it became shorter while it was read")
                yield values.reshape(1, count, *self.shape[1:])


def read_latents(path: str | os.PathLike) -> LatentsFile:
    """Opens a file of latents; its values are read when they are asked for.

    Raises:
        WanError: the file is missing, damaged, cut short or of another kind.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        header, start = _read_header(path)
        tensor = header["latents"]
        shape = tuple(tensor["shape"])
        metadata = json.loads(header["__metadata__"]["wan_jax"])
        whole = all(type(n) is int and n > 0 for n in shape) and len(shape) == 4 and tensor["dtype"] == "F32"
        if not (whole and len(header) == 2 and isinstance(metadata, dict)):
            raise ValueError
        if tensor["data_offsets"] != [0, math.prod(shape) * _DTYPE.itemsize]:
            raise ValueError
    except OSError as error:
        raise WanError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WanError(f"cannot read {path}: it is no file of latents; the encode command makes one") from error
    if size != start + math.prod(shape) * _DTYPE.itemsize:
        raise WanError(f"cannot read {path}: cut short, or longer than its header says")
    return LatentsFile(path, shape, metadata, start)


class LatentsWriter:
    """Appends to NAME.part; goes on with one that is there."""

    def __init__(self, path: Path, frame_shape: tuple[int, int, int], settings: dict[str, Any]):
        """`settings`: what the values depend on, of JSON types."""
        self._path, self._part = path, part_of(path)
        self._shape = frame_shape
        if not self._part.exists():
            self._part.write_bytes(_header(0, frame_shape, settings))
        self._file = open(self._part, "r+b")  # noqa: SIM115

    @property
    def frames(self) -> int:
        """Whole frames that are there already."""
        return max(os.fstat(self._file.fileno()).st_size - _HEADER_BYTES, 0) // self._frame_bytes

    def keep(self, frames: int):
        """Drops what comes after so many."""
        end = _HEADER_BYTES + frames * self._frame_bytes
        self._file.truncate(end)
        self._file.seek(end)

    def append(self, latents: Float["f h w c"]):
        self._file.write(np.ascontiguousarray(latents, _DTYPE).data)
        self._file.flush()  # what was handed to the system outlives the process

    def finish(self, metadata: dict[str, Any]):
        """Writes the final header, and gives the file its name."""
        header = _header(self.frames, self._shape, metadata)
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, self._path)

    @property
    def _frame_bytes(self) -> int:
        return math.prod(self._shape) * _DTYPE.itemsize


def part_of(path: Path) -> Path:
    """What an unfinished output is called."""
    return path.with_name(path.name + ".part")


def begin(dst: Path, earlier: dict[str, Any] | None, settings: dict[str, Any], restart: bool):
    """Refuses to go on with other settings; removes an unfinished output that cannot or shall not be gone on with."""
    part = part_of(dst)
    if part.exists() and (restart or earlier is None):
        shutil.rmtree(part) if part.is_dir() else part.unlink()
        return
    for name, value in settings.items() if earlier is not None else ():
        if earlier.get(name) != value:
            raise WanError(
                f"{part} was begun with {name} {earlier.get(name)!r}, not {value!r}: "
                "repeat that command, or begin anew with --restart"
            )


def part_settings(path: Path) -> dict[str, Any] | None:
    """The settings of an unfinished file; None if there is none, or its header is incomplete."""
    try:
        return json.loads(_read_header(part_of(path))[0]["__metadata__"]["wan_jax"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
        if length > _LONGEST_HEADER:
            raise ValueError("no header")
        return json.loads(file.read(length)), 8 + length


def _header(frames: int, frame_shape: tuple[int, int, int], metadata: dict[str, Any]) -> bytes:
    shape = [frames, *frame_shape]
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, math.prod(shape) * _DTYPE.itemsize]}
    tree = {"__metadata__": {"wan_jax": json.dumps(metadata, sort_keys=True)}, "latents": tensor}
    content = json.dumps(tree).encode()
    width = _HEADER_BYTES - 8
    if len(content) > width:
        raise WanError(f"the settings take {len(content)} bytes, more than a header's {width}: shorten the file's name")
    return struct.pack("<Q", width) + content.ljust(width)
