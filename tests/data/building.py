"""`build` in a process of its own: `building.py PORT COUNT INDEX NAME N SRC OUT [MODEL]`.

SRC is a folder of videos or a dataset of frames.

Dies, as by `kill -9`, when NAME of `wan_jax.data.shards` is called for the N-th time; never if N is 0.  With a COUNT
above 1 it is one of so many processes.
Otherwise prints the number of the calls.
"""

import os
import signal
import sys
from pathlib import Path

import jax

from wan_jax.data import build, shards
from wan_jax.data.contents import Frames, Latents
from wan_jax.data.sources import FrameDataset, VideoFolder

OPTIONS = {"sizes": [(32, 32)], "lengths": [5, 9], "validation": 2}
SHARD_BYTES = 70_000  # two clips of nine frames


def run(src: Path, out: Path, model: str | None = None):
    contents = Latents(model, text=True) if model else Frames()
    source = FrameDataset(src) if (Path(src) / shards.CONFIG).exists() else VideoFolder(Path(src), **OPTIONS)
    return build.build(source, contents, out, SHARD_BYTES)


def die_at(name: str, n: int) -> list:
    """Returns a list that grows with every call."""
    calls, original = [], getattr(shards, name)

    def deadly(*args):
        calls.append(args)
        if len(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)

    setattr(shards, name, deadly)
    return calls


if __name__ == "__main__":
    port, processes, index, name, n, *arguments = sys.argv[1:]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    if int(processes) > 1:
        jax.distributed.initialize(f"localhost:{port}", int(processes), int(index))
    calls = die_at(name, int(n))
    run(*arguments)
    print(len(calls))
