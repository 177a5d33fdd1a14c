"""Whether disk and memory of the host will do, asked before anything large is fetched, converted or loaded."""

import os
import shutil
from pathlib import Path

from wan_jax.errors import WanError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")  # of version 2: the limits of a container


def check_disk(folder: str | os.PathLike, need: int):
    """Raises a WanError where fewer than `need` bytes are free on the disk of a folder that need not exist yet."""
    here, free = free_disk_bytes(folder)
    if need > free:
        raise WanError(
            f"{here}: {need / 1e9:.1f} GB are needed and only {free / 1e9:.1f} GB are free; name a folder on another "
            "disk, or a bucket"
        )


def check_memory(what: str, need: int, advice: str):
    """Raises a WanError where fewer than `need` bytes of host memory are left; where none tells, nothing is refused.

    Args:
        what: for the message: what takes the memory.
        advice: for the message: the way out.
    """
    free = free_host_bytes()
    if free is not None and need > free:
        raise WanError(
            f"{what} takes {need / 1e9:.1f} GB of host memory and only {free / 1e9:.1f} GB are free; {advice}"
        )


def free_disk_bytes(folder: str | os.PathLike) -> tuple[Path, int]:
    """The nearest folder around that exists, and the bytes that are free on its disk."""
    place = Path(folder).absolute()
    here = next(each for each in (place, *place.parents) if each.exists())
    return here, shutil.disk_usage(here).free


def free_host_bytes() -> int | None:
    """What Linux could give to new processes without swapping, within this container; None elsewhere."""
    try:
        lines = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit, used = ((_CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        cached = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())["inactive_file"]
    except (OSError, KeyError, ValueError):
        return free
    return free if limit == "max" else min(free, int(limit) - int(used) + int(cached))
